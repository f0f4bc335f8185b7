//! The JSON Schema of the configuration file, for completion and validation in editors.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::config_file::ConfigFile;
use super::renamed::RENAMED;

/// Returns the schema of the file (JSON Schema 2020-12), generated from the types that deserialize it.
pub fn schema() -> Value {
    let mut schema =
        SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<ConfigFile>().to_value();
    schema["title"] = json!("ELIDA configuration");
    if let Some(schema) = schema.as_object_mut() {
        // The defaults of whole sections repeat those of their keys.
        schema.remove("default");
    }
    for renamed in &RENAMED {
        let properties = &mut schema["$defs"][renamed.definition]["properties"];
        let mut property = properties[renamed.new].clone();
        property["deprecated"] = json!(true);
        property["description"] = json!(format!("Old name of `{}`.", renamed.new));
        properties[renamed.old] = property;
    }
    for definition in schema["$defs"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        soften(definition);
    }
    soften(&mut schema);
    schema
}

/// Allows what loading allows beyond the types: an empty section means its defaults, and a reference such as
/// `${env:NAME}` may replace an enum value.
fn soften(definition: &mut Value) {
    for property in definition["properties"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        if property["default"].is_object()
            && let Value::Object(property) = property
        {
            // The keys of the section have their own.
            property.remove("default");
        }
        if property.get("$ref").is_some()
            && let Value::Object(property) = property
        {
            let reference = json!({"$ref": property.remove("$ref")});
            let reference_to_text = json!({"type": "string", "pattern": "\\$\\{(env|file):"});
            property.insert("anyOf".into(), json!([reference, {"type": "null"}, reference_to_text]));
        } else if property["type"] == "array" {
            property["type"] = json!(["array", "null"]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::settings::json_schema::fits;

    fn written() -> String {
        format!("{:#}\n", schema())
    }

    #[test]
    fn the_file_is_fresh() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/schema.json");
        let file = std::fs::read_to_string(path).unwrap_or_default();
        assert!(file == written(), "conf/schema.json is old; run: just schema");
    }

    fn check(text: &str) -> Result<(), String> {
        let schema = schema();
        fits(&schema, &schema, &serde_yaml::from_str(text).unwrap())
    }

    #[test]
    fn the_shipped_files_fit_and_faults_do_not() {
        let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
        let examples = std::fs::read_dir(conf.join("examples")).unwrap();
        let mut files: Vec<_> = examples.map(|file| file.unwrap().path()).collect();
        files.push(conf.join("elida.yaml"));
        for file in files {
            check(&std::fs::read_to_string(&file).unwrap())
                .unwrap_or_else(|fault| panic!("{}: {fault}", file.display()));
        }
        let faulty = [
            ("lisen: x", "unknown key lisen"),
            ("listen: 1", "is not"),
            ("server: { timeouts: { read: 30 } }", "above 0"),
            ("session: { scope: all }", "not a known word"),
            ("backends: { a: { url: http://x } }", "type is missing"),
            ("session: { identity: [{ source: hedder, name: x }] }", "not a known word"),
        ];
        for (text, expected) in faulty {
            let fault = check(text).expect_err(text);
            assert!(fault.contains(expected), "{text}: {fault}");
        }
        check("server:\nbackends:\nlogging: { level: '${env:LEVEL}' }\nsession: { idle_timeout: 0 }")
            .unwrap();
    }

    #[test]
    fn every_key_is_described() {
        let schema = schema();
        let definitions = schema["$defs"].as_object().unwrap().values().chain([&schema]);
        for (key, property) in definitions.filter_map(|one| one["properties"].as_object()).flatten() {
            assert!(property["description"].is_string(), "{key} has no description");
        }
    }
}
