//! A request's body with another model in it, all other bytes as they came.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use crate::protocol::json::scan::{PathSet, Scanner};

/// Keys match in any ASCII case, as in [`super::body::RequestPaths`]: the model that a server obeys is replaced.
static MODEL: LazyLock<Arc<PathSet>> = LazyLock::new(|| Arc::new(PathSet::ignoring_case(["model"])));

/// The body with `name` in the place of its top-level `model`; `None` when there is no such text in it.
pub fn rewrite_model(body: &[u8], name: &str) -> Option<Vec<u8>> {
    let places = Scanner::places(Arc::clone(&MODEL), body);
    if places.is_empty() {
        return None;
    }
    let name = serde_json::Value::from(name).to_string();
    let mut renamed = Vec::with_capacity(body.len() + places.len() * name.len());
    let mut copied = 0;
    for place in places {
        renamed.extend_from_slice(&body[copied..place.start]);
        renamed.extend_from_slice(name.as_bytes());
        copied = place.end;
    }
    renamed.extend_from_slice(&body[copied..]);
    Some(renamed)
}

/// The beginning of a form with `name` in the place of the value at `place`; `None` when the form has not come so far.
pub fn rewrite_field(form: &[u8], place: Range<usize>, name: &str) -> Option<Vec<u8>> {
    let (before, after) = (form.get(..place.start)?, form.get(place.end..)?);
    Some([before, name.as_bytes(), after].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn renamed(body: &str, name: &str) -> Option<String> {
        rewrite_model(body.as_bytes(), name).map(|body| String::from_utf8(body).unwrap())
    }

    #[test]
    fn the_top_level_model_is_replaced_and_nothing_else() {
        for (body, expected) in [
            (r#"{"model":"a"}"#, r#"{"model":"b-1"}"#),
            (
                r#" { "x" : {"model":"a"}, "model" :  "a" , "y":[{"model":"a"}] } "#,
                r#" { "x" : {"model":"a"}, "model" :  "b-1" , "y":[{"model":"a"}] } "#,
            ),
            (r#"{"mod\u0065l":"a\u00e4\"x"}trailing"#, r#"{"mod\u0065l":"b-1"}trailing"#),
            (r#"{"model":"a","Model":"a"}"#, r#"{"model":"b-1","Model":"b-1"}"#),
            ("\u{feff}{\"model\":\"\"}", "\u{feff}{\"model\":\"b-1\"}"),
        ] {
            assert_eq!(renamed(body, "b-1").as_deref(), Some(expected), "{body}");
        }
        for body in
            [r#"{"model":1}"#, r#"{"model":null}"#, r#"["model","a"]"#, r#"{"model":"a"#, "", "model=a"]
        {
            assert_eq!(renamed(body, "b"), None, "{body}");
        }
        assert_eq!(renamed(r#"{"model":"a"}"#, "q\"\\\n").unwrap(), r#"{"model":"q\"\\\n"}"#);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            let keys =
                prop_oneof![Just("model".to_owned()), Just("messages".to_owned()), "\\PC{0,6}".boxed()];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((keys, inner), 0..5)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_byte_outside_the_model_stays(
            before in any_json(), after in any_json(), old in "\\PC{0,20}", new in "\\PC{0,20}", pretty: bool,
        ) {
            let body = json!({"a": before, "model": old, "z": after});
            let text = if pretty { serde_json::to_string_pretty(&body) } else { serde_json::to_string(&body) };
            let text = text.unwrap();
            let changed = renamed(&text, &new).unwrap();
            let head = text.len() - text.bytes().rev().zip(changed.bytes().rev()).take_while(|(a, b)| a == b).count();
            let same = text.bytes().zip(changed.bytes()).take_while(|(a, b)| a == b).count();
            // What differs lies within the one value.
            let value = serde_json::to_string(&old).unwrap();
            prop_assert!(head.saturating_sub(same) <= value.len());
            let mut expected = body;
            expected["model"] = Value::from(new.clone());
            prop_assert_eq!(serde_json::from_str::<Value>(&changed).unwrap(), expected);
            prop_assert_eq!(renamed(&changed, &old).unwrap(), text, "and back again, byte for byte");
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = rewrite_model(&bytes, "b");
        }
    }
}
