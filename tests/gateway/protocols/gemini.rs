use serde_json::{Value, json};

use crate::support::wire::Unframed;
use crate::support::{Backend, Call, Demo, Gateway};

const MODEL: &str = "/v1beta/models/gemini-2.5-pro";

fn ask(target: &str, text: &str) -> Call {
    Call::post(target).json(&json!({"contents": [{"role": "user", "parts": [{"text": text}]}]}))
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_answers_events_and_arrays_are_counted() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    for (session, verb, stream) in [
        ("whole", "generateContent", false),
        ("events", "streamGenerateContent?alt=sse", true),
        ("array", "streamGenerateContent", false),
    ] {
        let target = format!("{MODEL}:{verb}");
        let call = ask(&target, "one two three");
        let direct = call.send(demo.address()).await;
        let answer = call.session(session).send(gateway.proxy()).await;
        assert_eq!((answer.status(), &answer.body), (200, &direct.body), "{session}");
        if session == "array" {
            let pieces = answer.json();
            assert_eq!(pieces.as_array().map(Vec::len), Some(4), "{pieces}");
        }
        let state = gateway.session_until(session, |session| session["open_legs"] == 0).await;
        assert_eq!(
            (&state["usage"]["input_tokens"], &state["usage"]["output_tokens"]),
            (&json!(3), &json!(3)),
            "{state}"
        );
        assert_eq!(state["models"]["gemini-2.5-pro"], 1, "{state}");
        assert_eq!(state["error_count"], 0, "{state}");
        assert_eq!(state["requests"][0]["stream"], stream, "{state}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_in_the_path_is_routed_and_blocked() {
    let (google, other) = (Demo::start().await, Demo::start().await);
    let gateway = Gateway::with(format!(
        "backends:\n  google: {{ url: {:?}, type: gemini, models: ['gemini-*'] }}\n  \
         other: {{ url: {:?}, type: ollama, default: true }}\n\
         routing: {{ blocked_models: ['gemini-2.5-pro*'] }}\n",
        google.url(),
        other.url()
    ))
    .await;
    let answer = ask("/v1beta/models/gemini-2.5-flash:generateContent", "hello").send(gateway.proxy()).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!((google.ledger().arrived(), other.ledger().arrived()), (1, 0));
    for target in [
        "/v1beta/models/gemini-2.5-pro:generateContent",
        "/v1beta/models/gemini-2.5-pro%3AgenerateContent",
        "/v1beta/models/gemini-2%2E5-pro:streamGenerateContent?alt=sse",
        "/v1beta/models/GEMINI-2.5-PRO-latest:countTokens",
        "/v1beta/models//gemini-2.5-pro:generateContent",
        "/v1beta/models/gemini-2.5-pro:generateContent/x/..",
        "/google/v1beta/models/gemini-2.5-pro:generateContent",
    ] {
        let answer = ask(target, "hello").send(gateway.proxy()).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status(), &error["code"]), (403, &json!(403)), "{target}: {}", answer.text());
        assert_eq!(error["status"], "PERMISSION_DENIED", "{target}");
        assert_eq!(error["details"][0]["reason"], "policy_blocked", "{target}");
    }
    // A request that names two models is refused, whichever of them the backend would use.
    let two = "/v1beta/models/gemini-2.5-pro:generateContent/../gemini-2.5-flash:generateContent";
    assert!(matches!(ask(two, "x").send(gateway.proxy()).await.status(), 400 | 403));
    let both = Call::post("/v1beta/models/gemini-3:embedContent")
        .json(&json!({"model": "models/other", "content": {"parts": [{"text": "x"}]}}));
    assert_eq!(both.send(gateway.proxy()).await.status(), 400);
    assert_eq!((google.ledger().arrived(), other.ledger().arrived()), (1, 0));
}

/// The last element of a killed stream.
async fn killed(gateway: &Gateway, session: &str, verb: &str) -> String {
    let call = ask(&format!("{MODEL}:{verb}"), "[[words 100000]] [[pace 5ms]]").session(session);
    let mut client = call.open(gateway.proxy()).await;
    client.until("word3\"").await;
    assert_eq!(gateway.kill(session).await.body["legs_cut"], 1);
    let refused = call.send(gateway.proxy()).await;
    assert_eq!((refused.status(), &refused.json()["error"]["status"]), (403, &json!("PERMISSION_DENIED")));
    client.message(Unframed::UntilEnd).await.expect("an answer").text()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_stream_ends_with_an_error_of_googles() {
    let demo = Demo::start().await;
    let gateway = Gateway::start(&demo).await;
    let events = killed(&gateway, "events", "streamGenerateContent?alt=sse").await;
    let last = events.trim_end().rsplit("data: ").next().expect("an event");
    let last: Value = serde_json::from_str(last).expect(last);
    assert_eq!(last["error"]["details"][0]["reason"], "session_killed", "{last}");
    assert!(!events.contains("finishReason"));

    // After the comma of the next element no error can be written: the array stays open. Otherwise it ends
    // with the error. Neither is a whole answer.
    let array = killed(&gateway, "array", "streamGenerateContent").await;
    assert!(!array.contains("finishReason"));
    if let Ok(elements) = serde_json::from_str::<Vec<Value>>(&array) {
        assert_eq!(elements.last().expect("an element")["error"]["status"], "PERMISSION_DENIED");
    }
}
