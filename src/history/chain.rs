//! The hash chain: each record holds the digest of the one before it, so none can be changed, taken out or
//! moved without breaking all that follow.
//!
//! A link is a member `chain` at the end of the record: `{"seq":7,"prev":"…","hash":"…"}`. `hash` is the
//! SHA-256 of the canonical form (RFC 8785) of the record with `seq` and `prev` in it and without `hash`. Records
//! of the version `elida.cdr/1` have a form of their own instead, in which a double keeps its `.0`.

use std::io::{self, Write};

use data_encoding::HEXLOWER;
use serde::Serialize;
use serde_json::Value;
use serde_json::ser::Formatter;
use sha2::{Digest, Sha256};

use crate::session::record::SCHEMA;

/// The member of a record that holds its link.
pub const LINK: &str = "chain";

/// The `prev` of the very first record.
pub const ORIGIN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The version of records whose digest is not of the RFC's form.
pub(super) const OLDER: &str = "elida.cdr/1";

/// The largest integer of a record: beyond it a double, which is what RFC 8785 knows, cannot tell neighbours apart.
pub(super) const MAX_INTEGER: u64 = (1 << 53) - 1;

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
    /// new tip. `None` when it is no object, or not of this program's version.
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

/// The text of a record, its keys in their own order and each value as RFC 8785 writes it. An integer above
/// 2^53 - 1 is written as that.
///
/// # Errors
/// The value cannot be written as JSON.
pub(super) fn text(record: &impl Serialize) -> serde_json::Result<String> {
    let mut text = Vec::new();
    record.serialize(&mut serde_json::Serializer::with_formatter(&mut text, Numbers))?;
    String::from_utf8(text).map_err(serde::ser::Error::custom)
}

/// Writes numbers in their canonical form.
struct Numbers;

impl Formatter for Numbers {
    fn write_u64<W: ?Sized + Write>(&mut self, writer: &mut W, value: u64) -> io::Result<()> {
        write!(writer, "{}", value.min(MAX_INTEGER))
    }

    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(&serde_json_canonicalizer::to_vec(&value)?)
    }
}

/// The digest of these bytes, in hexadecimal digits.
pub(super) fn digest(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

/// The canonical form of a value (RFC 8785).
pub fn canonical(value: &Value) -> Vec<u8> {
    // Only a map whose keys are no texts, or a number that is none, could fail, and JSON has neither.
    serde_json_canonicalizer::to_vec(value).unwrap_or_default()
}

/// The form that the digest of this record is made of; `None` when its version is not known.
pub(super) fn form_of(record: &Value) -> Option<Vec<u8>> {
    match record.get("schema").and_then(Value::as_str)? {
        SCHEMA => Some(canonical(record)),
        OLDER => {
            let mut text = Vec::new();
            write_older(record, &mut text);
            Some(text)
        }
        _ => None,
    }
}

/// The form of `elida.cdr/1`: sorted keys and no white space, but numbers as `serde_json` writes them.
fn write_older(value: &Value, text: &mut Vec<u8>) {
    match value {
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by(|a, b| a.0.encode_utf16().cmp(b.0.encode_utf16()));
            text.push(b'{');
            for (index, (key, value)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    text.push(b',');
                }
                write_older(&Value::from(key.as_str()), text);
                text.push(b':');
                write_older(value, text);
            }
            text.push(b'}');
        }
        Value::Array(items) => {
            text.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(b',');
                }
                write_older(item, text);
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
        assert_eq!(text(&record).unwrap(), expected);
    }

    #[test]
    fn each_version_has_its_form() {
        let of = |schema: &str| json!({"b": [1.0, {"y": null, "x": 0.25}], "a": "é\n", "schema": schema});
        let older = form_of(&of(OLDER)).unwrap();
        let expected = r#"{"a":"é\n","b":[1.0,{"x":0.25,"y":null}],"schema":"elida.cdr/1"}"#;
        assert_eq!(String::from_utf8(older).unwrap(), expected);
        let this = form_of(&of(SCHEMA)).unwrap();
        let expected = expected.replace("1.0", "1").replace("cdr/1", "cdr/2");
        assert_eq!(String::from_utf8(this).unwrap(), expected);
        assert_eq!(form_of(&of("elida.cdr/3")), None);
        assert_eq!(form_of(&json!([])), None);
    }
}
