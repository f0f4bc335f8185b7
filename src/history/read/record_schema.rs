//! The JSON Schema of a record: `docs/cdr.schema.json`, for programs that read exports.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::history::proof::hash_chain::LINK;
use crate::session::Record;

/// Generates the JSON Schema (2020-12) of a record from its Rust type. Later versions may add keys.
pub fn schema() -> Value {
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut schema = generator.into_root_schema_for::<Record>().to_value();
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
