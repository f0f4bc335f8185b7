//! The digest of a tool call's arguments: what an approval is for.

use std::collections::BTreeSet;
use std::fmt;

use data_encoding::HEXLOWER;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Digits that every double tells apart.
const EXACT_DIGITS: usize = 15;

/// Returns the SHA-256, in hexadecimal, of the canonical form (RFC 8785) of a JSON document, so that white space and the order of
/// members do not matter.
///
/// What programs may read in different ways is digested as it is written: text that is not JSON, a document with a member
/// twice, and a number that a double cannot hold exactly. Otherwise an approval would also be one for another call. No such text
/// is the canonical form of a document, so the two never agree.
pub fn arguments_digest(text: &[u8]) -> String {
    let canonical = plain(text).and_then(|document| serde_json_canonicalizer::to_vec(&document).ok());
    HEXLOWER.encode(&Sha256::digest(canonical.as_deref().unwrap_or(text)))
}

/// Returns the document if all programs read the same in it.
fn plain(text: &[u8]) -> Option<Value> {
    serde_json::from_slice::<Plain>(text).ok()?;
    if !has_exact_numbers(text) {
        return None;
    }
    serde_json::from_slice(text).ok()
}

/// Whether the numbers of a JSON document are short enough to be exact, whatever type a program reads them into.
fn has_exact_numbers(text: &[u8]) -> bool {
    let (mut in_string, mut escaped, mut digits, mut exponent) = (false, false, 0, None::<usize>);
    for byte in text {
        if in_string {
            (in_string, escaped) = (escaped || *byte != b'"', !escaped && *byte == b'\\');
            continue;
        }
        match (*byte, &mut exponent) {
            (b'0'..=b'9', Some(count)) => *count += 1,
            (b'0'..=b'9', None) => digits += 1,
            (b'e' | b'E', exponent) if digits > 0 => *exponent = Some(0),
            (b'.' | b'+' | b'-', _) => {}
            (other, exponent) => {
                (digits, *exponent) = (0, None);
                in_string = other == b'"';
            }
        }
        if digits > EXACT_DIGITS || exponent.is_some_and(|count| count > 2) {
            return false;
        }
    }
    true
}

/// A JSON document without a member twice.
struct Plain;

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Plain;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON without a member twice")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Plain, A::Error> {
                let mut names = BTreeSet::new();
                while let Some((name, _)) = map.next_entry::<String, Plain>()? {
                    if !names.insert(name) {
                        return Err(serde::de::Error::custom("a member twice"));
                    }
                }
                Ok(Plain)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Plain, A::Error> {
                while list.next_element::<Plain>()?.is_some() {}
                Ok(Plain)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Plain, E> {
                Ok(Plain)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Plain, E> {
                Ok(Plain)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Plain, E> {
                Ok(Plain)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Plain, E> {
                Ok(Plain)
            }

            fn visit_str<E>(self, _: &str) -> Result<Plain, E> {
                Ok(Plain)
            }

            fn visit_unit<E>(self) -> Result<Plain, E> {
                Ok(Plain)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(one: &str, two: &str) -> bool {
        arguments_digest(one.as_bytes()) == arguments_digest(two.as_bytes())
    }

    #[test]
    fn the_same_call_has_the_same_digest_however_it_is_written() {
        for (one, two) in [
            (r#"{"a":1,"b":[true,null]}"#, "{ \"b\" : [true, null],\n \"a\": 1.0 }"),
            (r#"{"a":"\u0041/"}"#, r#"{"a":"A\/"}"#),
            ("1e3", "1000"),
            (r#"{"a":{"y":1,"x":2}}"#, r#"{"a":{"x":2,"y":1}}"#),
        ] {
            assert!(same(one, two), "{one} and {two}");
        }
        let digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        assert_eq!(arguments_digest(b" {} "), digest, "SHA-256 of {{}}");
    }

    #[test]
    fn what_a_program_may_read_as_another_call_has_another_digest() {
        for (one, two) in [
            (r#"{"cmd":"ls"}"#, r#"{"cmd":"ls "}"#),
            (r#"{"cmd":"rm -rf /","cmd":"ls"}"#, r#"{"cmd":"ls"}"#),
            (r#"{"a":[{"cmd":"rm","cmd":"ls"}]}"#, r#"{"a":[{"cmd":"ls"}]}"#),
            (r#"{"id":9007199254740993}"#, r#"{"id":9007199254740992}"#),
            (r#"{"usd":0.10000000000000000001}"#, r#"{"usd":0.1}"#),
            (r#"{"usd":1e-400}"#, r#"{"usd":0}"#),
            (r#"{"a":"1\"","id":9007199254740993}"#, r#"{"a":"1\"","id":9007199254740992}"#),
            (r#"{"a":1}"#, r#"{"a":"1"}"#),
            (r#"{"a":1} x"#, r#"{"a":1}"#),
            ("", "{}"),
            ("{", "{}"),
        ] {
            assert!(!same(one, two), "{one} and {two}");
        }
        // Digits in strings are no numbers.
        assert!(same(r#"{"id":"9007199254740993" }"#, r#"{"id":"9007199254740993"}"#));
        assert!(same(r#"{"id":["12345678","12345678"] }"#, r#"{"id":["12345678","12345678"]}"#));
    }

    proptest::proptest! {
        #[test]
        fn any_text_has_a_digest(text: Vec<u8>) {
            assert_eq!(arguments_digest(&text).len(), 64);
        }
    }
}
