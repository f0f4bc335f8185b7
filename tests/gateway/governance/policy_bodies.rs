use serde_json::{Value, json};

use super::policy_requests::{BLOCK, PHRASE, governed, governed_with};
use crate::protocols::websocket::switching;
use crate::support::socket::{Frame, Socket, handshake, open};
use crate::support::wire::Message;
use crate::support::{Backend, Call, Connection, Demo, Gateway, RawBackend, within};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_uploaded_is_cut_before_it_is_complete() {
    let backend = RawBackend::start(async |mut connection: Connection| {
        let Some(head) = connection.request_head().await else { return };
        connection.rest_of(head).await;
    })
    .await;
    let gateway = Gateway::with(format!(
        "backends:\n  main: {{ url: {:?}, type: http, default: true }}\npolicy:\n  rules:\n{BLOCK}\n",
        backend.url()
    ))
    .await;
    for (media, text) in [
        ("text/plain", format!("please {PHRASE}")),
        ("application/x-www-form-urlencoded", format!("a=1&b=please+{}", PHRASE.replace(' ', "+"))),
        ("application/octet-stream", format!("\0\u{1}{PHRASE}")),
    ] {
        let call = Call::post("/upload").header("content-type", media).body(text).chunked(6);
        let answer = call.send(gateway.proxy()).await;
        assert_eq!(answer.status(), 403, "{media}: {}", answer.text());
        assert!(
            answer.text().contains("no-missiles") && !answer.text().contains(PHRASE),
            "{}",
            answer.text()
        );
    }
    let clean =
        Call::post("/upload").header("content-type", "text/plain").body("launch the rockets").chunked(4);
    clean.open(gateway.proxy()).await;
    within(
        "the clean upload",
        backend.until("a whole request", |backend| {
            backend.requests().iter().any(|request| request.text() == "launch the rockets")
        }),
    )
    .await;
    assert!(
        backend.requests().iter().all(|request| !request.text().contains("missiles")),
        "{:?}",
        backend.requests()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_is_judged_whole_and_in_parts() {
    let (backend, gateway) = governed(BLOCK).await;
    let form = |text: &str, more: usize| {
        let rest = "x".repeat(more);
        format!(
            "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\n{text}\r\n\
             --b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n{rest}\r\n--b--\r\n"
        )
    };
    let send = async |body: String| {
        let call = Call::post("/v1/images/edits").header("content-type", "multipart/form-data; boundary=b");
        call.body(body).send(gateway.proxy()).await
    };
    for more in [0, 300_000] {
        let answer = send(form(PHRASE, more)).await;
        assert!(answer.status() == 403 && answer.text().contains("no-missiles"), "{}", answer.text());
        assert_eq!(send(form("launch", more)).await.status(), 200);
    }
    assert_eq!(backend.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_pairs_and_encoded_parts_are_read() {
    let (backend, gateway) = governed(BLOCK).await;
    let refused = async |call: Call, what: &str| {
        let answer = call.send(gateway.proxy()).await;
        assert!(answer.status() == 403 && answer.text().contains("no-missiles"), "{what}: {}", answer.text());
    };
    let encoded: String = PHRASE.bytes().map(|byte| format!("={byte:02X}")).collect();
    let plus = PHRASE.replace(' ', "+");
    for query in [plus.clone(), PHRASE.bytes().map(|byte| format!("%{byte:02x}")).collect()] {
        refused(Call::get(&format!("/v1/models?q={query}")), "a query").await;
        let chat = Call::post(&format!("/v1/chat/completions?q={query}"));
        refused(
            chat.header("content-type", "application/json").body(r#"{"model":"m","messages":[]}"#),
            "a query of a call",
        )
        .await;
    }
    let pairs =
        Call::post("/v1/chat/completions").header("content-type", "application/x-www-form-urlencoded");
    refused(pairs.body(format!("model=m&prompt=please+{plus}")), "pairs").await;
    for more in [0, 300_000] {
        let body = format!(
            "--b\r\nContent-Disposition: form-data; name=\"prompt\"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n{encoded}\r\n\
             --b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\n{}\r\n--b--\r\n",
            "x".repeat(more)
        );
        let form = Call::post("/v1/images/edits").header("content-type", "multipart/form-data; boundary=b");
        refused(form.body(body), "an encoded part").await;
    }
    assert!(backend.requests().is_empty());
    let keyed = Call::get(&format!("/v1beta/models?key={plus}&pageSize=5")).send(gateway.proxy()).await;
    assert_eq!(keyed.status(), 200, "a credential is no text: {}", keyed.text());
}

/// A backend that answers the handshake and counts the frames that it gets.
async fn counting() -> RawBackend {
    switching(async |mut connection: Connection| {
        while let Some(frame) = connection.frame().await {
            if connection.send(Frame::text(&format!("{}", frame.payload.len())).plain()).await.is_err() {
                break;
            }
        }
        connection.gone();
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_a_socket_is_judged_before_its_last_frame() {
    let backend = counting().await;
    let gateway = Gateway::with(format!("backend: {:?}\npolicy:\n  rules:\n{BLOCK}\n", backend.url())).await;
    let create = |text: &str| {
        json!({"type": "response.create", "response": {"input": [{"role": "user", "content": text}]}})
            .to_string()
    };
    for target in ["/v1/responses", "/v1/realtime?model=m"] {
        let mut client = open(gateway.proxy(), &handshake(target)).await;
        let clean = create("launch the rockets");
        client.send(&Frame::text(&clean).masked()).await.expect("sent");
        assert_eq!(client.frame().await.expect("an echo").payload, clean.len().to_string().into_bytes());
        // The message comes in two frames; the second completes it.
        let text = create(&format!("{target}: please {PHRASE}"));
        let (first, second) = text.split_at(text.len() - 20);
        let begin = Frame { first: 0x01, payload: first.as_bytes().to_vec() };
        let end = Frame { first: 0x80, payload: second.as_bytes().to_vec() };
        client.send(&begin.masked()).await.expect("sent");
        assert_eq!(client.frame().await.expect("an echo").payload, first.len().to_string().into_bytes());
        client.send(&end.masked()).await.expect("sent");
        let event = client.frame().await.expect("an error event");
        let told = String::from_utf8_lossy(&event.payload).into_owned();
        assert!(told.contains("policy_blocked") && !told.contains(PHRASE), "{told}");
        assert_eq!(client.frame().await.expect("a Close frame").closes().expect("a code").0, 1008);
        assert!(client.frame().await.is_none(), "the backend has not seen the last frame");
    }
    let refused = gateway
        .metric("elida_policy_decisions_total{action=\"block\",mode=\"enforce\",rule=\"no-missiles\"}")
        .await;
    assert_eq!(refused, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_of_a_real_client_goes_on_until_it_is_refused() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(format!("backend: {:?}\npolicy:\n  rules:\n{BLOCK}\n", demo.url())).await;
    let mut socket = Socket::open(gateway.proxy(), "/v1/realtime?model=gpt-realtime-demo", "voice").await;
    socket.ask("one two").await;
    socket.until("response.done").await;
    socket.ask(PHRASE).await;
    let (events, ended) = socket.end().await;
    assert_eq!(ended.expect("a Close frame").0, 1008);
    let last = events.last().expect("an event");
    assert!(last["type"] == "error" && last["error"]["code"] == "policy_blocked", "{last}");
}

fn call(id: u32, tool: &str, arguments: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
}

async fn mcp(gateway: &Gateway, body: impl ToString) -> Message {
    let call = Call::post("/mcp").header("accept", "application/json, text/event-stream");
    call.header("content-type", "application/json").body(body.to_string()).send(gateway.proxy()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_mcp_are_judged_as_tool_calls() {
    let rules = "    - { id: no-rm, on: tool_call, when: 'tool.args.path == \"/\"', action: block, message: 'not the root' }\n    \
        - { id: no-drop, on: tool_call, match: { in: tool.args, any: ['drop table'] }, action: block }\n    \
        - { id: no-server, on: tool_call, when: 'tool.server == \"default\" && tool.source == \"client\" && tool.name == \"reboot\"', action: block }";
    let tools = "  tools: { deny: ['admin_*'] }\n";
    let (backend, gateway) = governed_with(tools, rules).await;
    let refused = async |body: Value, why: &str| {
        let before = backend.requests().len();
        let answer = mcp(&gateway, &body).await;
        let text = answer.text();
        assert!(answer.status() == 200 && text.contains(why), "{body}: {} {text}", answer.status());
        assert!(!text.to_lowercase().contains("drop table"), "{text}");
        assert_eq!(backend.requests().len(), before);
        answer.json()
    };
    assert_eq!(mcp(&gateway, call(1, "rm", json!({"path": "/var"}))).await.status(), 200);
    let told = refused(call(2, "rm", json!({"path": "/"})), "not the root").await;
    assert_eq!(
        (&told["id"], &told["result"]["isError"]),
        (&json!(2), &json!(true)),
        "the model reads it and goes on"
    );
    refused(call(3, "sql", json!({"q": ["DROP  \n TABLE users"]})), "no-drop").await;
    refused(call(4, "admin_delete", json!({})), "tool_denied").await;
    refused(call(5, "reboot", json!({})), "no-server").await;
    let batch = json!([call(6, "ok", json!({})), call(7, "rm", json!({"path": "/"}))]);
    let answers = refused(batch, "not the root").await;
    assert_eq!(answers.as_array().expect("answers").len(), 2);
    // What a server may read otherwise.
    for body in [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"rm","arguments":{"path":"/var"},"arguments":{"path":"/"}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ok","arguments":{}},"params":{"name":"admin_x"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools\/call","params":{"n\u0061me":"admin_x"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"rm","arguments":{"path":"/","path":"/var"}}}"#,
    ] {
        let before = backend.requests().len();
        let answer = mcp(&gateway, body).await.text();
        assert!(answer.contains("tool_denied") || answer.contains("policy_blocked"), "{body}: {answer}");
        assert_eq!(backend.requests().len(), before, "{body}");
    }
    let listed = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    assert_eq!(mcp(&gateway, listed).await.status(), 200);
}
