//! The calls of tools in a body of JSON-RPC, one by one: a batch may have several.

use crate::protocol::json::whole::{Token, Tokens, unescape};

/// The method that calls a tool.
const CALL: &str = "tools/call";

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcCall<'b> {
    /// The tool; `None` when it is named by no text, or not at all.
    pub tool: Option<String>,
    /// The arguments, as written; `None` without any.
    pub arguments: Option<&'b [u8]>,
    /// The server may read another tool or other arguments: a member is there twice.
    pub is_unclear: bool,
}

/// Finds the calls of tools in a body. Names of members match in any ASCII case, as servers in Go read them.
pub fn tool_calls(body: &[u8]) -> Vec<RpcCall<'_>> {
    let mut calls = Vec::new();
    let mut tokens = Tokens::new(body);
    while tokens.next_position() < body.len() {
        let mut ahead = tokens.clone();
        match ahead.next() {
            // A batch: its elements come next.
            Some(Token::Open { is_object: false } | Token::Close) => tokens = ahead,
            _ => read_message(tokens.skip_value(), &mut calls),
        }
    }
    calls
}

fn read_message<'b>(message: &'b [u8], calls: &mut Vec<RpcCall<'b>>) {
    let (mut is_call, mut methods, mut params) = (false, 0, Vec::new());
    members(message, &mut |key, value| {
        if key.eq_ignore_ascii_case(b"method") {
            methods += 1;
            is_call |= text(value).is_none_or(|method| method == CALL);
        } else if key.eq_ignore_ascii_case(b"params") {
            params.push(value);
        }
    });
    if !is_call {
        return;
    }
    let (mut tools, mut arguments) = (Vec::new(), Vec::new());
    for params in &params {
        members(params, &mut |key, value| {
            if key.eq_ignore_ascii_case(b"name") {
                tools.push(text(value));
            } else if key.eq_ignore_ascii_case(b"arguments") {
                arguments.push(value);
            }
        });
    }
    let is_unclear = methods > 1 || params.len() > 1 || tools.len() > 1 || arguments.len() > 1;
    // Each that a server may read is judged.
    let tools = if tools.is_empty() { vec![None] } else { tools };
    let arguments = if arguments.is_empty() { vec![None] } else { arguments.into_iter().map(Some).collect() };
    for tool in &tools {
        calls.extend(arguments.iter().map(|arguments| RpcCall {
            tool: tool.clone(),
            arguments: *arguments,
            is_unclear,
        }));
    }
}

/// Calls `on` with each member of an object: its name as it reads, its value as written. Nothing else has any.
fn members<'b>(object: &'b [u8], on: &mut dyn FnMut(&[u8], &'b [u8])) {
    let mut tokens = Tokens::new(object);
    if !matches!(tokens.next(), Some(Token::Open { is_object: true })) {
        return;
    }
    loop {
        let mut ahead = tokens.clone();
        match ahead.next() {
            None | Some(Token::Close) => return,
            Some(Token::Text { raw, is_key: true }) => {
                tokens = ahead;
                let mut key = Vec::with_capacity(raw.len());
                unescape(&mut key, raw);
                if !matches!(tokens.clone().next(), None | Some(Token::Close)) {
                    on(&key, tokens.skip_value());
                }
            }
            Some(_) => {
                tokens.skip_value();
            }
        }
    }
}

/// Returns the text that a value is, if it is one.
fn text(value: &[u8]) -> Option<String> {
    let raw = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let mut plain = Vec::with_capacity(raw.len());
    unescape(&mut plain, raw);
    String::from_utf8(plain).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(body: &str) -> Vec<(Option<String>, Option<String>, bool)> {
        let owned = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let calls = tool_calls(body.as_bytes()).into_iter();
        calls.map(|call| (call.tool, call.arguments.map(owned), call.is_unclear)).collect()
    }

    fn call(tool: &str, arguments: &str, is_unclear: bool) -> (Option<String>, Option<String>, bool) {
        (Some(tool.to_owned()), Some(arguments.to_owned()), is_unclear)
    }

    #[test]
    fn calls_are_found_in_any_body() {
        let one = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a\"","arguments":{"x":[1,"}"]}}}"#;
        assert_eq!(calls(one), [call("a\"", r#"{"x":[1,"}"]}"#, false)]);
        let batch = format!(
            r#"[{{"method":"ping"}}, {one},{{"params":{{"arguments":{{}},"name":"b"}},"method":"tools\/call"}}]"#
        );
        assert_eq!(calls(&batch), [call("a\"", r#"{"x":[1,"}"]}"#, false), call("b", "{}", false)]);
        assert_eq!(calls(r#"{"method":"tools/list","params":{"name":"tools/call"}}"#), []);
        assert_eq!(
            calls(r#"{"METHOD":"tools/call","Params":{"Name":"a"}}"#),
            [(Some("a".into()), None, false)]
        );
        assert_eq!(calls(r#"{"method":"tools/call"}"#), [(None, None, false)]);
        assert_eq!(calls(r#"{"method":"tools/call","params":{"name":7}}"#), [(None, None, false)]);
    }

    #[test]
    fn all_that_a_server_may_read_are_judged() {
        let doubled =
            r#"{"method":"ping","method":"tools/call","params":{"name":"a","name":"b","arguments":1}}"#;
        assert_eq!(calls(doubled), [call("a", "1", true), call("b", "1", true)]);
        let params =
            r#"{"method":"tools/call","params":{"name":"a","arguments":1},"params":{"arguments":2}}"#;
        assert_eq!(calls(params), [call("a", "1", true), call("a", "2", true)]);
        assert_eq!(
            calls(r#"{"method":["tools/call"],"params":{"name":"a"}}"#),
            [(Some("a".into()), None, false)]
        );
        for cut in ["{", r#"{"method":"tools/call","params":{"name":"a"#, "[[[", r#"{"method""#] {
            calls(cut);
        }
    }
}
