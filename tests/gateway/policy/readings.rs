use serde_json::{Value, json};

use super::disguised_answers::{answered, sse, through};
use super::rules::ruled;
use crate::support::{Backend, Call, Demo, Gateway};

const PHRASE: &str = "drop all tables";

fn messages(stream: bool) -> Call {
    let turn = json!({"role": "user", "content": "hi"});
    Call::post("/v1/messages")
        .json(&json!({"model": "m", "max_tokens": 9, "stream": stream, "messages": [turn]}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_text_behind_an_answer_is_not_passed_unread() {
    let said = |text: &str| {
        json!({"choices": [{"index": 0, "message": {"content": text}, "delta": {"content": text}, "finish_reason": "stop"}]})
            .to_string()
    };
    let (fine, bad) = (said("keep"), said(PHRASE));
    for behind in [&*bad, "x", r#"{"error": "none"}"#] {
        let (status, text, _) =
            answered(Call::chat("hi"), "application/json", format!("{fine}\n{behind}").as_bytes()).await;
        assert!(status == 403 && text.contains("policy_blocked"), "{behind}: {status} {text}");
        let stream = format!("data: {fine}\n\ndata: {fine}{behind}\n\ndata: [DONE]\n\n");
        let (_, text, _) = answered(Call::chat_stream("hi"), "text/event-stream", stream.as_bytes()).await;
        assert!(text.contains("policy_blocked") && !text.contains(PHRASE), "{behind}: {text}");
    }
    for blank in ["", "\n", " \r\n\t"] {
        let body = format!("{fine}{blank}");
        let (status, text, _) = answered(Call::chat("hi"), "application/json", body.as_bytes()).await;
        assert_eq!((status, text), (200, body));
    }
    let call = Call::post("/mcp").header("accept", "application/json").json(
        &json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "ok", "arguments": {}}}),
    );
    let body = json!({"jsonrpc": "2.0", "id": 1, "result": {"content": []}});
    let (_, text, _) = through(true, call, "application/json", format!("{body}{body}").as_bytes()).await;
    assert!(text.contains("policy_blocked"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_answers_are_read_in_any_case() {
    let answers: [(Call, Value); 4] = [
        (Call::chat("hi"), json!({"Choices": [{"MESSAGE": {"Content": PHRASE}}]})),
        (
            Call::chat("hi"),
            json!({"choices": [{"message": {"Tool_Calls": [{"Function": {"NAME": "drop", "Arguments": "{}"}}]}}]}),
        ),
        (messages(false), json!({"Content": [{"Type": "text", "TEXT": PHRASE}]})),
        (
            Call::post("/v1beta/models/m:generateContent").json(&json!({"contents": []})),
            json!({"candidates": [{"content": {"parts": [{"FunctionCall": {"name": "drop", "args": {}}}]}}]}),
        ),
    ];
    for (call, body) in answers {
        let (status, text, _) = answered(call, "application/json", body.to_string().as_bytes()).await;
        assert!(status == 403 && !text.contains(PHRASE), "{body}: {status} {text}");
    }
    // Twice, in one case or in two: nobody knows which counts.
    for message in [r#"{"content": "a", "Content": "b"}"#, r#"{"content": "a", "content": "b"}"#] {
        let body = format!(r#"{{"choices": [{{"message": {message}}}]}}"#);
        let (status, text, _) = answered(Call::chat("hi"), "application/json", body.as_bytes()).await;
        assert_eq!(status, 403, "{body}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_at_the_beginning_of_a_block_are_judged_beside_its_deltas() {
    let start = |input: Value| {
        json!({"type": "content_block_start", "index": 0, "content_block":
            {"type": "tool_use", "id": "a", "name": "f", "input": input}})
    };
    let delta = |json: &str| json!({"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": json}});
    let stop = json!({"type": "content_block_stop", "index": 0});
    let (bad, fine) = (json!({"cmd": "destroy"}), json!({"cmd": "keep"}));
    for (first, then) in [(&bad, &fine), (&fine, &bad)] {
        let body = sse(&[start(first.clone()), delta(&then.to_string()), stop.clone()]);
        let (_, text, _) = answered(messages(true), "text/event-stream", &body).await;
        assert!(text.contains("policy_blocked") && !text.contains("content_block_stop"), "{first}: {text}");
    }
    let body = sse(&[start(fine.clone()), delta(&fine.to_string()), stop]);
    let (status, text, _) = answered(messages(true), "text/event-stream", &body).await;
    assert_eq!((status, text.as_bytes()), (200, &*body));
    // A call that the last event repeats with other arguments.
    let item = |arguments: &str| json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments});
    let end = |arguments: &str| json!({"type": "response.completed", "response": {"id": "r", "status": "completed", "output": [item(arguments)]}});
    let done =
        json!({"type": "response.output_item.done", "output_index": 0, "item": item(&fine.to_string())});
    let stream = || Call::post("/v1/responses").json(&json!({"model": "m", "input": "hi", "stream": true}));
    let (_, text, _) =
        answered(stream(), "text/event-stream", &sse(&[done.clone(), end(&bad.to_string())])).await;
    assert!(text.contains("policy_blocked") && !text.contains("destroy"), "{text}");
    let body = sse(&[done, end(&fine.to_string())]);
    let (status, text, _) = answered(stream(), "text/event-stream", &body).await;
    assert_eq!((status, text.as_bytes()), (200, &*body));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_providers_own_tools_return_is_judged_as_text() {
    let responses = || Call::post("/v1/responses").json(&json!({"model": "m", "input": "hi"}));
    let item =
        |item: Value| json!({"id": "r", "object": "response", "status": "completed", "output": [item]});
    let block = |block: Value| json!({"type": "message", "content": [block]});
    let with = |phrase: &str| {
        [
            (
                responses(),
                item(json!({"type": "mcp_call", "name": "a", "arguments": "{}", "output": phrase})),
            ),
            (
                responses(),
                item(
                    json!({"type": "code_interpreter_call", "code": "{}", "outputs": [{"type": "logs", "logs": phrase}]}),
                ),
            ),
            (
                messages(false),
                block(
                    json!({"type": "bash_code_execution_tool_result", "tool_use_id": "t", "content": {"stdout": phrase}}),
                ),
            ),
            (
                messages(false),
                block(
                    json!({"type": "web_fetch_tool_result", "tool_use_id": "t", "content": {"content": {"source": {"data": phrase}}}}),
                ),
            ),
            (
                Call::chat("hi"),
                json!({"choices": [{"index": 0, "message": {"content": "a", "executed_tools": [{"output": phrase}]}}]}),
            ),
        ]
    };
    for ((call, bad), (again, fine)) in with(PHRASE).into_iter().zip(with("keep all tables")) {
        let (status, text, _) = answered(call, "application/json", bad.to_string().as_bytes()).await;
        assert!(status == 403 && !text.contains(PHRASE), "{bad}: {status} {text}");
        let (status, text, _) = answered(again, "application/json", fine.to_string().as_bytes()).await;
        assert_eq!((status, text), (200, fine.to_string()));
    }
    // What stands between two deltas does not divide the phrase.
    let delta = |text: &str| json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}});
    let cited = json!({"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta", "citation": {"cited_text": "x"}}});
    let body = sse(&[delta("drop all"), cited, delta(" tables")]);
    let (_, text, _) = answered(messages(true), "text/event-stream", &body).await;
    assert!(text.contains("policy_blocked") && !text.contains(" tables"), "{text}");
    // A file of an MCP server, in Base64.
    let call = || {
        Call::post("/mcp")
            .json(&json!({"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": "a"}}))
    };
    let blob = |text: &str| {
        let packed = data_encoding::BASE64.encode(text.as_bytes());
        json!({"jsonrpc": "2.0", "id": 1, "result": {"contents": [{"uri": "a", "blob": packed}]}}).to_string()
    };
    let (_, text, _) =
        through(true, call(), "application/json", blob("please drop all tables now").as_bytes()).await;
    assert!(text.contains("policy_blocked"), "{text}");
    let fine = blob("please keep all tables now");
    let (status, text, _) = through(true, call(), "application/json", fine.as_bytes()).await;
    assert_eq!((status, text), (200, fine));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_no_text_is_refused_where_models_matter() {
    let demo = Demo::start().await;
    let url = demo.url();
    let blocks = format!("backend: {url:?}\nrouting: {{ blocked_models: [\"gpt-4*\"] }}\n");
    let rule = format!(
        "backend: {url:?}\npolicy:\n  rules: [{{ id: big, on: request, when: 'request.model.glob(\"gpt-4*\")', action: block }}]\n"
    );
    let turn = json!({"role": "user", "content": "hi"});
    for config in [blocks, rule] {
        let gateway = Gateway::with(config.clone()).await;
        let mut number = 0;
        let mut ask = async |body: Value| {
            number += 1;
            let call = Call::post("/v1/chat/completions").session(&format!("s{number}")).json(&body);
            call.send(gateway.proxy()).await
        };
        for model in [json!(["gpt-4o"]), json!(7), json!({"name": "gpt-4o"}), json!(true)] {
            let answer = ask(json!({"model": model, "messages": [turn]})).await;
            assert_eq!(answer.status(), 403, "{config} {model}: {}", answer.text());
        }
        for models in [json!(["gpt-demo", "gpt-4o"]), json!(["gpt-4o"])] {
            let answer = ask(json!({"model": "gpt-demo", "models": models, "messages": [turn]})).await;
            assert_eq!(answer.status(), 403, "{config} {models}: {}", answer.text());
        }
        for body in [
            json!({"model": "gpt-demo", "models": ["gpt-demo", "claude-demo"], "messages": [turn]}),
            json!({"model": "gpt-demo", "messages": [turn]}),
        ] {
            let answer = ask(body.clone()).await;
            assert_eq!(answer.status(), 200, "{config} {body}: {}", answer.text());
        }
    }
    let plain = Gateway::with(format!("backend: {url:?}\n")).await;
    let odd = Call::post("/v1/chat/completions").json(&json!({"model": ["a"], "messages": [turn]}));
    assert_ne!(odd.send(plain.proxy()).await.status(), 403, "nothing depends on it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_tool_is_denied_however_it_is_spelled() {
    let demo = Demo::start().await;
    let gateway = ruled(&demo, "  tools: { deny: [Danger] }").await;
    for (at, name) in ["Danger", "danger ", " DANGER", "dan\u{200b}ger"].into_iter().enumerate() {
        let call = Call::post("/mcp").session(&format!("s{at}")).json(
            &json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": {}}}),
        );
        let answer = call.send(gateway.proxy()).await;
        assert!(answer.text().contains("tool_denied"), "{name:?}: {}", answer.text());
    }
}
