//! Tests of what a request's body says.

use proptest::prelude::*;

use super::*;
use crate::protocol::chunks::{cut, sizes};

fn call(extra: &[&str], chunks: &[&[u8]]) -> ModelRequest {
    let extra: Vec<String> = extra.iter().map(|path| (*path).to_owned()).collect();
    let mut scan = RequestScan::new(&RequestPaths::new(&extra));
    for chunk in chunks {
        scan.feed(chunk);
    }
    scan.finish()
}

#[test]
fn the_model_is_found_wherever_it_stands() {
    let long = format!(
        r#"{{"messages":[{{"role":"user","content":"{}","model":"no"}}],"stream":true,"model":"gpt-5"}}"#,
        "x \\\" ".repeat(1 << 18)
    );
    let found = call(&[], &long.as_bytes().chunks(4096).collect::<Vec<_>>());
    assert_eq!(found.model.as_deref(), Some("gpt-5"));
    assert_eq!(found.stream, Some(true));
    assert!(!found.model_doubled && !found.malformed);
}

#[test]
fn hints_are_found_by_their_position() {
    let body =
        br#"{"model":"m","metadata":{"user_id":"{\"session_id\":\"s1\"}","n":7},"conversation":{"id":"c"},
        "prompt_cache_key":null}"#;
    let paths =
        ["metadata.user_id", "metadata.n", "conversation", "conversation.id", "prompt_cache_key", "model"];
    let found = call(&paths, &[body]);
    let hints: Vec<_> = (0..7).map(|index| found.hint(index)).collect();
    assert_eq!(hints, [Some(r#"{"session_id":"s1"}"#), Some("7"), None, Some("c"), None, Some("m"), None]);
    assert_eq!(found.model.as_deref(), Some("m"));
}

#[test]
fn two_different_models_are_noticed() {
    let doubled = |body: &str| {
        let found = call(&[], &[body.as_bytes()]);
        (found.model, found.model_doubled)
    };
    let cases = [
        (r#"{"model":"a","model":"b"}"#, "b", true),
        (r#"{"model":"a","model":"a"}"#, "a", false),
        (r#"{"model":"a","Model":"b"}"#, "b", true),
        (r#"{"model":"a","mod\u0065l":"b"}"#, "b", true),
        (r#"{"model":"a","model":"b","model":"a"}"#, "a", true),
        (r#"{"model":"a","x":{"model":"b"}}"#, "a", false),
    ];
    for (body, model, expected) in cases {
        assert_eq!(doubled(body), (Some(model.to_owned()), expected), "{body}");
    }
}

#[test]
fn a_body_that_is_not_json_says_so() {
    for body in ["", "model=x", "{\"model\":\"m\"", "--boundary\r\n", "{\0\"\0"] {
        let found = call(&[], &[body.as_bytes()]);
        assert!(found.malformed, "{body:?}");
    }
    assert_eq!(call(&[], &[b"{\"model\":\"m\","]).model.as_deref(), Some("m"));
}

proptest! {
    #[test]
    fn chunking_does_not_matter(sizes in sizes(), doubled in any::<bool>()) {
        let body = format!(
            r#" {{ "input" : [ {{ "model":"x" }}, "\"model\":\"y\"" ], "mod\u0065l":"gp\u0074-\ud83d\ude00",
                "metadata":{{"session_id":"s"}},"stream":false{} }} "#,
            if doubled { r#","model":"other""# } else { "" }
        );
        let whole = call(&["metadata.session_id"], &[body.as_bytes()]);
        prop_assert_eq!(whole.model_doubled, doubled);
        prop_assert_eq!(whole.hint(0), Some("s"));
        prop_assert_eq!(call(&["metadata.session_id"], &cut(body.as_bytes(), &sizes)), whole);
    }
}
