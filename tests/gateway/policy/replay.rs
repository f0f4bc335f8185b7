//! `elida policy replay`, and the commands for flags and suppressions.

use serde_json::{Value, json};

use crate::support::{Backend, Call, Demo, Gateway};

#[tokio::test(flavor = "multi_thread")]
async fn stored_requests_say_what_new_rules_would_have_stopped() {
    let demo = Demo::start().await;
    let yaml = format!("backend: {:?}\ncapture: {{ mode: all }}\n", demo.url());
    let gateway = Gateway::with(&yaml).await;
    let tool = |name: &str| {
        Call::post("/v1/messages").json(&json!({"model": "m", "max_tokens": 9, "stream": true,
            "messages": [{"role": "user", "content": format!("sure [[tool {name} {{\"to\": \"production\"}}]]")}],
            "tools": [{"name": name, "input_schema": {}}]}))
    };
    for (session, call) in [
        ("one", Call::chat("hello")),
        ("two", tool("deploy")),
        ("two", tool("deploy")),
        ("two", tool("read")),
        ("one", Call::chat("[[error 500]]")),
    ] {
        call.session(session).send(gateway.proxy()).await;
    }
    assert_eq!(gateway.kill("two").await.status, 200);
    gateway.answer_until("/control/records/two", |detail| detail["record"].is_object()).await;
    let stored =
        |count: usize| move |page: &Value| page["captures"].as_array().is_some_and(|all| all.len() >= count);
    gateway.answer_until("/control/history/two/captures", stored(3)).await;
    gateway.answer_until("/control/history/one/captures", stored(2)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let (rules, config) = (folder.path().join("new.yaml"), folder.path().join("elida.yaml"));
    std::fs::write(&config, format!("{yaml}data_dir: {:?}\n", gateway.data())).expect("a file");
    std::fs::write(
        &rules,
        r#"policy:
  rules:
    - { id: deploys, on: tool_call, when: 'tool.args.to == "production" && tool.name == "deploy"', action: hold }
    - { id: again, on: request, when: 'session.requests == 2', action: flag }
    - { id: late, on: request, when: 'time.hour > 23', action: block }
"#,
    )
    .expect("a file");
    let words = ["policy", "replay", "--since", "1d", "--json", "--rules"];
    let words =
        [&words[..], &[rules.to_str().expect("a path"), "-c", config.to_str().expect("a path")]].concat();
    let replay: Value = crate::support::json(gateway.elida(&words).await.as_bytes());
    assert_eq!((&replay["requests"], &replay["would_stop"]), (&json!(5), &json!(2)), "{replay:#}");
    let deploys = &replay["rules"]["deploys"];
    assert_eq!((&deploys["hits"], &deploys["sessions"]), (&json!(2), &json!(["two"])), "{replay:#}");
    assert_eq!(deploys["principals"].as_array().map(Vec::len), Some(1), "{replay:#}");
    assert_eq!(replay["rules"]["again"]["hits"], 2, "{replay:#}");
    assert!(replay["rules"].get("late").is_none(), "{replay:#}");
    let words: Vec<&str> = words.into_iter().filter(|word| *word != "--json").collect();
    let text = gateway.elida(&words).await;
    assert!(text.contains("5 requests, of which 2 passed and would be held or refused now"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_and_suppressions_have_commands_and_a_suppression_lifts_the_order_against_repeats() {
    let demo = Demo::start().await;
    let gateway = Gateway::with(format!(
        "backend: {:?}\npolicy:\n  rules:\n    - {{ id: no-plums, on: request, match: {{ any: [purple plums] }}, action: block }}\n",
        demo.url()
    ))
    .await;
    let send = async || Call::chat("two purple plums").session("s").send(gateway.proxy()).await.status();
    assert_eq!(send().await, 403);
    let text = gateway.elida(&["policy", "flags", "--rule", "no-plums"]).await;
    assert!(text.contains("no-plums") && text.contains("block"), "{text}");
    let flags = gateway.answer_until("/control/flags", |page| page["flags"][0].is_object()).await;
    let digest = flags["flags"][0]["digest"].as_str().expect("a digest").to_owned();
    let words = [
        "policy", "suppress", "no-plums", "--until", "1h", "--reason", "a test", "--digest", &digest,
        "--json",
    ];
    let made: Value = crate::support::json(gateway.elida(&words).await.as_bytes());
    assert_eq!(send().await, 200, "the order against repeats is lifted, too");
    let text = gateway.elida(&["policy", "suppressions"]).await;
    assert!(text.contains("a test") && text.contains(&digest), "{text}");
    let id = made["id"].as_str().expect("an id");
    let text = gateway.elida(&["policy", "unsuppress", id]).await;
    assert!(text.contains("count again"), "{text}");
    assert_eq!(send().await, 403);
}
