//! The hash chain: each record holds the digest of the one before it, so none can be changed, taken out or
//! moved without breaking all that follow.
//!
//! A link is a member `chain` at the end of the record: `{"seq":7,"prev":"…","hash":"…"}`. `hash` is the
//! SHA-256 of the canonical form of the record with `seq` and `prev` in it and without `hash`. Canonical is as
//! RFC 8785 has it: no white space, keys sorted; numbers are integers or the shortest form of a double.

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::settings::hex::hex;

/// The member of a record that holds its link.
pub const LINK: &str = "chain";

/// The `prev` of the very first record.
pub const ORIGIN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Where the chain stands: the last record's number and digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tip {
    /// Number of the record; the first is 1.
    pub seq: u64,
    /// Its digest, in hexadecimal digits.
    pub hash: String,
}

impl Default for Tip {
    /// Before the first record.
    fn default() -> Self {
        Self { seq: 0, hash: ORIGIN.to_owned() }
    }
}

impl Tip {
    /// Links a record, a JSON object without `chain`, behind this one; gives its text with the link and the
    /// new tip. `None` when it is no object.
    pub fn link(&self, record: &str) -> Option<(String, Tip)> {
        let open = record.strip_suffix('}')?;
        let comma = if open.ends_with('{') { "" } else { "," };
        let seq = self.seq + 1;
        let linked = format!("{open}{comma}\"{LINK}\":{{\"seq\":{seq},\"prev\":\"{}\"}}}}", self.hash);
        let hash = digest(&serde_json::from_str(&linked).ok()?);
        let open = linked.strip_suffix("}}")?;
        Some((format!("{open},\"hash\":\"{hash}\"}}}}"), Tip { seq, hash }))
    }
}

/// The digest of a value's canonical form, in hexadecimal digits.
pub fn digest(value: &Value) -> String {
    hex(&Sha256::digest(canonical(value)))
}

/// The canonical form (RFC 8785).
pub fn canonical(value: &Value) -> Vec<u8> {
    let mut text = Vec::new();
    write(value, &mut text);
    text
}

fn write(value: &Value, text: &mut Vec<u8>) {
    match value {
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by(|a, b| a.0.encode_utf16().cmp(b.0.encode_utf16()));
            text.push(b'{');
            for (index, (key, value)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    text.push(b',');
                }
                write(&Value::from(key.as_str()), text);
                text.push(b':');
                write(value, text);
            }
            text.push(b'}');
        }
        Value::Array(items) => {
            text.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(b',');
                }
                write(item, text);
            }
            text.push(b']');
        }
        // Texts, numbers and words are written as everywhere.
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
    fn the_order_of_keys_does_not_matter_to_the_digest() {
        let value: Value = serde_json::from_str(r#"{"b":[1,{"y":null,"x":0.25}],"a":"é\n"}"#).unwrap();
        assert_eq!(canonical(&value), r#"{"a":"é\n","b":[1,{"x":0.25,"y":null}]}"#.as_bytes());
        assert_eq!(digest(&json!({"b": 1, "a": 2})), digest(&json!({"a": 2, "b": 1})));
        assert_ne!(digest(&json!({"a": 1})), digest(&json!({"a": "1"})));
    }
}
