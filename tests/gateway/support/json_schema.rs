//! The subset of JSON Schema that `conf/schema.json`, `docs/cdr.schema.json` and `docs/openapi.json` use.

use regex::Regex;
use serde_json::{Value, json};

/// Validates a value against a part of the schema `root`; the error says where they differ.
pub fn fits(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let at = reference.strip_prefix('#').and_then(|path| root.pointer(path)).expect(reference);
        return fits(root, at, value);
    }
    for one in schema["allOf"].as_array().into_iter().flatten() {
        fits(root, one, value)?;
    }
    if let Some(any) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        let faults: Vec<String> = any.iter().filter_map(|one| fits(root, one, value).err()).collect();
        return if faults.len() < any.len() { Ok(()) } else { Err(faults.join(" | ")) };
    }
    scalar(schema, value)?;
    for item in value.as_array().into_iter().flatten() {
        fits(root, &schema["items"], item)?;
    }
    for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        value.get(key).ok_or_else(|| format!("{key} is missing"))?;
    }
    for (key, below) in value.as_object().into_iter().flatten() {
        let known = schema["properties"].get(key).or(Some(&schema["additionalProperties"]));
        match known.filter(|known| **known != json!(false)) {
            Some(known) => fits(root, known, below).map_err(|fault| format!("{key}: {fault}"))?,
            None => return Err(format!("unknown key {key}")),
        }
    }
    Ok(())
}

/// Checks the keywords that do not look inside the value.
fn scalar(schema: &Value, value: &Value) -> Result<(), String> {
    let words = schema["enum"].as_array().map(Vec::as_slice);
    let words = words.or(schema.get("const").map(std::slice::from_ref));
    if words.is_some_and(|words| !words.contains(value)) {
        return Err(format!("{value} is not a known word"));
    }
    let kinds = &schema["type"];
    let is_one = |kind| kinds == kind || kinds.as_array().is_some_and(|kinds| kinds.contains(&json!(kind)));
    let is_kind = match value {
        Value::Null => is_one("null"),
        Value::Bool(_) => is_one("boolean"),
        Value::Number(number) => is_one("number") || !number.is_f64() && is_one("integer"),
        Value::String(_) => is_one("string"),
        Value::Array(_) => is_one("array"),
        Value::Object(_) => is_one("object"),
    };
    if !kinds.is_null() && !is_kind {
        return Err(format!("{value} is not {kinds}"));
    }
    if let (Some(number), Some(limit)) = (value.as_f64(), schema["maximum"].as_f64())
        && number > limit
    {
        return Err(format!("{value} is above {limit}"));
    }
    if let (Some(number), Some(limit)) = (value.as_f64(), schema["minimum"].as_f64())
        && number < limit
    {
        return Err(format!("{value} is below {limit}"));
    }
    if let (Some(pattern), Some(text)) = (schema["pattern"].as_str(), value.as_str())
        && !Regex::new(pattern).expect(pattern).is_match(text)
    {
        return Err(format!("{value} does not match {pattern}"));
    }
    if schema["format"] == "date-time"
        && value.as_str().is_some_and(|time| time.parse::<jiff::Timestamp>().is_err())
    {
        return Err(format!("{value} is no time"));
    }
    Ok(())
}
