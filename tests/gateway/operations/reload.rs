use serde_json::{Value, json};

use crate::support::{Backend, Call, Demo, Gateway, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_moves_new_requests_to_the_new_backend() {
    let [old, new] = [Demo::start().await, Demo::start().await];
    let gateway = Gateway::start(&old).await;
    let mut running = Call::chat_stream("first [[words 30]] [[pace 20ms]]").open(gateway.proxy()).await;
    running.until("word1").await;
    gateway.rewrite(&format!("backend: {:?}\n", new.url()));
    gateway.hangup();
    within("the new backend", async {
        while new.ledger().arrived() == 0 {
            assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 200);
        }
    })
    .await;
    running.until("[DONE]").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_file_keeps_the_running_configuration_and_says_why() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    gateway.rewrite("backend: \"http://127.0.0.1:1\"\nno_such_key: 1\n");
    gateway.hangup();
    gateway.log_until(|line| line.to_string().contains("no_such_key")).await;
    assert_eq!(Call::chat("hello").send(gateway.proxy()).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_waits_for_a_restart_waits_through_every_reload() {
    let demo = Demo::start().await;
    let yaml = |threads: usize| format!("backend: {:?}\nserver: {{ threads: {threads} }}\n", demo.url());
    let gateway = Gateway::with(yaml(2)).await;
    let mut operator = gateway.operator().await;
    // The second reload finds no change, and the process still runs as it was started.
    for (threads, waiting) in
        [(2, json!([])), (3, json!(["server.threads"])), (3, json!(["server.threads"])), (2, json!([]))]
    {
        gateway.rewrite(&yaml(threads));
        let report = operator.post("/control/config/reload", &Value::Null).await.json();
        assert_eq!(report["restart_required"], waiting, "{report}");
        let config = operator.get("/control/config").await.json();
        assert_eq!((&config["server"]["threads"], &config["restart_required"]), (&json!(2), &waiting));
    }
}
