//! Checks answers of the control API against its OpenAPI document.

use serde_json::Value;

use super::json_schema::fits;

/// The path of the document that a target means, and its operation; `None` for what the document does not have.
pub fn operation<'a>(document: &'a Value, method: &str, target: &str) -> Option<(&'a str, &'a Value)> {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let is_match = |template: &str| {
        let (mut asked, mut known) = (path.split('/'), template.split('/'));
        loop {
            match (asked.next(), known.next()) {
                (None, None) => return true,
                (Some(asked), Some(known))
                    if asked == known || known.starts_with('{') && !asked.is_empty() => {}
                _ => return false,
            }
        }
    };
    let paths = document["paths"].as_object()?;
    // A path without a parameter wins.
    let mut found: Vec<_> = paths.iter().filter(|(template, _)| is_match(template)).collect();
    found.sort_by_key(|(template, _)| template.contains('{'));
    let (template, item) = found.first()?;
    Some((template, item.get(method.to_ascii_lowercase())?))
}

/// Holds an answer against the document: the status must be one of its operation's, the body of its schema.
pub fn check_answer(
    document: &Value,
    method: &str,
    target: &str,
    status: u16,
    body: &[u8],
) -> Result<(), String> {
    let Some((path, operation)) = operation(document, method, target) else { return Ok(()) };
    let place = format!("{method} {path} {status}");
    let response =
        operation["responses"].get(status.to_string()).ok_or_else(|| format!("{place} is not documented"))?;
    let media = ["application/json", "application/problem+json"];
    let Some(schema) = media.iter().find_map(|media| response["content"].get(*media)) else { return Ok(()) };
    let body: Value =
        serde_json::from_slice(body).map_err(|fault| format!("{place}: the body is no JSON: {fault}"))?;
    fits(document, &schema["schema"], &body).map_err(|fault| format!("{place}: {fault} in {body}"))
}
