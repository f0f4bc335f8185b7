//! The hash chain: each record contains the digest of the one before it, so that changing, removing or reordering a
//! record breaks the chain from there on.
//!
//! The link is the last member of a record, `"chain":{"seq":7,"prev":"…","hash":"…"}`. `hash` is the SHA-256 of the
//! canonical form (RFC 8785) of the record with `seq` and `prev` but without `hash`. Records of schema `elida.cdr/1`
//! use a form of their own, in which a double keeps its `.0`.

use std::io::{self, Write};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::ser::Formatter;
use sha2::{Digest, Sha256};

use crate::session::RECORD_SCHEMA;

/// The member of a record that contains its link.
pub const LINK: &str = "chain";

/// The `prev` of record 1.
pub const ORIGIN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The record schema before the current one, with token counts in the providers' own meanings.
pub(in crate::history) const SCHEMA_V2: &str = "elida.cdr/2";
/// The oldest record schema, whose digest is not based on RFC 8785.
pub(in crate::history) const SCHEMA_V1: &str = "elida.cdr/1";

/// The largest integer in a record. RFC 8785 numbers are doubles, which represent integers exactly up to 2^53 - 1.
pub(in crate::history) const MAX_INTEGER: u64 = (1 << 53) - 1;

/// A position in the chain: the number and digest of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tip {
    /// The number of the record, starting at 1; 0 means before the first record.
    pub seq: u64,
    /// The digest of the record in hexadecimal, or [`ORIGIN`].
    pub hash: String,
}

impl Default for Tip {
    /// The position before the first record.
    fn default() -> Self {
        Self { seq: 0, hash: ORIGIN.to_owned() }
    }
}

impl Tip {
    /// Appends a record, a JSON object without `chain`, to the chain. Returns its text with the link, and the new tip;
    /// `None` if it is not a JSON object.
    pub fn link(&self, record: &str) -> Option<(String, Tip)> {
        let open = record.strip_suffix('}')?;
        let comma = if open.ends_with('{') { "" } else { "," };
        let seq = self.seq + 1;
        let linked = format!("{open}{comma}\"{LINK}\":{{\"seq\":{seq},\"prev\":\"{}\"}}}}", self.hash);
        let hash = digest(&canonical(&serde_json::from_str(&linked).ok()?));
        let open = linked.strip_suffix("}}")?;
        Some((format!("{open},\"hash\":\"{hash}\"}}}}"), Tip { seq, hash }))
    }
}

/// Serializes a record with its keys in declaration order and numbers in RFC 8785 form. Integers above
/// [`MAX_INTEGER`] are clamped.
///
/// # Errors
/// The value cannot be serialized as JSON.
pub(in crate::history) fn to_text(record: &impl Serialize) -> serde_json::Result<String> {
    let mut text = Vec::new();
    record.serialize(&mut serde_json::Serializer::with_formatter(&mut text, Numbers))?;
    String::from_utf8(text).map_err(serde::ser::Error::custom)
}

/// Writes numbers in RFC 8785 form.
struct Numbers;

impl Formatter for Numbers {
    fn write_u64<W: ?Sized + Write>(&mut self, writer: &mut W, value: u64) -> io::Result<()> {
        write!(writer, "{}", value.min(MAX_INTEGER))
    }

    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(&serde_json_canonicalizer::to_vec(&value)?)
    }
}

/// Returns the SHA-256 of the bytes in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

/// Returns the canonical form of a JSON value (RFC 8785).
pub fn canonical(value: &Value) -> Vec<u8> {
    // Fails only for non-string keys and non-finite numbers, which a `Value` cannot contain.
    serde_json_canonicalizer::to_vec(value).unwrap_or_default()
}

/// Returns the bytes that the digest of a record is computed over; `None` if its schema is unknown.
pub(in crate::history) fn hashed_form(record: &Value) -> Option<Vec<u8>> {
    match record.get("schema").and_then(Value::as_str)? {
        RECORD_SCHEMA | SCHEMA_V2 => Some(canonical(record)),
        SCHEMA_V1 => {
            let mut text = Vec::new();
            write_v1(record, &mut text);
            Some(text)
        }
        _ => None,
    }
}

/// Writes the form of `elida.cdr/1`: sorted keys and no whitespace, but numbers as `serde_json` writes them.
fn write_v1(value: &Value, text: &mut Vec<u8>) {
    match value {
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by(|a, b| a.0.encode_utf16().cmp(b.0.encode_utf16()));
            text.push(b'{');
            for (index, (key, value)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    text.push(b',');
                }
                write_v1(&Value::from(key.as_str()), text);
                text.push(b':');
                write_v1(value, text);
            }
            text.push(b'}');
        }
        Value::Array(items) => {
            text.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(b',');
                }
                write_v1(item, text);
            }
            text.push(b']');
        }
        other => text.extend_from_slice(other.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_keeps_its_keys_and_gets_a_link() {
        let (first, tip) = Tip::default().link(r#"{"z":1,"a":"x"}"#).unwrap();
        assert!(first.starts_with(r#"{"z":1,"a":"x","chain":{"seq":1,"prev":"0000"#), "{first}");
        let (second, next) = tip.link("{}").unwrap();
        assert!(second.contains(&tip.hash) && next.seq == 2, "{second}");
        let read: Value = serde_json::from_str(&second).unwrap();
        assert_eq!(read[LINK]["hash"], next.hash.as_str());
        assert_eq!(Tip::default().link("[]"), None);
    }

    #[test]
    fn a_record_is_written_in_its_own_order_with_the_numbers_of_the_rfc() {
        #[derive(Serialize)]
        struct Record {
            z: f64,
            a: Vec<f64>,
            most: u64,
        }
        let record =
            Record { z: 0.0, a: vec![1e21, 0.25, 1e-7, 333_333_333.333_333_3, 4.5e15], most: u64::MAX };
        let expected =
            r#"{"z":0,"a":[1e+21,0.25,1e-7,333333333.3333333,4500000000000000],"most":9007199254740991}"#;
        assert_eq!(to_text(&record).unwrap(), expected);
    }

    #[test]
    fn each_version_has_its_form() {
        let of = |schema: &str| json!({"b": [1.0, {"y": null, "x": 0.25}], "a": "é\n", "schema": schema});
        let older = hashed_form(&of(SCHEMA_V1)).unwrap();
        let expected = r#"{"a":"é\n","b":[1.0,{"x":0.25,"y":null}],"schema":"elida.cdr/1"}"#;
        assert_eq!(String::from_utf8(older).unwrap(), expected);
        for schema in [SCHEMA_V2, RECORD_SCHEMA] {
            let later = hashed_form(&of(schema)).unwrap();
            let expected = expected.replace("1.0", "1").replace(SCHEMA_V1, schema);
            assert_eq!(String::from_utf8(later).unwrap(), expected);
        }
        assert_eq!(hashed_form(&of("elida.cdr/4")), None);
        assert_eq!(hashed_form(&json!([])), None);
    }
}
