//! Every example of `docs/control-api.md` agrees with the OpenAPI document.
//!
//! Under a heading with a method and a path, the commands call that operation, a JSON block is its answer, and a block
//! of the feed is its events. A body after `-d` is its request.

use std::path::Path;

use serde_json::Value;

use super::answers::operation;
use super::document;
use super::json_schema::fits;

/// A fenced block with the heading above it.
struct Block {
    heading: String,
    language: String,
    text: String,
}

fn page() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/control-api.md")).unwrap()
}

fn blocks() -> Vec<Block> {
    let (mut blocks, mut heading, mut open): (Vec<Block>, String, Option<Block>) = Default::default();
    for line in page().lines() {
        match (&mut open, line.strip_prefix("```")) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.text.push_str(&format!("{line}\n")),
            (None, Some(language)) => {
                let (heading, language) = (heading.clone(), language.to_owned());
                open = Some(Block { heading, language, text: String::new() });
            }
            (None, None) if line.starts_with('#') => line.clone_into(&mut heading),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// The method and the paths that a heading names: "### `GET /health/liveness`, `/health/readiness`".
fn named(heading: &str) -> Option<(&str, Vec<&str>)> {
    let mut words = heading.split('`').skip(1).step_by(2);
    let (method, first) = words.next()?.split_once(' ')?;
    Some((method, std::iter::once(first).chain(words).map(|path| path.split('?').next().unwrap()).collect()))
}

/// The method, the target and the body of a curl command.
fn called(command: &str) -> (&str, String, Option<Value>) {
    let words: Vec<&str> = command.split_whitespace().collect();
    let target = words.iter().map(|word| word.trim_matches('\'')).find_map(|word| word.split_once(":9090"));
    let (_, target) = target.unwrap_or_else(|| panic!("no target: {command}"));
    let body = command.split_once("-d '").map(|(_, rest)| rest.split('\'').next().unwrap());
    let body = body.map(|body| serde_json::from_str(body).unwrap_or_else(|fault| panic!("{body}: {fault}")));
    let method = ["POST", "DELETE"].into_iter().find(|method| command.contains(&format!("-X {method}")));
    (method.unwrap_or("GET"), target.to_owned(), body)
}

fn check(document: &Value, schema: &Value, example: &Value, place: &str) {
    fits(document, schema, example).unwrap_or_else(|fault| panic!("{place}: {fault}\n{example:#}"));
}

#[test]
fn every_operation_has_its_section_and_every_section_its_operation() {
    let (document, page) = (document(), page());
    let mut described = Vec::new();
    for heading in page.lines().filter(|line| line.starts_with("### `")) {
        let (method, paths) = named(heading).unwrap_or_else(|| panic!("{heading}"));
        for path in paths {
            let found = document["paths"].get(path).and_then(|item| item.get(method.to_lowercase()));
            assert!(found.is_some(), "{heading}: the document has no {method} {path}");
            described.push((method.to_lowercase(), path.to_owned()));
        }
    }
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let is_described = described.contains(&(method.clone(), path.clone()));
            assert!(is_described, "docs/control-api.md has no section for {method} {path}");
        }
    }
}

#[test]
fn every_command_calls_its_operation_with_known_parameters() {
    let document = document();
    let mut commands = 0;
    for Block { heading, language, text } in blocks() {
        if language != "sh" || !text.starts_with("curl") {
            continue;
        }
        let (method, target, body) = called(&text);
        let (path, operation) =
            operation(&document, method, &target).unwrap_or_else(|| panic!("unknown: {method} {target}"));
        let (named_method, paths) = named(&heading).unwrap();
        assert!(named_method == method && paths.contains(&path), "{heading}: {text}");
        let query = target.split_once('?').map_or("", |(_, query)| query);
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let parameters = operation["parameters"].as_array().unwrap();
            let known = parameters.iter().find(|known| known["in"] == "query" && known["name"] == *name);
            let schema = &known.unwrap_or_else(|| panic!("{text}: {name} is not documented"))["schema"];
            let value = match schema["type"] == "integer" {
                true => serde_json::from_str(&value).unwrap(),
                false => Value::from(value.into_owned()),
            };
            check(&document, schema, &value, &text);
        }
        if let Some(body) = body {
            check(
                &document,
                &operation["requestBody"]["content"]["application/json"]["schema"],
                &body,
                &text,
            );
        }
        commands += 1;
    }
    assert!(commands >= 15, "{commands} commands");
}

#[test]
fn every_json_example_is_an_answer_of_its_operation() {
    let document = document();
    let mut examples = 0;
    for Block { heading, language, text } in blocks().into_iter().filter(|block| block.language == "json") {
        for line in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
            let example = line.unwrap_or_else(|fault| panic!("{heading}, {language}: {fault}\n{text}"));
            let schema = match example["type"].as_str() {
                Some(name) if name.starts_with("urn:elida:") => {
                    document["components"]["schemas"]["Problem"].clone()
                }
                _ => {
                    let (method, paths) = named(&heading).unwrap_or_else(|| panic!("{heading}: {text}"));
                    let operation = &document["paths"][paths[0]][method.to_lowercase()];
                    let responses = &operation["responses"];
                    let answer = responses.get("200").unwrap_or(&responses["201"]);
                    answer["content"]["application/json"]["schema"].clone()
                }
            };
            assert!(schema.is_object(), "{heading}: no schema for {example}");
            check(&document, &schema, &example, &heading);
            examples += 1;
        }
    }
    assert!(examples >= 15, "{examples} examples");
}

#[test]
fn every_event_example_has_the_form_of_its_event() {
    let document = document();
    let events = &document["paths"]["/control/events"]["get"]["x-events"];
    let feed = blocks().into_iter().find(|block| block.text.starts_with("event: ")).unwrap().text;
    let mut shown = Vec::new();
    for event in feed.trim().split("\n\n") {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
        let name = field("event: ");
        let data: Value = serde_json::from_str(&field("data: ")).unwrap();
        assert!(events[&name].is_object(), "{name} is no event");
        check(&document, &events[&name], &data, &name);
        shown.push(name);
    }
    assert!(shown.len() >= 3, "{shown:?}");
}

#[test]
fn the_table_of_errors_lists_every_code() {
    let page = page();
    for code in crate::control::api::error::ErrorCode::ALL {
        let status = format!("| {} |", code.status());
        let row = page.lines().find(|line| line.starts_with(&status)).unwrap_or_else(|| panic!("{status}"));
        assert!(row.contains(&format!("`{}`", code.name())), "{} is not under {status}", code.name());
    }
}
