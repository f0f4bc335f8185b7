//! The JSON Schema of a record: `docs/cdr.schema.json`, for programs that read exports.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::{Value, json};

use crate::history::proof::hash_chain::{LINK, SCHEMA_V1, SCHEMA_V2};
use crate::protocol::facts::usage::Usage;
use crate::session::{RECORD_SCHEMA, Record, RequestLine};

/// A record with its link of the hash chain, as the history stores and exports it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(transform = any_version)]
pub struct ChainedRecord {
    /// The record.
    #[serde(flatten)]
    pub record: Record,
    /// Its link of the hash chain.
    pub chain: ChainLink,
}

/// The link of a record in the hash chain.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ChainLink {
    /// Position in the chain; the first record has 1.
    pub seq: u64,
    /// SHA-256 of the record before, in hex.
    pub prev: String,
    /// SHA-256 of this record in canonical JSON (RFC 8785), with `seq` and `prev` and without `hash`, in hex.
    pub hash: String,
}

/// A request, as the history stores it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct StoredRequest<'a> {
    /// The request.
    #[serde(flatten)]
    pub line: &'a RequestLine,
    /// Token counts; absent when the provider reported none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// Lets the schema of a record accept those of older versions, which a history keeps as they were written.
fn any_version(record: &mut Schema) {
    if let Some(version) = record.pointer_mut("/properties/schema") {
        *version = json!({
            "description": "The version of the record's form. An older one is found in histories and exports only.",
            "type": "string",
            "enum": [SCHEMA_V1, SCHEMA_V2, RECORD_SCHEMA],
        });
    }
}

/// Generates the JSON Schema (2020-12) of a record from its Rust type. Later versions may add keys.
pub fn schema() -> Value {
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut schema = generator.into_root_schema_for::<Record>();
    any_version(&mut schema);
    let mut schema = schema.to_value();
    schema["title"] = json!("ELIDA call detail record");
    let digest = json!({"type": "string", "pattern": "^[0-9a-f]{64}$"});
    schema["properties"][LINK] = json!({
        "description": "Its place in the history's chain; records in the log have none.",
        "type": "object",
        "properties": {"seq": {"type": "integer", "minimum": 1}, "prev": digest, "hash": digest},
        "required": ["seq", "prev", "hash"],
        "additionalProperties": false,
    });
    schema
}
