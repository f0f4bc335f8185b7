use super::rules::ruled;
use crate::support::{Call, Demo};

/// Rules that refuse what they find; each names the fact that it asks for.
const RULES: &str = r#"  rules:
    - { id: rule-tools, on: request, when: '"danger" in request.tools', action: block }
    - { id: rule-max, on: request, when: 'request.max_tokens > 1000', action: block }
    - { id: rule-stream, on: request, when: 'request.stream', action: block }"#;

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";
const RESPONSES: &str = "/v1/responses";
const GEMINI: &str = "/v1beta/models/gemini-flash:generateContent";
const BEDROCK: &str = "/model/amazon.nova-lite-v1:0/converse";
const OLLAMA: &str = "/api/chat";
const COHERE: &str = "/v2/chat";

/// Values of a kind that no API has there, or of thousands of digits.
const ODD: [&str; 4] = ["[2000]", "{}", "1.000", "\"    "];

/// More tools than are kept.
fn many() -> String {
    let tools: Vec<String> = (0..129).map(|at| format!(r#"{{"name": "t{at}"}}"#)).collect();
    format!(r#""tools": [{}]"#, tools.join(","))
}

/// The member that names the model, where the path does not.
fn model(path: &str) -> &'static str {
    if path.contains("/model") { "" } else { r#""model": "m", "# }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_body_says_in_two_ways_or_elsewhere_is_unknown_and_counts_as_met() {
    let demo = Demo::start().await;
    let gateway = ruled(&demo, RULES).await;
    let long = format!(r#""max_tokens": 1.{}"#, "0".repeat(5000));
    let far = format!(r#""max_tokens": "{}9999""#, " ".repeat(5000));
    let many = many();
    let tools = [
        (CHAT, r#""tools": [{"type": "function", "function": {"name": "danger"}}]"#),
        (CHAT, r#""tools": [{"type": "function", "function": {"name": "a"}, "name": "b"}]"#),
        (CHAT, r#""tools": [], "tools": [{"name": "a"}]"#),
        (CHAT, r#""tools": [{"name": "a"}], "Tools": []"#),
        (CHAT, "\"tool\u{17f}\": [{\"name\": \"danger\"}]"),
        (CHAT, r#""tools": [{"x": {"name": "a"}}]"#),
        (CHAT, r#""functions": [{"name": "danger"}]"#),
        (CHAT, r#""tools": {"0": {"type": "function", "function": {"name": "danger"}}}"#),
        (CHAT, r#""functions": {"a": {"name": "danger"}}"#),
        (MESSAGES, r#""tools": [{"name": "danger", "input_schema": {}}]"#),
        (MESSAGES, r#""mcp_servers": [{"name": "s", "url": "https://s"}]"#),
        (MESSAGES, r#""tools": [{"type": "mcp_toolset", "mcp_server_name": "s"}]"#),
        (MESSAGES, &many),
        (
            RESPONSES,
            r#""tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "danger"}]}]"#,
        ),
        (RESPONSES, r#""tools": [{"type": "mcp", "server_label": "s", "server_url": "https://s"}]"#),
        (RESPONSES, r#""prompt": {"id": "pmpt_1"}"#),
        (GEMINI, r#""tools": [{"functionDeclarations": [{"name": "danger"}]}]"#),
        (GEMINI, r#""tools": [{"function_declarations": [{"name": "a"}, {"name": "danger"}]}]"#),
        (GEMINI, r#""tools": {"function_declarations": [{"name": "danger"}]}"#),
        (GEMINI, r#""tools": [{"functionDeclarations": {"name": "danger"}}]"#),
        (GEMINI, r#""tools": [{"functionDeclarations": [{"description": "x"}]}]"#),
        (GEMINI, r#""cachedContent": "cachedContents/1""#),
        (BEDROCK, r#""toolConfig": {"tools": [{"toolSpec": {"name": "danger"}}]}"#),
        (BEDROCK, r#""toolConfig": {"tools": [{"toolSpec": {"description": "x"}}]}"#),
        (OLLAMA, r#""stream": false, "tools": [{"type": "function", "function": {"name": "danger"}}]"#),
        (COHERE, r#""tools": [{"type": "function", "function": {"name": "danger"}}]"#),
    ];
    let max = [
        (CHAT, r#""max_tokens": 2000"#),
        (CHAT, r#""max_completion_tokens": 2000"#),
        (CHAT, r#""max_tokens": 1, "max_tokens": 1"#),
        (CHAT, r#""max_tokens": 2000, "max_tokens": 1"#),
        (CHAT, r#""max_tokens": null, "max_tokens": 1"#),
        (CHAT, r#""Max_Tokens": 1, "max_tokens": 2"#),
        (CHAT, "\"max_to\u{212a}ens\": 2000"),
        (CHAT, r#""max_tokens": "1""#),
        (CHAT, r#""max_tokens": true"#),
        (CHAT, r#""max_tokens": [2000]"#),
        (CHAT, r#""max_tokens": 1, "max_completion_tokens": 2"#),
        (CHAT, r#""n_predict": 2000"#),
        (CHAT, r#""options": {"num_predict": 2000}"#),
        (CHAT, r#""max_tokens": -1"#),
        (OLLAMA, r#""stream": false, "options": {"num_predict": -1}"#),
        (OLLAMA, r#""stream": false, "options": {"num_predict": -2}"#),
        (CHAT, r#""max_tokens": 1, "n": "9999""#),
        (CHAT, &long),
        (CHAT, &far),
        (MESSAGES, r#""max_tokens": 1, "max\u005ftokens": 2000"#),
        (RESPONSES, r#""max_output_tokens": 2000"#),
        (GEMINI, r#""generationConfig": {"maxOutputTokens": 2000}"#),
        (GEMINI, r#""generation_config": {"max_output_tokens": 2000}"#),
        (GEMINI, r#""generationConfig": {"max_output_tokens": 2000}"#),
        (
            GEMINI,
            r#""generationConfig": {"maxOutputTokens": 1}, "generation_config": {"max_output_tokens": 2}"#,
        ),
        (GEMINI, r#""generationConfig": {"maxOutputTokens": "1"}"#),
        (BEDROCK, r#""inferenceConfig": {"maxTokens": 2000}"#),
        (BEDROCK, r#""inferenceConfig": {"maxTokens": 1, "maxTokens": 1}"#),
        (OLLAMA, r#""stream": false, "options": {"num_predict": 2000}"#),
        (OLLAMA, r#""stream": false, "options": {"num_predict": 1, "NUM_PREDICT": 2}"#),
        (COHERE, r#""max_tokens": 2000"#),
    ];
    let stream = [
        (CHAT, r#""stream": true"#),
        (CHAT, r#""stream": true, "stream": false"#),
        (CHAT, r#""Stream": true, "stream": false"#),
        (CHAT, "\"\u{17f}tream\": true"),
        (CHAT, r#""stream": 1"#),
        (CHAT, r#""stream": "true""#),
        (CHAT, r#""stream": {}"#),
        (MESSAGES, r#""stream": null, "stream": true"#),
        (RESPONSES, r#""stream": true"#),
        (OLLAMA, r#""options": {}"#),
        (OLLAMA, r#""stream": null"#),
        ("/v1beta/models/gemini-flash:streamGenerateContent", r#""stream": false"#),
        ("/model/amazon.nova-lite-v1:0/converse-stream", r#""stream": false"#),
        (COHERE, r#""stream": true"#),
    ];
    let mut number = 0;
    for (rule, cases) in [("rule-tools", &tools[..]), ("rule-max", &max), ("rule-stream", &stream)] {
        for (path, members) in cases {
            let body = format!("{{{}{members}}}", model(path));
            // A session of its own: the same request would be refused as a repetition.
            number += 1;
            let call =
                Call::post(path).header("content-type", "application/json").session(&format!("s{number}"));
            let refused = call.body(body).send(gateway.proxy()).await;
            let shown = &members[..members.len().min(200)];
            assert_eq!(refused.status(), 403, "{path} {shown}: {}", refused.text());
            // What is odd all the same is unclear to each rule, and the first refuses it.
            let is_met = refused.text().contains(rule) || ODD.iter().any(|odd| shown.contains(odd));
            assert!(is_met, "{path} {shown}: {}", refused.text());
        }
    }
    assert_eq!(demo.ledger().arrived(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_body_says_plainly_is_known() {
    let demo = Demo::start().await;
    let gateway = ruled(&demo, RULES).await;
    for (path, members) in [
        (CHAT, r#""stream": false, "max_tokens": 1000, "n": 1"#),
        (CHAT, r#""stream": null, "max_tokens": null, "tools": []"#),
        (
            CHAT,
            r#""stream_options": {"include_usage": true}, "tools": [{"type": "function", "function": {"name": "a"}}]"#,
        ),
        (CHAT, r#""x": {"stream": true, "max_tokens": 5000, "tools": [{"name": "danger"}]}"#),
        (
            MESSAGES,
            r#""max_tokens": 1, "tools": [{"name": "a"}, {"type": "web_search_20250305", "name": "web_search"}]"#,
        ),
        (
            RESPONSES,
            r#""tools": [{"type": "function", "name": "a", "parameters": {}}, {"type": "web_search"}], "prompt": null"#,
        ),
        (
            RESPONSES,
            r#""tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "a"}]}]"#,
        ),
        (
            GEMINI,
            r#""tools": [{"functionDeclarations": [{"name": "a"}, {"name": "b"}]}, {"googleSearch": {}}]"#,
        ),
        (GEMINI, r#""max_tokens": 5000, "generationConfig": {"maxOutputTokens": 10}"#),
        (
            BEDROCK,
            r#""toolConfig": {"tools": [{"toolSpec": {"name": "a"}}, {"cachePoint": {"type": "default"}}]}"#,
        ),
        (OLLAMA, r#""stream": false, "options": {"num_predict": 3}"#),
        (COHERE, r#""stream": false"#),
    ] {
        let body =
            format!(r#"{{{}"messages": [{{"role": "user", "content": "hi"}}], {members}}}"#, model(path));
        let passed = Call::post(path)
            .header("content-type", "application/json")
            .body(body)
            .send(gateway.proxy())
            .await;
        assert_ne!(passed.status(), 403, "{path} {members}: {}", passed.text());
    }
    let picture = format!("data:image/png;base64,{}", "A".repeat(9000));
    let body = format!(
        r#"{{"model": "m", "messages": [{{"role": "user", "content": [{{"type": "image_url", "image_url": {{"url": "{picture}"}}}}]}}]}}"#
    );
    let passed =
        Call::post(CHAT).header("content-type", "application/json").body(body).send(gateway.proxy()).await;
    assert_eq!(passed.status(), 200, "{}", passed.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_counted() {
    let demo = Demo::start().await;
    let gateway =
        ruled(&demo, "  rules: [{ id: long, on: request, when: messages.count > 2, action: block }]").await;
    let three = r#"{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}"#;
    let one =
        r#"{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}"#;
    let mut number = 0;
    let part = r#"{"role": "user", "parts": [{"text": "a"}, {"text": "b"}]}"#;
    for (path, members, is_refused) in [
        (CHAT, format!(r#""messages": [{three}]"#), true),
        (CHAT, format!(r#""messages": [{one}]"#), false),
        (CHAT, format!(r#""messages": [{one}], "messages": [{one}]"#), true),
        (CHAT, format!(r#""messages": [{one}], "Messages": [{one}]"#), true),
        (CHAT, format!(r#""messages": {one}"#), true),
        (MESSAGES, format!(r#""max_tokens": 9, "messages": [{three}]"#), true),
        (MESSAGES, format!(r#""max_tokens": 9, "messages": [{one}]"#), false),
        (RESPONSES, format!(r#""input": [{three}]"#), true),
        (RESPONSES, r#""input": "a""#.to_owned(), false),
        (RESPONSES, format!(r#""input": "a", "messages": [{one}]"#), true),
        (GEMINI, format!(r#""contents": [{part}, {part}, {part}]"#), true),
        (GEMINI, format!(r#""contents": [{part}]"#), false),
        (OLLAMA, format!(r#""messages": [{three}]"#), true),
        (COHERE, format!(r#""messages": [{one}]"#), false),
        ("/v1/embeddings", r#""input": ["a", "b"]"#.to_owned(), false),
        ("/v1/embeddings", r#""input": ["a", "b", "c"]"#.to_owned(), true),
        ("/api/generate", r#""prompt": "a""#.to_owned(), false),
    ] {
        let body = format!("{{{}{members}}}", model(path));
        number += 1;
        let call = Call::post(path)
            .header("content-type", "application/json")
            .session(&format!("s{number}"))
            .body(body);
        let answer = call.send(gateway.proxy()).await;
        assert_eq!(answer.status() == 403, is_refused, "{path} {members}: {}", answer.text());
    }
    let listed = Call::get("/v1/models").send(gateway.proxy()).await;
    assert_eq!(listed.status(), 200, "{}", listed.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn instructions_are_known_by_their_digest() {
    let demo = Demo::start().await;
    // printf 'be kind' | sha256sum
    let known = crate::support::sha256(b"be kind");
    let rule = format!(
        "  rules: [{{ id: own, on: request, when: 'request.system_digest != \"{known}\"', action: block }}]"
    );
    let gateway = ruled(&demo, &rule).await;
    let user = r#"{"role": "user", "content": "a"}"#;
    let mut number = 0;
    for (path, members, is_refused) in [
        (MESSAGES, format!(r#""max_tokens": 9, "system": "be kind", "messages": [{user}]"#), false),
        (MESSAGES, format!(r#""max_tokens": 9, "system": [{{"type": "text", "text": "be kind"}}], "messages": [{user}]"#), false),
        (MESSAGES, format!(r#""max_tokens": 9, "system": "be evil", "messages": [{user}]"#), true),
        (MESSAGES, format!(r#""max_tokens": 9, "system": "be kind", "system": "be evil", "messages": [{user}]"#), true),
        (MESSAGES, format!(r#""max_tokens": 9, "messages": [{user}]"#), true),
        (CHAT, format!(r#""messages": [{{"role": "system", "content": "be kind"}}, {user}]"#), false),
        (CHAT, format!(r#""messages": [{{"role": "system", "content": "be kind"}}, {{"role": "developer", "content": "and evil"}}, {user}]"#), true),
        (RESPONSES, r#""instructions": "be kind", "input": "a""#.to_owned(), false),
        (RESPONSES, r#""instructions": "be evil", "input": "a""#.to_owned(), true),
        (GEMINI, r#""systemInstruction": {"parts": [{"text": "be kind"}]}, "contents": [{"parts": [{"text": "a"}]}]"#.to_owned(), false),
    ] {
        let body = format!("{{{}{members}}}", model(path));
        number += 1;
        let call = Call::post(path)
            .header("content-type", "application/json")
            .session(&format!("s{number}"))
            .body(body);
        let answer = call.send(gateway.proxy()).await;
        assert_eq!(answer.status() == 403, is_refused, "{path} {members}: {}", answer.text());
    }
}
