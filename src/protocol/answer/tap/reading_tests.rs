//! Tests of answers that programs read in several ways: each reading is told, or that there are several.

use super::*;
use crate::protocol::answer::socket::SocketTap;
use crate::protocol::wire::websocket::text_frame;

/// What a listener heard of calls, by name and arguments, of texts and results, and whether it is ambiguous.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    text: String,
    results: String,
    calls: Vec<(String, String)>,
    is_ambiguous: bool,
}

impl Heard {
    fn hear(&mut self, event: Event<'_>) {
        match event {
            Event::Text(text) => self.text += &String::from_utf8_lossy(text),
            Event::Result(text) => self.results += &String::from_utf8_lossy(text),
            Event::Call(call) => self.calls.push((call.name.clone(), call.arguments.clone())),
            Event::Ambiguous => self.is_ambiguous = true,
            _ => {}
        }
    }
}

/// Reads an answer in pieces of several sizes, which must not matter.
fn heard(dialect: Dialect, framing: Framing, answer: &str) -> Heard {
    let read = |size: usize| {
        let mut heard = Heard::default();
        let mut tap = ResponseTap::listening(dialect, framing, Coding::Identity);
        for mut piece in answer.as_bytes().chunks(size) {
            while !piece.is_empty() {
                let used = tap.listen_unit(piece, &mut |event| heard.hear(event));
                piece = &piece[used.max(1)..];
            }
        }
        tap.end_listening(&mut |event| heard.hear(event));
        heard
    };
    let whole = read(answer.len());
    for size in [1, 3, 40] {
        assert_eq!(read(size), whole, "{answer} in pieces of {size}");
    }
    whole
}

fn sse(events: &[&str]) -> String {
    events.iter().map(|data| format!("data: {data}\n\n")).collect()
}

#[test]
fn what_follows_the_first_text_is_told_in_every_framing() {
    let said = r#"{"choices":[{"index":0,"delta":{"content":"a"},"message":{"content":"a"}}]}"#;
    for (behind, is_told) in
        [("", false), ("  ", false), (said, true), ("x", true), (" [1]", true), ("\u{0}", true)]
    {
        let text = format!("{said}{behind}");
        let whole = heard(Dialect::OPENAI_CHAT, Framing::Json, &format!("{text}\n"));
        assert_eq!(whole.is_ambiguous, is_told, "{text}");
        let stream = heard(Dialect::OPENAI_CHAT, Framing::Sse, &sse(&[&text, said, "[DONE]"]));
        assert_eq!((stream.is_ambiguous, &*stream.text), (is_told, "aaaa"), "{text}");
        let lines = format!(r#"{{"message":{{"content":"a"}}}}{behind}{}"#, "\n");
        assert_eq!(heard(Dialect::OLLAMA, Framing::Ndjson, &lines).is_ambiguous, is_told, "{lines}");
        let array = format!(r#"[{{"candidates":[]}},{{"candidates":[]}}]{behind}"#);
        assert_eq!(heard(Dialect::GEMINI, Framing::Json, &array).is_ambiguous, is_told, "{array}");
        let mut tap = SocketTap::listening(Dialect::OPENAI_RESPONSES);
        let mut of_socket = Heard::default();
        let frame =
            text_frame(format!(r#"{{"type":"response.output_text.delta","delta":"a"}}{behind}"#).as_bytes());
        let mut rest = &frame[..];
        while !rest.is_empty() {
            let read = tap.listen_message(rest, &mut |event| of_socket.hear(event), &mut |_, _, _| {}).max(1);
            rest = &rest[read..];
        }
        assert_eq!(of_socket.is_ambiguous, is_told, "a socket, {behind}");
    }
}

#[test]
fn members_are_read_in_any_case_and_doubled_ones_are_told() {
    let whole = |message: &str| {
        let body = format!(r#"{{"Choices":[{{"MESSAGE":{message},"finish_reason":"stop"}}]}}"#);
        heard(Dialect::OPENAI_CHAT, Framing::Json, &body)
    };
    let call = |members: &str| whole(&format!(r#"{{"Tool_Calls":[{{"Function":{{{members}}}}}]}}"#));
    let told = call(r#""NAME":"drop","Arguments":"{}""#);
    assert_eq!((told.calls, told.is_ambiguous), (vec![("drop".into(), "{}".into())], false));
    assert_eq!(whole(r#"{"CONTENT":"hello"}"#).text, "hello");
    // `ſ` and the sign of Kelvin are letters of ASCII to Go.
    assert_eq!(heard(Dialect::OLLAMA, Framing::Json, "{\"re\u{17f}ponse\":\"hello\"}").text, "hello");
    for doubled in [
        r#"{"content":"a","Content":"b"}"#,
        r#"{"content":"a","content":"a"}"#,
        r#"{"content":null,"content":"a"}"#,
        r#"{"tool_calls":[],"TOOL_CALLS":[]}"#,
    ] {
        assert!(whole(doubled).is_ambiguous, "{doubled}");
    }
    for plain in [
        r#"{"content":"a","x":1,"x":2}"#,
        r#"{"content":[{"text":"a"},{"text":"b"}]}"#,
        r#"{"tool_calls":[{"id":"a","function":{"name":"f"}},{"id":"b","function":{"name":"f"}}]}"#,
    ] {
        assert!(!whole(plain).is_ambiguous, "{plain}");
    }
    // Of each event by itself, also where events begin alike.
    let delta = r#"{"id":"chatcmpl-0123456789","choices":[{"index":0,"delta":{"content":"a"}}]}"#;
    let doubled =
        r#"{"id":"chatcmpl-0123456789","choices":[{"index":0,"delta":{"content":"a","content":"b"}}]}"#;
    assert!(!heard(Dialect::OPENAI_CHAT, Framing::Sse, &sse(&[delta; 30])).is_ambiguous);
    let mut events = vec![delta; 30];
    events.push(doubled);
    assert!(heard(Dialect::OPENAI_CHAT, Framing::Sse, &sse(&events)).is_ambiguous);
}

#[test]
fn a_kind_that_is_said_twice_hides_no_call() {
    for kinds in [r#""type":"tool_use","TYPE":"text""#, r#""Type":"text","type":"tool_use""#] {
        let body = format!(r#"{{"content":[{{{kinds},"id":"a","name":"drop","input":{{}}}}]}}"#);
        let told = heard(Dialect::ANTHROPIC, Framing::Json, &body);
        assert_eq!((told.calls, told.is_ambiguous), (vec![("drop".into(), "{}".into())], true), "{body}");
    }
    for stop in
        [r#""type":"content_block_stop","Type":"ping""#, r#""TYPE":"ping","type":"content_block_stop""#]
    {
        let told = heard(
            Dialect::ANTHROPIC,
            Framing::Sse,
            &sse(&[
                r#"{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"a","name":"drop","input":{}}}"#,
                r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"a\":1}"}}"#,
                &format!(r#"{{{stop},"index":1}}"#),
            ]),
        );
        assert!(told.calls.contains(&("drop".into(), r#"{"a":1}"#.into())), "{stop}: {told:?}");
    }
}

#[test]
fn arguments_that_come_first_and_are_replaced_are_told_too() {
    let start = |input: &str| {
        format!(
            r#"{{"type":"content_block_start","index":0,"content_block":{{"type":"tool_use","id":"a","name":"f","input":{input}}}}}"#
        )
    };
    let delta = r#"{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\"a\": 2}"}}"#;
    let stop = r#"{"type":"content_block_stop","index":0}"#;
    let calls = |input: &str, deltas: &[&str]| {
        let start = start(input);
        let events: Vec<&str> =
            [&start].into_iter().map(String::as_str).chain(deltas.iter().copied()).collect();
        let told = heard(Dialect::ANTHROPIC, Framing::Sse, &sse(&events)).calls;
        told.into_iter().map(|(_, arguments)| arguments).collect::<Vec<_>>()
    };
    assert_eq!(calls(r#"{"a":1}"#, &[delta, stop]), [r#"{"a":1}"#, r#"{"a": 2}"#]);
    assert_eq!(calls(r#"{"a":1}"#, &[stop]), [r#"{"a":1}"#]);
    // The same again is one call, and so is what has no arguments at its beginning.
    assert_eq!(calls(r#"{"a":2}"#, &[delta, stop]), [r#"{"a": 2}"#]);
    for none in ["{}", r#""""#, "null"] {
        assert_eq!(calls(none, &[delta, stop]), [r#"{"a": 2}"#], "{none}");
    }
    // What goes on behind its end.
    assert_eq!(calls("{}", &[stop, delta]), ["{}", r#"{"a": 2}"#]);
}

#[test]
fn what_repeats_a_call_otherwise_is_another_call() {
    let item = |kind: &str, arguments: &str| {
        format!(
            r#"{{"type":"{kind}","output_index":0,"item":{{"type":"function_call","call_id":"c","name":"f","arguments":"{arguments}"}}}}"#
        )
    };
    let added = item("response.output_item.added", "");
    let done = r#"{"type":"response.function_call_arguments.done","output_index":0,"arguments":"{}"}"#;
    let completed = |name: &str, arguments: &str| {
        format!(
            r#"{{"type":"response.completed","response":{{"status":"completed","output":[{{"type":"function_call","call_id":"c","name":"{name}","arguments":"{arguments}"}}]}}}}"#
        )
    };
    let told = |events: &[&str]| heard(Dialect::OPENAI_RESPONSES, Framing::Sse, &sse(events)).calls;
    let call = |name: &str, arguments: &str| (name.to_owned(), arguments.to_owned());
    let (same, other) = (item("response.output_item.done", "{ }"), item("response.output_item.done", "[7]"));
    assert_eq!(told(&[&added, done, &same, &completed("f", "{}")]), [call("f", "{}")]);
    assert_eq!(told(&[&added, done, &other, &completed("f", "{}")]), [call("f", "{}"), call("f", "[7]")]);
    assert_eq!(told(&[&added, done, &same, &completed("f", "[8]")]), [call("f", "{}"), call("f", "[8]")]);
    assert_eq!(told(&[&added, done, &same, &completed("g", "{}")]), [call("f", "{}"), call("g", "{}")]);
    let delta = r#"{"type":"response.function_call_arguments.delta","output_index":0,"delta":"[9]"}"#;
    assert_eq!(told(&[&added, delta, done, &same]), [call("f", "[9]"), call("f", "{}")]);
    // In chat, what follows the reason to stop.
    let piece = |arguments: &str, stop: &str| {
        format!(
            r#"{{"choices":[{{"index":0,"delta":{{"tool_calls":[{{"index":0,"id":"a","function":{{"name":"f","arguments":"{arguments}"}}}}]}},"finish_reason":{stop}}}]}}"#
        )
    };
    let events = sse(&[&piece("{}", r#""tool_calls""#), &piece("[7]", "null")]);
    let calls = heard(Dialect::OPENAI_CHAT, Framing::Sse, &events).calls;
    assert_eq!(calls, [call("f", "{}"), call("f", "[7]")]);
}

#[test]
fn what_the_providers_own_tools_return_is_told_beside_the_text() {
    let phrase = "what they found";
    let messages = |content: serde_json::Value| serde_json::json!({"type": "message", "content": [content]});
    let responses = |item: &serde_json::Value| serde_json::json!({"object": "response", "output": [item]});
    let gemini =
        |part: serde_json::Value| serde_json::json!({"candidates": [{"content": {"parts": [part]}}]});
    let items = [
        serde_json::json!({"type": "mcp_call", "name": "a", "arguments": "{}", "output": phrase}),
        serde_json::json!({"type": "mcp_call", "name": "a", "arguments": "{}", "error": {"message": phrase}}),
        serde_json::json!({"type": "code_interpreter_call", "code": "1", "outputs": [{"type": "logs", "logs": phrase}]}),
        serde_json::json!({"type": "file_search_call", "queries": ["q"], "results": [{"text": phrase}]}),
        serde_json::json!({"type": "mcp_list_tools", "tools": [{"name": "a", "description": phrase}]}),
    ];
    let mut cases = vec![
        (
            Dialect::ANTHROPIC,
            messages(
                serde_json::json!({"type": "mcp_tool_result", "content": [{"type": "text", "text": phrase}]}),
            ),
        ),
        (
            Dialect::ANTHROPIC,
            messages(
                serde_json::json!({"type": "bash_code_execution_tool_result", "content": {"stdout": phrase}}),
            ),
        ),
        (
            Dialect::ANTHROPIC,
            messages(
                serde_json::json!({"type": "code_execution_tool_result", "content": {"stdout": phrase}}),
            ),
        ),
        (
            Dialect::ANTHROPIC,
            messages(
                serde_json::json!({"type": "web_fetch_tool_result", "content": {"content": {"source": {"data": phrase}}}}),
            ),
        ),
        (Dialect::GEMINI, gemini(serde_json::json!({"executableCode": {"code": phrase}}))),
        (Dialect::GEMINI, gemini(serde_json::json!({"codeExecutionResult": {"output": phrase}}))),
    ];
    cases.extend(items.iter().map(|item| (Dialect::OPENAI_RESPONSES, responses(item))));
    for (dialect, body) in cases {
        let told = heard(dialect, Framing::Json, &body.to_string());
        assert!(told.results.contains(phrase) && told.text.is_empty(), "{body}: {told:?}");
    }
    // In a stream, once.
    for item in &items {
        let done = serde_json::json!({"type": "response.output_item.done", "output_index": 0, "item": item})
            .to_string();
        let end =
            serde_json::json!({"type": "response.completed", "response": {"output": [item]}}).to_string();
        for events in [&[&*done, &*end][..], &[&*end]] {
            let told = heard(Dialect::OPENAI_RESPONSES, Framing::Sse, &sse(events));
            assert_eq!(told.results.matches(phrase).count(), 1, "{events:?}");
        }
    }
    let start = serde_json::json!({"type": "content_block_start", "index": 1, "content_block":
        {"type": "web_search_tool_result", "content": [{"title": phrase}]}});
    let begins = serde_json::json!({"type": "message_start", "message": {"content": [
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}, {"type": "text", "text": "t"}]}});
    let events = sse(&[&begins.to_string(), &start.to_string()]);
    let told = heard(Dialect::ANTHROPIC, Framing::Sse, &events);
    assert!(told.results.contains(phrase), "{told:?}");
    assert_eq!((told.calls, &*told.text), (vec![("f".into(), r#"{"x":1}"#.into())], "t"));
    // A file in Base64.
    let blob = serde_json::json!({"jsonrpc": "2.0", "id": 1, "result": {"contents": [{"uri": "a", "blob": "aGVsbG8="}]}});
    assert_eq!(heard(Dialect::MCP, Framing::Json, &blob.to_string()).results, "aGVsbG8=");
}
