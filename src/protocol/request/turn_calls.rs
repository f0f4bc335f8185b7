//! The tool calls whose results a request brings: those at the end of its conversation. What came before was brought by an
//! earlier request.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// The most elements that are read from the end.
const MOST: usize = 256;

/// A tool call, and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct CalledTool {
    /// The tool.
    pub tool: String,
    /// Its arguments: JSON, or a string that contains it.
    pub arguments: Value,
    /// What it returned.
    pub result: Value,
    /// Whether that is an error.
    pub is_error: bool,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    contents: Option<&'a RawValue>,
}

#[derive(Default)]
struct Call {
    id: Option<String>,
    tool: String,
    arguments: Value,
}

struct Outcome {
    id: Option<String>,
    tool: Option<String>,
    result: Value,
    is_error: bool,
}

/// Returns the calls whose results a request brings, in their order. A body that is not understood has none.
pub fn called_tools(body: &[u8]) -> Vec<CalledTool> {
    let Ok(Body { messages, input, contents }) = serde_json::from_slice(body) else { return Vec::new() };
    let Some(elements) = messages.or(input).or(contents) else { return Vec::new() };
    let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(elements.get()) else { return Vec::new() };
    let (mut calls, mut outcomes) = (Vec::new(), Vec::new());
    for element in elements.iter().rev().take(MOST) {
        let Ok(element) = serde_json::from_str::<Value>(element.get()) else { break };
        let found = outcomes_of(&element);
        if !found.is_empty() {
            if !calls.is_empty() {
                break;
            }
            outcomes.extend(found.into_iter().rev());
            continue;
        }
        let found = calls_of(&element);
        let is_of_model = matches!(text(&element, "role"), Some("assistant" | "model"));
        if found.is_empty() && (!calls.is_empty() || is_of_model) {
            break;
        }
        let is_message = !found.is_empty() && is_of_model;
        calls.extend(found.into_iter().rev());
        if is_message {
            break;
        }
    }
    calls.reverse();
    outcomes.reverse();
    pair(calls, outcomes)
}

/// Gives each result its call: by the id, else the first of the same tool, else the next one.
fn pair(calls: Vec<Call>, outcomes: Vec<Outcome>) -> Vec<CalledTool> {
    let mut calls: Vec<Option<Call>> = calls.into_iter().map(Some).collect();
    let mut paired = Vec::new();
    for Outcome { id, tool, result, is_error } in outcomes {
        let fits = |call: &Option<Call>| {
            call.as_ref().is_some_and(|call| match (&id, &call.id, &tool) {
                (Some(id), Some(known), _) => id == known,
                (_, _, Some(tool)) => *tool == call.tool,
                _ => true,
            })
        };
        let found = calls.iter().position(fits).and_then(|at| calls[at].take());
        if let Some(Call { tool, arguments, .. }) = found {
            paired.push(CalledTool { tool, arguments, result, is_error });
        }
    }
    paired
}

fn text<'v>(value: &'v Value, name: &str) -> Option<&'v str> {
    value.get(name).and_then(Value::as_str)
}

fn owned(value: &Value, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| text(value, name)).map(str::to_owned)
}

fn member(value: &Value, names: &[&str]) -> Value {
    names.iter().find_map(|name| value.get(*name)).cloned().unwrap_or_default()
}

fn items<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Returns the calls of an element, in the forms of all APIs.
fn calls_of(element: &Value) -> Vec<Call> {
    let kind = text(element, "type").unwrap_or_default();
    if kind.ends_with("_call") {
        return vec![Call {
            id: owned(element, &["call_id", "id"]),
            tool: owned(element, &["name"]).unwrap_or_else(|| kind.to_owned()),
            arguments: member(element, &["arguments", "input", "action"]),
        }];
    }
    let of_list = items(element, "tool_calls").iter().filter_map(|call| {
        let function = call.get("function").unwrap_or(call);
        let (tool, arguments) = (owned(function, &["name"])?, member(function, &["arguments"]));
        Some(Call { id: owned(call, &["id"]), tool, arguments })
    });
    let blocks = items(element, "content").iter().chain(items(element, "parts"));
    let of_blocks = blocks.filter_map(|block| {
        let call = block.get("functionCall").or_else(|| block.get("toolUse"));
        let call =
            call.or_else(|| text(block, "type").is_some_and(|kind| kind == "tool_use").then_some(block))?;
        Some(Call {
            id: owned(call, &["id", "toolUseId"]),
            tool: owned(call, &["name"])?,
            arguments: member(call, &["input", "args"]),
        })
    });
    of_list.chain(of_blocks).collect()
}

/// Returns the results of an element, in the forms of all APIs.
fn outcomes_of(element: &Value) -> Vec<Outcome> {
    let kind = text(element, "type").unwrap_or_default();
    if kind.ends_with("_call_output") || text(element, "role") == Some("tool") {
        return vec![Outcome {
            id: owned(element, &["call_id", "tool_call_id"]),
            tool: owned(element, &["name", "tool_name"]),
            result: member(element, &["output", "content"]),
            is_error: text(element, "status") == Some("failed"),
        }];
    }
    let blocks = items(element, "content").iter().chain(items(element, "parts"));
    let found = blocks.filter_map(|block| {
        let result = block.get("functionResponse").or_else(|| block.get("toolResult"));
        let is_block = text(block, "type").is_some_and(|kind| kind == "tool_result");
        let result = result.or_else(|| is_block.then_some(block))?;
        Some(Outcome {
            id: owned(result, &["tool_use_id", "id", "toolUseId"]),
            tool: owned(result, &["name"]),
            result: member(result, &["content", "response"]),
            is_error: result.get("is_error") == Some(&Value::Bool(true))
                || text(result, "status") == Some("error"),
        })
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(body: &Value) -> Vec<(String, String, String, bool)> {
        let found = called_tools(body.to_string().as_bytes()).into_iter();
        found.map(|one| (one.tool, one.arguments.to_string(), one.result.to_string(), one.is_error)).collect()
    }

    fn one(tool: &str, arguments: &str, result: &str, is_error: bool) -> (String, String, String, bool) {
        (tool.into(), arguments.into(), result.into(), is_error)
    }

    #[test]
    fn calls_and_results_of_the_last_turn_are_found_in_every_api() {
        let before = json!({"role": "user", "content": "go"});
        // Blocks in messages, two at once, and a text after the results.
        let body = json!({"model": "m", "messages": [
            before,
            {"role": "assistant", "content": [{"type": "tool_use", "id": "0", "name": "Old", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "0", "content": "old"}]},
            {"role": "assistant", "content": [
                {"type": "text", "text": "x"},
                {"type": "tool_use", "id": "1", "name": "Bash", "input": {"command": "ls"}},
                {"type": "tool_use", "id": "2", "name": "Read", "input": {"path": "a"}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "2", "content": "two", "is_error": true},
                {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "one"}]},
                {"type": "text", "text": "reminder"}]},
        ]});
        assert_eq!(
            found(&body),
            [
                one("Read", r#"{"path":"a"}"#, r#""two""#, true),
                one("Bash", r#"{"command":"ls"}"#, r#"[{"text":"one","type":"text"}]"#, false),
            ]
        );
        // Messages of the role tool, with and without ids.
        let body = json!({"messages": [
            before,
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "ls", "arguments": "{\"x\":1}"}},
                {"id": "b", "type": "function", "function": {"name": "cat", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "a", "content": "one"},
            {"role": "tool", "tool_call_id": "b", "content": "two"},
            {"role": "user", "content": "and now?"},
        ]});
        assert_eq!(
            found(&body),
            [one("ls", r#""{\"x\":1}""#, r#""one""#, false), one("cat", r#""{}""#, r#""two""#, false)]
        );
        let body = json!({"messages": [
            {"role": "assistant", "tool_calls": [{"function": {"name": "ls", "arguments": {"x": 1}}}]},
            {"role": "tool", "tool_name": "ls", "content": "one"},
        ]});
        assert_eq!(found(&body), [one("ls", r#"{"x":1}"#, r#""one""#, false)]);
        // Items.
        let body = json!({"input": [
            {"type": "function_call", "call_id": "0", "name": "old", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "0", "output": "old"},
            {"type": "reasoning", "summary": []},
            {"type": "function_call", "call_id": "1", "name": "shell", "arguments": "{\"c\":1}"},
            {"type": "custom_tool_call", "call_id": "2", "name": "patch", "input": "text"},
            {"type": "custom_tool_call_output", "call_id": "2", "output": "two"},
            {"type": "function_call_output", "call_id": "1", "output": "one"},
        ]});
        assert_eq!(
            found(&body),
            [one("patch", r#""text""#, r#""two""#, false), one("shell", r#""{\"c\":1}""#, r#""one""#, false)]
        );
        // Parts.
        let body = json!({"contents": [
            {"role": "user", "parts": [{"text": "go"}]},
            {"role": "model", "parts": [{"functionCall": {"name": "ls", "args": {"x": 1}}}]},
            {"role": "user", "parts": [{"functionResponse": {"name": "ls", "response": {"out": "one"}}}]},
        ]});
        assert_eq!(found(&body), [one("ls", r#"{"x":1}"#, r#"{"out":"one"}"#, false)]);
    }

    #[test]
    fn what_brings_no_results_has_none() {
        for body in [
            json!({"messages": [{"role": "user", "content": "go"}]}),
            json!({"input": "go"}),
            json!({"messages": [
                {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "Bash", "input": {}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "x"}]},
                {"role": "assistant", "content": "done"},
                {"role": "user", "content": "thanks"},
            ]}),
            // Whose call is elsewhere (`previous_response_id`).
            json!({"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]}),
            json!([]),
            json!({"messages": {"role": "tool"}}),
        ] {
            assert_eq!(found(&body), [], "{body}");
        }
        assert!(called_tools(b"{\"messages\":[").is_empty());
    }

    proptest::proptest! {
        #[test]
        fn any_body_is_read_without_a_panic(body: Vec<u8>, text in "\\{\"messages\":\\[[\\{\\}\\[\\]\":,a-c]{0,40}") {
            called_tools(&body);
            called_tools(text.as_bytes());
        }
    }
}
