use std::time::Duration;

use crate::callers::keys::key;
use crate::support::agent::Agent;
use crate::support::program::{Home, Outcome, Program};
use crate::support::{Backend, Demo, Gateway, sha256};

/// Claude Code waits between the attempts of a request that it repeats.
const LIMIT: Duration = Duration::from_secs(120);

/// A provider, and a gateway that injects a key for it; `key` permits some models only.
async fn stage(key: &str) -> (Demo, Gateway) {
    let demo = Demo::start().await;
    let gateway = Gateway::with(format!(
        "auth:\n  proxy: required\n  principals:\n    - {{ id: ci, key_sha256: '{}', models: ['claude-*', 'gpt-*'] }}\n\
         backends:\n  demo: {{ url: {:?}, type: anthropic, default: true, auth: {{ mode: inject, api_key: sk-house }} }}\n",
        sha256(key.as_bytes()),
        demo.url()
    ))
    .await;
    (demo, gateway)
}

/// Claude Code with this key and model.
async fn claude(gateway: &Gateway, key: &str, model: &str) -> Outcome {
    let mut command = Agent::Claude.command(&gateway.url(), "one two three", None);
    command.env("ANTHROPIC_API_KEY", key).args(["--model", model]);
    Program::start(command, &Home::new()).outcome_in(LIMIT).await
}

/// The requests of a program that the gateway has refused.
fn refused(gateway: &Gateway, code: &str) -> usize {
    gateway.log_lines().iter().filter(|line| line["outcome"] == code).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn claude_code_works_with_a_key_and_its_user_reads_why_it_is_refused() {
    let (key, unknown) = (key(), key());
    let (demo, gateway) = stage(&key).await;
    let served = claude(&gateway, &key, "claude-sonnet-4-5").await;
    assert_eq!(served.code, Some(0), "{served:?}");
    assert_eq!(Agent::Claude.shown(&served).trim_matches('"'), "one two three");
    let seen = demo.ledger().requests();
    assert!(!seen.is_empty());
    for request in &seen {
        assert_eq!(request.header("x-api-key"), Some("sk-house"));
        assert!(!format!("{:?}", request.headers).contains(&key), "{:?}", request.headers);
    }
    assert_eq!(gateway.sessions().await[0]["principal"]["id"], "key:ci");

    let denied = claude(&gateway, &key, "opus-of-others").await;
    assert_eq!(denied.code, Some(1), "{denied:?}");
    let shown = Agent::Claude.shown(&denied);
    assert!(shown.contains("does not permit the model opus-of-others"), "the user reads why: {denied:?}");
    assert_eq!(refused(&gateway, "model_denied"), 1, "it stops at once: {denied:?}");

    let strange = claude(&gateway, &unknown, "claude-sonnet-4-5").await;
    assert_eq!(strange.code, Some(1), "{strange:?}");
    assert!(Agent::Claude.shown(&strange).contains("not known to this gateway"), "{strange:?}");
    assert_eq!(refused(&gateway, "key_unknown"), 1, "it stops at once: {strange:?}");
    assert_eq!(demo.ledger().requests().len(), seen.len(), "no refused request reaches the provider");
    assert!(!gateway.log_text().contains(&key) && !gateway.log_text().contains(&unknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_of_openai_works_with_a_key_and_raises_its_own_errors() {
    let (key, unknown) = (key(), key());
    let (demo, gateway) = stage(&key).await;
    let ask = async |key: &str, model: &str| {
        Program::python("keyed.py", &gateway.url(), &[key, model]).outcome_in(LIMIT).await.last()
    };
    assert_eq!(ask(&key, "gpt-demo").await["text"], "one two three");
    let reached = demo.ledger().arrived();
    for (key, model, class, status, code) in [
        (&key, "o3", "PermissionDeniedError", 403, "model_denied"),
        (&unknown, "gpt-demo", "AuthenticationError", 401, "key_unknown"),
    ] {
        let error = ask(key, model).await;
        assert_eq!((&error["error"], &error["status"]), (&class.into(), &status.into()), "{error}");
        assert_eq!(error["code"], code, "{error}");
        assert_eq!(refused(&gateway, code), 1, "it does not try again: {error}");
    }
    assert_eq!(demo.ledger().arrived(), reached);
}
