//! The OpenAPI document is well formed, fresh and complete.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use serde_json::Value;

use super::document;
use crate::control::api::error::ErrorCode;

/// Methods of a path item.
const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

fn each<'a>(value: &'a Value, visit: &mut impl FnMut(&'a Value)) {
    visit(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| each(item, visit)),
        Value::Object(members) => members.values().for_each(|member| each(member, visit)),
        _ => {}
    }
}

fn operations(document: &Value) -> Vec<(String, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            let operations = item.as_object().unwrap().iter();
            operations.map(move |(method, operation)| (format!("{method} {path}"), path.as_str(), operation))
        })
        .collect()
}

#[test]
fn the_file_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let file = std::fs::read_to_string(path).unwrap_or_default();
    assert!(file == format!("{:#}\n", document()), "docs/openapi.json is stale; run: just schema");
}

#[test]
fn the_document_follows_openapi_3_1() {
    let document = document();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    assert!(document["info"]["title"].is_string() && document["info"]["version"].is_string());
    let tags: HashSet<_> = document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    let schemes = document["components"]["securitySchemes"].as_object().unwrap();
    let mut ids = HashSet::new();
    for (place, path, operation) in operations(&document) {
        let (method, _) = place.split_once(' ').unwrap();
        assert!(METHODS.contains(&method) && path.starts_with('/'), "{place}");
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{place}: the id is taken");
        assert!(operation["tags"].as_array().unwrap().iter().all(|tag| tags.contains(tag)), "{place}");
        let summary = operation["summary"].as_str().unwrap();
        assert!(!summary.is_empty() && !summary.ends_with('.'), "{place}: {summary}");
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let mut names = HashSet::new();
        for parameter in parameters {
            let (name, within) = (parameter["name"].as_str().unwrap(), parameter["in"].as_str().unwrap());
            assert!(names.insert((name, within)), "{place}: {name} is there twice");
            assert!(parameter["schema"].is_object(), "{place}: {name}");
            assert!(
                parameter["description"].as_str().is_some_and(|text| !text.is_empty()),
                "{place}: {name}"
            );
            assert_eq!(parameter["required"] == true, within == "path", "{place}: {name}");
        }
        assert_eq!(names.contains(&("id", "path")), path.contains("{id}"), "{place}");
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.contains_key("200") || responses.contains_key("201"), "{place}");
        for (status, response) in responses {
            assert!(
                status == "default" || (200..600).contains(&status.parse().unwrap()),
                "{place}: {status}"
            );
            assert!(response["description"].is_string(), "{place}: {status}");
            assert!(!response["content"].as_object().unwrap().is_empty(), "{place}: {status}");
        }
        let security = operation["security"].as_array().into_iter().flatten();
        for scheme in security.flat_map(|option| option.as_object().unwrap().keys()) {
            assert!(schemes.contains_key(scheme), "{place}: {scheme}");
        }
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_schema_is_used() {
    let document = document();
    let mut used = BTreeSet::new();
    each(&document, &mut |value| {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} is not local"));
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
            used.insert(reference.rsplit('/').next().unwrap());
        }
    });
    let all: BTreeSet<_> =
        document["components"]["schemas"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(used, all);
}

#[test]
fn every_error_code_is_of_some_operation() {
    let document = document();
    let mut found = HashSet::new();
    for (place, _, operation) in operations(&document) {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let schema = &response["content"]["application/problem+json"]["schema"];
            for code in schema["properties"]["code"]["enum"].as_array().into_iter().flatten() {
                let known = ErrorCode::ALL.iter().find(|known| known.name() == code).unwrap();
                assert_eq!(known.status().to_string(), *status, "{place}: {code}");
                found.insert(known.name());
            }
        }
    }
    // No operation has these: the path or the method is unknown.
    found.extend(["not_found", "method_not_allowed"]);
    let all: HashSet<_> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
    assert_eq!(found, all);
}

#[test]
fn every_member_is_described() {
    let document = document();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for (name, schema) in schemas {
        for (key, member) in schema["properties"].as_object().into_iter().flatten() {
            assert!(member["description"].is_string(), "{name}.{key} has no description");
        }
    }
}
