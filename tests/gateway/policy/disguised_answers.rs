use serde_json::json;

use crate::support::{Backend, Call, Gateway, RawBackend};

/// Blocks a phrase wherever it is said, and a tool; what cannot be read is blocked too.
const RULES: &str = r#"policy:
  on_limit: block
  tools: { deny: ["drop"] }
  rules:
    - { id: no-drop, on: response, match: { any: ["drop all tables"] }, action: block }
    - { id: no-result, on: tool_result, match: { any: ["drop all tables"] }, action: block }
    - { id: no-args, on: tool_call, when: 'tool.args.cmd == "destroy"', action: block }
"#;

/// What the client of a backend with this answer gets: its status and body, and whether the framing is complete.
pub async fn answered(call: Call, media: &str, body: &[u8]) -> (u16, String, bool) {
    through(false, call, media, body).await
}

pub async fn through(is_mcp: bool, call: Call, media: &str, body: &[u8]) -> (u16, String, bool) {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n", body.len());
    let backend = RawBackend::answering([head.as_bytes(), body].concat()).await;
    let url = Backend::url(&backend);
    let backends = match is_mcp {
        true => format!("backends: {{ tools: {{ url: {url:?}, type: mcp }} }}"),
        false => format!("backend: {url:?}"),
    };
    let gateway = Gateway::with(format!("{backends}\n{RULES}")).await;
    let answer = call.send(gateway.proxy()).await;
    (answer.status(), answer.text(), answer.is_whole)
}

pub fn sse(events: &[serde_json::Value]) -> Vec<u8> {
    events.iter().map(|event| format!("data: {event}\n\n")).collect::<String>().into_bytes()
}

fn responses() -> Call {
    Call::post("/v1/responses").json(&json!({"model": "m", "input": "hello"}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_in_pieces_is_the_whole_name() {
    let piece = |call| json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]});
    for id in [json!("a"), json!(null)] {
        let body = sse(&[
            piece(json!({"index": 0, "id": "a", "function": {"name": "dr", "arguments": ""}})),
            piece(json!({"index": 0, "id": id, "function": {"name": "op", "arguments": "{}"}})),
        ]);
        let (_, text, _) = answered(Call::chat_stream("hello"), "text/event-stream", &body).await;
        assert!(text.contains("tool_denied"), "{id}: {text}");
    }
    // A name that is repeated is one name.
    let body = sse(&[
        piece(json!({"index": 0, "id": "a", "function": {"name": "keep", "arguments": "{"}})),
        piece(json!({"index": 0, "id": "a", "function": {"name": "keep", "arguments": "}"}})),
    ]);
    let (status, text, _) = answered(Call::chat_stream("hello"), "text/event-stream", &body).await;
    assert_eq!((status, text.as_bytes()), (200, &*body));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_the_providers_own_kinds_have_arguments_or_unknown_ones() {
    for item in [
        json!({"type": "apply_patch_call", "call_id": "c", "operation": {"cmd": "destroy"}}),
        json!({"type": "code_interpreter_call", "code": "{\"cmd\": \"destroy\"}"}),
        json!({"type": "new_call", "call_id": "c", "told": {"cmd": "destroy"}}),
    ] {
        let body = json!({"id": "r", "object": "response", "output": [item], "status": "completed"});
        let (status, text, _) = answered(responses(), "application/json", body.to_string().as_bytes()).await;
        assert_eq!(status, 403, "{item}: {text}");
    }
    let item = json!({"type": "apply_patch_call", "call_id": "c", "operation": {"cmd": "keep"}});
    let body = json!({"id": "r", "object": "response", "output": [item], "status": "completed"});
    let (status, text, _) = answered(responses(), "application/json", body.to_string().as_bytes()).await;
    assert_eq!((status, text), (200, body.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_read_as_what_it_is() {
    let said = json!({"choices": [{"index": 0, "message": {"content": "drop all tables"}}]}).to_string();
    let event = json!({"choices": [{"index": 0, "delta": {"content": "drop all tables"}}]});
    let wide: Vec<u8> = said.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let marked = [&[0xFF, 0xFE], &*wide].concat();
    let cases: [(&str, Vec<u8>); 10] = [
        ("text/plain", said.clone().into_bytes()),
        ("text/plain", b"please drop all tables".to_vec()),
        ("application/octet-stream", said.clone().into_bytes()),
        ("image/png", said.clone().into_bytes()),
        ("text/event-stream", said.clone().into_bytes()),
        ("application/json", sse(std::slice::from_ref(&event))),
        ("application/octet-stream", sse(&[event])),
        ("application/json; charset=utf-16", marked.clone()),
        ("application/json", wide),
        ("text/event-stream", b"event".to_vec()),
    ];
    for (media, body) in cases {
        let (_, text, _) = answered(Call::chat("hello"), media, &body).await;
        assert!(text.contains("policy_blocked"), "{media} {body:?}: {text}");
        assert!(!text.contains("all tables"), "{media}: {text}");
    }
    for (media, body) in [("image/png", &b"\x89PNG\r\n\x1a\n\0\0"[..]), ("audio/mpeg", b"\xFF\xFB\0\0drop")] {
        let (status, text, is_whole) = answered(Call::chat("hello"), media, body).await;
        assert!(status == 200 && is_whole && text == String::from_utf8_lossy(body), "{media}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_with_a_length_ends_natively() {
    let say = |text: &str| json!({"choices": [{"index": 0, "delta": {"content": text}}]});
    let body = sse(&[say("please "), say("drop all tables"), say(" quickly")]);
    let (status, text, is_whole) = answered(Call::chat_stream("hello"), "text/event-stream", &body).await;
    // A block that comes in one batch with the head is answered in place of it (docs/adr/0042).
    assert!(is_whole && (status == 403 || status == 200 && text.contains("please")), "{status}: {text}");
    assert!(text.contains("policy_blocked") && !text.contains("all tables"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_blocks_and_parts_have_of_text_is_judged() {
    let phrase = "drop all tables";
    let messages = |stream: bool| {
        Call::post("/v1/messages")
            .json(&json!({"model": "m", "max_tokens": 9, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}))
    };
    for event in [
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": phrase}}),
        json!({"type": "message_start", "message": {"content": [{"type": "text", "text": phrase}]}}),
    ] {
        let (_, text, _) =
            answered(messages(true), "text/event-stream", &sse(std::slice::from_ref(&event))).await;
        assert!(text.contains("policy_blocked") && !text.contains(phrase), "{event}: {text}");
    }
    for part in
        [json!({"executableCode": {"code": phrase}}), json!({"codeExecutionResult": {"output": phrase}})]
    {
        let call = Call::post("/v1beta/models/m:generateContent")
            .json(&json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}));
        let body = json!({"candidates": [{"content": {"parts": [part]}}]}).to_string();
        let (status, text, _) = answered(call, "application/json", body.as_bytes()).await;
        assert!(status == 403 && !text.contains(phrase), "{body}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_mcp_server_says_is_judged_wherever_it_says_it() {
    let phrase = "drop all tables";
    let reply = |result| json!({"jsonrpc": "2.0", "id": 1, "result": result});
    let cases = [
        reply(json!({"content": phrase})),
        reply(json!({"toolResult": phrase})),
        reply(json!({"instructions": phrase, "serverInfo": {"name": "x"}})),
        reply(json!({"tools": [{"name": "a", "description": phrase}]})),
        reply(json!({"content": [{"type": "resource_link", "uri": "a", "description": phrase}]})),
        reply(json!({"content": [], "_meta": {"a": phrase}})),
        reply(json!({"messages": [{"role": "user", "content": {"type": "text", "text": phrase}}]})),
        json!({"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "m", "data": {"a": phrase}}}),
        json!([reply(json!({"content": [{"type": "text", "text": phrase}]}))]),
    ];
    let call = || {
        Call::post("/mcp").header("accept", "application/json, text/event-stream").json(
            &json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "ok", "arguments": {}}}),
        )
    };
    for body in cases {
        let (_, text, _) = through(true, call(), "application/json", body.to_string().as_bytes()).await;
        assert!(!text.contains(phrase), "{body}: {text}");
    }
    for params in [json!({"data": phrase}), json!({"message": phrase})] {
        let body = sse(&[json!({"jsonrpc": "2.0", "method": "notifications/message", "params": params})]);
        let (_, text, _) = through(true, call(), "text/event-stream", &body).await;
        assert!(!text.contains(phrase), "{params}: {text}");
    }
    let fine = reply(json!({"content": [{"type": "text", "text": "keep all tables"}]})).to_string();
    let (status, text, _) = through(true, call(), "application/json", fine.as_bytes()).await;
    assert_eq!((status, text), (200, fine));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_blocks_than_lanes_are_read_when_they_end_and_a_phrase_is_found_in_each() {
    let delta = |index: u32, text: &str| json!({"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}});
    let start = |index: u32| json!({"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}});
    let stop = |index: u32| json!({"type": "content_block_stop", "index": index});
    let call = || {
        Call::post("/v1/messages").json(&json!({"model": "m", "max_tokens": 9, "stream": true, "messages": [{"role": "user", "content": "hi"}]}))
    };
    let block =
        |index: u32| [start(index), delta(index, "drop all"), delta(index, " is a word"), stop(index)];
    let mut events: Vec<_> = (0..300).flat_map(block).collect();
    events.push(json!({"type": "message_stop"}));
    let body = sse(&events);
    let (status, text, _) = answered(call(), "text/event-stream", &body).await;
    assert_eq!((status, text.len()), (200, body.len()), "blocks that have ended make room");
    events.truncate(events.len() - 1);
    events.extend([start(300), delta(300, "drop all"), delta(300, " tables"), stop(300)]);
    let (_, text, _) = answered(call(), "text/event-stream", &sse(&events)).await;
    assert!(text.contains("policy_blocked") && !text.contains(" tables"), "{}", &text[text.len() - 300..]);
    // What goes on behind its end, or never ends, cannot be read whole.
    let mut again: Vec<_> = (0..300).flat_map(block).collect();
    again.push(delta(0, " tables"));
    let open: Vec<_> = (0..300).map(|index| delta(index, "drop all")).collect();
    for (what, events) in [("again", again), ("open", open)] {
        let (_, text, _) = answered(call(), "text/event-stream", &sse(&events)).await;
        assert!(text.contains("policy_blocked"), "{what}");
    }
    // Choices end by their reason to stop.
    let choice = |index: u32, text: &str, stop: Option<&str>| json!({"choices": [{"index": index, "delta": {"content": text}, "finish_reason": stop}]});
    let choices: Vec<_> = (0..300)
        .flat_map(|index| [choice(index, "drop all", None), choice(index, " words", Some("stop"))])
        .collect();
    let body = sse(&choices);
    let (status, text, _) = answered(Call::chat_stream("hello"), "text/event-stream", &body).await;
    assert_eq!((status, text.len()), (200, body.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_responses_say_at_their_end_alone_is_judged() {
    let phrase = "drop all tables";
    let message = |text: &str| json!({"type": "message", "id": "i", "role": "assistant", "content": [{"type": "output_text", "text": text}]});
    let delta = |text: &str| json!({"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": text});
    let ends = |text: &str| {
        [
            json!({"type": "response.output_text.done", "output_index": 0, "content_index": 0, "text": text}),
            json!({"output_index": 0, "content_index": 0, "text": text, "type": "response.output_text.done"}),
            json!({"type": "response.refusal.done", "output_index": 0, "content_index": 0, "refusal": text}),
            json!({"type": "response.content_part.done", "output_index": 0, "part": {"type": "output_text", "text": text}}),
            json!({"type": "response.output_item.done", "output_index": 0, "item": message(text)}),
            json!({"type": "response.output_item.added", "output_index": 0, "item": message(text)}),
            json!({"type": "response.reasoning_summary_text.done", "output_index": 0, "summary_index": 0, "text": text}),
            json!({"type": "response.output_item.done", "output_index": 0, "item": {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}}),
            json!({"type": "response.completed", "response": {"id": "r", "status": "completed", "output": [message("hello"), message(text)]}}),
        ]
    };
    let stream =
        || Call::post("/v1/responses").json(&json!({"model": "m", "input": "hello", "stream": true}));
    for (with, clean) in ends(phrase).into_iter().zip(ends("drop all")) {
        for before in [vec![], vec![delta("hello")]] {
            let of = |end: &serde_json::Value| sse(&[before.clone(), vec![end.clone()]].concat());
            let (_, text, _) = answered(stream(), "text/event-stream", &of(&with)).await;
            assert!(text.contains("policy_blocked") && !text.contains(phrase), "{with}: {text}");
            let (status, text, _) = answered(stream(), "text/event-stream", &of(&clean)).await;
            assert_eq!((status, text.as_bytes()), (200, &*of(&clean)), "{clean}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_that_pieces_have_together_is_searched() {
    let piece = |call| json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]});
    let names = |names: &[&str]| {
        let pieces =
            names.iter().map(|name| piece(json!({"index": 0, "function": {"name": name, "arguments": ""}})));
        sse(&pieces.chain([piece(json!({"index": 0, "function": {"arguments": "{}"}}))]).collect::<Vec<_>>())
    };
    let backend = async |body: Vec<u8>| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let backend = RawBackend::answering([head.as_bytes(), &body].concat()).await;
        let rule =
            "{ id: no-terminal, on: tool_call, match: { in: tool.name, any: [terminal] }, action: block }";
        let gateway = Gateway::with(format!(
            "backend: {:?}\npolicy:\n  rules:\n    - {rule}\n",
            Backend::url(&backend)
        ))
        .await;
        Call::chat_stream("hello").send(gateway.proxy()).await.text()
    };
    for pieces in [&["terminal"][..], &["ter", "minal"], &["t", "erm", "inal"]] {
        let text = backend(names(pieces)).await;
        assert!(text.contains("policy_blocked"), "{pieces:?}: {text}");
    }
    let text = backend(names(&["ter", "restrial"])).await;
    assert!(!text.contains("policy_blocked"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_that_an_mcp_server_lists_are_definitions() {
    let tools =
        json!([{"name": "a", "description": "drop\nall \"big\" tables", "inputSchema": {"type": "object"}}]);
    let listed = json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": tools}}).to_string();
    let result = json!({"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": "drop all \"big\" tables"}]}}).to_string();
    for (place, refuses_list, refuses_result) in
        [("tool.definition", true, false), ("tool.result", false, true)]
    {
        for (answer, is_refused) in [(&listed, refuses_list), (&result, refuses_result)] {
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                answer.len()
            );
            let backend = RawBackend::answering([head.as_bytes(), answer.as_bytes()].concat()).await;
            let rule = format!(
                "{{ id: a, on: tool_result, match: {{ in: {place}, any: ['drop all \"big\" tables'] }}, action: block }}"
            );
            let url = Backend::url(&backend);
            let gateway = Gateway::with(format!(
                "backends: {{ tools: {{ url: {url:?}, type: mcp }} }}\npolicy:\n  rules:\n    - {rule}\n"
            ))
            .await;
            let call = Call::post("/mcp")
                .json(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}));
            let text = call.send(gateway.proxy()).await.text();
            assert_eq!(text.contains("policy_blocked"), is_refused, "{place}: {answer}: {text}");
        }
    }
}
