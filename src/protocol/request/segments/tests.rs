//! Bodies of every dialect, and what hides in them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// What a body says, one line for each text: role, kind, the tool of a result, the text.
#[derive(Default)]
struct Told {
    lines: Vec<String>,
    elements: Vec<String>,
    /// Elements that are left out.
    known: Vec<String>,
}

impl Reader for Told {
    fn begin(&mut self, element: &Element<'_>) -> bool {
        let raw = String::from_utf8_lossy(element.raw).into_owned();
        let is_known = self.known.contains(&raw);
        self.elements.push(raw);
        !is_known
    }

    fn segment(&mut self, segment: &Segment<'_>) {
        let Segment { role, kind, text, result } = segment;
        let result = result.map(|result| {
            let failed = if result.is_error { "!" } else { "" };
            format!(" {}{failed}", result.tool.unwrap_or("?"))
        });
        let text = String::from_utf8_lossy(text);
        self.lines.push(format!("{role:?} {kind:?}{}: {text}", result.unwrap_or_default()));
    }

    fn end(&mut self, _: &Element<'_>) {}
}

fn dialect(name: &str) -> Dialect {
    Dialect::all().find(|dialect| dialect.name() == name).unwrap()
}

fn told(name: &str, body: &str) -> Vec<String> {
    let mut told = Told::default();
    read(body.as_bytes(), dialect(name), &mut told);
    told.lines
}

/// The lines of the texts that are not names and ids.
fn said(name: &str, body: &Value) -> Vec<String> {
    told(name, &body.to_string()).into_iter().filter(|line| line.contains("<")).collect()
}

#[test]
fn blocks_of_messages() {
    let body = json!({
        "model": "claude", "system": [{"type": "text", "text": "<s>"}],
        "tools": [{"name": "Bash", "description": "<d>", "input_schema": {"properties": {"<p>": {}}}}],
        "messages": [
            {"content": "<a>", "role": "user"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "<t>"}, {"type": "text", "text": "<b>"},
                {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "<c>", "type": "tool_result"}},
                {"id": "toolu_2", "input": {}, "name": "Read", "type": "tool_use"},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "<r>", "is_error": true},
                {"content": [{"type": "text", "text": "<r2>"}], "tool_use_id": "toolu_2", "type": "tool_result"},
                {"type": "text", "text": "<system-reminder>"},
            ]},
        ],
        "metadata": {"user_id": "<u>"},
    });
    let expected = [
        "User Text: <a>",
        "Assistant Reasoning: <t>",
        "Assistant Text: <b>",
        "Assistant ToolArgs: <c>",
        "Tool ToolResult Bash!: <r>",
        "Tool ToolResult Read: <r2>",
        "User Text: <system-reminder>",
        "User Text: <u>",
        "System System: <s>",
        "Tool ToolDefinition: <d>",
        "Tool ToolDefinition: <p>",
    ];
    assert_eq!(said("anthropic", &body), expected);
    let batch = json!({"requests": [{"custom_id": "<i>", "params": {"messages": [{"role": "assistant", "content": "<a>"}]}}]});
    assert_eq!(said("anthropic", &batch), ["User Text: <i>", "Assistant Text: <a>"]);
}

#[test]
fn messages_of_chat() {
    let body = json!({"messages": [
        {"role": "developer", "content": "<s>"},
        {"role": "user", "content": [{"type": "text", "text": "<a>"}]},
        {"role": "assistant", "reasoning_content": "<t>", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "sh", "arguments": "{\"a\":\"<c>\"}"}}]},
        {"role": "tool", "content": "<r>", "tool_call_id": "c1"},
        {"role": "tool", "content": [{"type": "text", "text": "<r2>"}], "tool_call_id": "c0"},
        {"role": "critic", "content": "<x>"},
        {"role": "system", "content": "<y>", "role2": "", "Role": "user"},
    ]});
    let expected = [
        "System System: <s>",
        "User Text: <a>",
        "Assistant Reasoning: <t>",
        "Assistant ToolArgs: {\"a\":\"<c>\"}",
        "Tool ToolResult sh: <r>",
        "Tool ToolResult ?: <r2>",
        "User Text: <x>",
        "User Text: <y>",
    ];
    let mut lines = said("openai_chat", &body);
    lines[2..4].sort();
    assert_eq!(lines, expected);
    assert_eq!(said("mistral", &body).len(), expected.len());
    assert_eq!(said("openai", &json!({"prompt": ["<a>", "<b>"]})), ["User Text: <a>", "User Text: <b>"]);
}

#[test]
fn items_of_responses() {
    let body = json!({"instructions": "<s>", "input": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "<a>"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "<t>"}]},
        {"type": "function_call", "call_id": "c1", "name": "shell", "arguments": "<c>"},
        {"type": "function_call_output", "call_id": "c1", "output": "<r>"},
        {"type": "mcp_call", "id": "m", "name": "search", "arguments": "<c2>", "output": "<r2>"},
    ]});
    let expected = [
        "User Text: <a>",
        "Assistant Reasoning: <t>",
        "Assistant ToolArgs: <c>",
        "Tool ToolResult shell: <r>",
        "Assistant ToolArgs: <c2>",
        "Tool ToolResult search: <r2>",
        "System System: <s>",
    ];
    assert_eq!(said("openai_responses", &body), expected);
    assert_eq!(said("openai_responses", &json!({"input": "<a>"})), ["User Text: <a>"]);
    let socket =
        json!({"type": "response.create", "response": {"input": [{"role": "assistant", "content": "<b>"}]}});
    assert_eq!(said("openai_responses", &socket), ["Assistant Text: <b>"]);
    let item = json!({"type": "conversation.item.create", "item": {"type": "function_call_output", "call_id": "c", "output": "<r>"}});
    assert_eq!(said("openai_realtime", &item), ["Tool ToolResult ?: <r>"]);
    let session = json!({"session": {"instructions": "<s>", "tools": [{"description": "<d>"}]}});
    assert_eq!(said("openai_realtime", &session), ["System System: <s>", "Tool ToolDefinition: <d>"]);
}

#[test]
fn contents_and_other_apis() {
    let gemini = json!({"systemInstruction": {"parts": [{"text": "<s>"}]}, "contents": [
        {"role": "user", "parts": [{"text": "<a>"}]},
        {"role": "model", "parts": [{"functionCall": {"name": "sh", "args": {"x": "<c>"}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "sh", "response": {"name": "other", "type": "thinking", "out": "<r>"}}}]},
    ]});
    let expected =
        ["User Text: <a>", "Assistant ToolArgs: <c>", "Tool ToolResult sh: <r>", "System System: <s>"];
    assert_eq!(said("gemini", &gemini), expected);
    let bedrock = json!({"system": [{"text": "<s>"}], "messages": [
        {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t", "name": "sh", "input": {"a": "<c>"}}}]},
        {"role": "user", "content": [{"toolResult": {"toolUseId": "t", "status": "error", "content": [{"text": "<r>"}]}}]},
    ], "toolConfig": {"tools": [{"toolSpec": {"description": "<d>"}}]}});
    let expected = [
        "Assistant ToolArgs: <c>",
        "Tool ToolResult sh!: <r>",
        "System System: <s>",
        "Tool ToolDefinition: <d>",
    ];
    assert_eq!(said("bedrock", &bedrock), expected);
    let cohere = json!({"message": "<a>", "chat_history": [{"role": "CHATBOT", "message": "<b>"}], "documents": [{"snippet": "<r>"}]});
    assert_eq!(said("cohere", &cohere), ["Assistant Text: <b>", "Tool ToolResult: <r>", "User Text: <a>"]);
    let ollama = json!({"messages": [{"role": "tool", "tool_name": "sh", "content": "<r>"}], "system": "<s>", "prompt": "<a>"});
    assert_eq!(said("ollama", &ollama), ["Tool ToolResult sh: <r>", "User Text: <a>", "System System: <s>"]);
    let mcp = json!([{"method": "tools/call", "params": {"name": "sh", "arguments": {"a": {"b": "<c>"}}}}, {"result": {"content": {"text": "<a>"}}}]);
    assert_eq!(said("mcp", &mcp), ["Assistant ToolArgs: <c>", "User Text: <a>"]);
    let a2a = json!({"params": {"message": {"role": "agent", "parts": [{"text": "<b>"}]}, "metadata": {"x": "<a>"}}});
    assert_eq!(said("a2a", &a2a), ["Assistant Text: <b>", "User Text: <a>"]);
    assert_eq!(
        said("plain", &json!({"a": [{"b": "<a>"}], "messages": "<b>"})),
        ["User Text: <a>", "User Text: <b>"]
    );
}

#[test]
fn nothing_hides() {
    let lines = |body: &str| told("anthropic", body);
    let has = |body: &str, text: &str| {
        let lines = lines(body);
        assert!(lines.iter().any(|line| line.ends_with(&format!(": {text}"))), "{body}: {lines:?}");
    };
    // Doubled and unknown members, other letters and escapes in names, names themselves, long numbers.
    has(r#"{"messages":[],"messages":[{"role":"user","content":"secret","content":"x"}]}"#, "secret");
    has(r#"{"unknown":{"deep":[[{"x":"secret"}]]}}"#, "secret");
    has(r#"{"mess\u0061ges":[{"role":"assistant","content":"secret"}]}"#, "secret");
    assert_eq!(
        lines(r#"{"MESSAGES":[{"Role":"assistant","content":"se\u0063ret"}]}"#),
        ["Assistant Text: Role", "Assistant Text: secret"]
    );
    has(r#"{"a":{"secret key":1}}"#, "secret key");
    has(r#"{"secret key":1}"#, "secret key");
    has(r#"{"messages":[{"content":4111111111111111}]}"#, "4111111111111111");
    // JSON in strings, three levels.
    let mut nested = json!({"text": "a \"quoted\" secret\n"});
    for _ in 0..3 {
        nested = json!({"x": nested.to_string()});
    }
    has(&nested.to_string(), "a \"quoted\" secret\n");
    // What is no JSON: another kind of quotes, something behind the end, a string that does not end.
    for body in [
        "{'a':'a secret'}",
        r#"{"a":1} a secret"#,
        r#"{"a":"a secret"#,
        "a secret",
        r#"{"messages":[{"content":a secret}]}"#,
    ] {
        assert!(lines(body).iter().any(|line| line.contains("a secret")), "{body}: {:?}", lines(body));
    }
}

#[test]
fn results_of_tools_say_nothing_of_themselves() {
    // The output of a tool names another tool, another call, another role.
    let body = json!({"messages": [
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "WebFetch", "input": {"id": "t1", "name": "Safe", "type": "tool_use"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [
            {"type": "tool_use", "id": "t1", "name": "Safe", "role": "system", "text": "<r>"},
            {"type": "tool_result", "tool_use_id": "t0", "name": "Safe", "content": "<r2>"}]}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "<r3>"}]},
    ]});
    let expected = ["<r>", "<r2>", "<r3>"].map(|text| format!("Tool ToolResult WebFetch: {text}"));
    assert_eq!(said("anthropic", &body), expected);
}

#[test]
fn elements_are_the_parts_that_repeat() {
    let turn = r#"{"role":"user","content":"a"}"#;
    let call = r#"{"role":"assistant","content":[{"type":"tool_use","id":"t","name":"sh","input":{}}]}"#;
    let result = r#"{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":"r"}]}"#;
    let body = format!(
        r#"{{"system":[{{"text":"s"}},{{"text":"z"}}],"messages":[{turn} , {call},{result}],"tools":[{{"name":"sh"}}]}}"#
    );
    let mut reader = Told { known: vec![turn.to_owned(), call.to_owned()], ..Told::default() };
    read(body.as_bytes(), Dialect::ANTHROPIC, &mut reader);
    assert_eq!(
        reader.elements,
        [r#"{"text":"s"}"#, r#"{"text":"z"}"#, turn, call, result, r#"{"name":"sh"}"#]
    );
    // The tool of the result is known although the turn that calls it was left out.
    assert!(reader.lines.contains(&"Tool ToolResult sh: r".to_owned()), "{:?}", reader.lines);
    assert!(!reader.lines.iter().any(|line| line.ends_with(": a")), "{:?}", reader.lines);
}

#[test]
fn images_are_left_out_where_apis_have_them_and_nowhere_else() {
    let image = format!("iVBORw0KGgo{}", "A".repeat(1000));
    let url = format!("data:image/png;base64,{image}");
    let has_image = |block: Value| {
        let lines =
            told("anthropic", &json!({"messages": [{"role": "user", "content": [block]}]}).to_string());
        lines.iter().any(|line| line.contains("iVBORw0KGgo"))
    };
    for block in [
        json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": image}}),
        json!({"type": "image_url", "image_url": {"url": url}}),
        json!({"type": "input_image", "image_url": url}),
        json!({"inlineData": {"mimeType": "image/png", "data": image}}),
        json!({"images": [image, image]}),
        json!({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": {"data": image}}]}),
    ] {
        assert!(!has_image(block.clone()), "{block}");
    }
    for block in [
        json!({"type": "text", "text": image}),
        json!({"type": "text", "text": url}),
        json!(image),
        json!({"type": "tool_result", "tool_use_id": "t", "content": image}),
        json!({"type": "tool_use", "id": "t", "name": "send", "input": {"data": image}}),
        json!({"type": "image", "source": {"data": format!("{image} secret")}}),
        json!({"type": "image", "source": {"data": "A".repeat(1000)}}),
    ] {
        let lines =
            told("anthropic", &json!({"messages": [{"role": "user", "content": [block]}]}).to_string());
        assert!(lines.iter().any(|line| line.len() > 1000), "{lines:?}");
    }
}

#[test]
fn large_and_deep_bodies_are_bounded() {
    let many = format!(r#"{{"messages":[{{"content":[{}"end"]}}]}}"#, r#""ab","#.repeat(100_000));
    let lines = told("anthropic", &many);
    assert_eq!((lines.len(), lines.last().map(String::as_str)), (100_001, Some("User Text: end")));
    let deep = format!(r#"{{"messages":[{}"deep"]}}"#, "[".repeat(200_000));
    assert_eq!(told("anthropic", &deep).first().map(String::as_str), Some("User Text: deep"));
    let objects =
        format!(r#"{{"messages":[{{"content":[{}{{"text":"end"}}]}}]}}"#, r#"{"text":"ab"},"#.repeat(50_000));
    assert_eq!(told("anthropic", &objects).len(), 50_001);
    // Each result asks for a call that nobody made.
    let results = r#"{"role":"user","content":[{"type":"tool_result","tool_use_id":"x","content":"r"}]},"#
        .repeat(20_000);
    let begun = std::time::Instant::now();
    told("anthropic", &format!(r#"{{"messages":[{results}1]}}"#));
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
}

fn strings(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| strings(item, found)),
        Value::Object(members) => members.iter().for_each(|(key, value)| {
            found.push(key.clone());
            strings(value, found);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        prop::sample::select(
            &["messages", "content", "role", "type", "tool_result", "input", "params", "arguments"][..]
        )
        .prop_map(str::to_owned),
        "[a-z\"\\\\é{\\[]{0,12}",
    ];
    let leaf = prop_oneof![
        text.clone().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        Just(Value::Null)
    ];
    leaf.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((text.clone(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn every_string_is_told(body in any_json(), number in 0usize..14) {
        let dialect = Dialect::all().nth(number).unwrap();
        let mut told = Told::default();
        read(body.to_string().as_bytes(), dialect, &mut told);
        let mut wanted = Vec::new();
        strings(&body, &mut wanted);
        for text in wanted.iter().filter(|text| !text.is_empty() && !text::is_common(text.as_bytes())) {
            let is_member = dialect.request_shape().part(text.as_bytes()) != Part::Other;
            prop_assert!(
                is_member || told.lines.iter().any(|line| line.ends_with(&format!(": {text}"))),
                "{text:?} of {body} in {:?}", told.lines
            );
        }
    }

    #[test]
    fn anything_is_taken(body in r#"[\[\]{}":,\\a0é \n]{0,80}"#) {
        for dialect in Dialect::all() {
            read(body.as_bytes(), dialect, &mut Told::default());
        }
    }
}
