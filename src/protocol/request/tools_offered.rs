//! Where the APIs name the tools that a request offers the model.

/// Where the APIs name the tools: Anthropic and responses, chat and Ollama, the older chat.
pub(super) const PATHS: [&str; 3] = ["tools[].name", "tools[].function.name", "functions[].name"];

#[cfg(test)]
mod tests {
    use super::super::body::{RequestPaths, RequestScan};
    use crate::protocol::facts::tools_offered::{NAME_MAX, NAMES_MAX, ToolsOffered};

    fn offer(body: &str, size: usize) -> ToolsOffered {
        let mut scan = RequestScan::new(&RequestPaths::new(&[]));
        body.as_bytes().chunks(size).for_each(|chunk| scan.feed(chunk));
        scan.finish().tools_offered
    }

    #[test]
    fn tools_are_named_by_every_api() {
        let cases = [
            r#"{"tools":[{"name":"a","input_schema":{"name":"x"}},{"type":"custom","name":"b"}]}"#,
            r#"{"tools":[{"type":"function","function":{"parameters":{"name":{}},"name":"a"}},{"function":{"name":"b"}}]}"#,
            r#"{"functions":[{"name":"a"},{"name":"b"}],"messages":[{"tools":[{"name":"x"}]}]}"#,
        ];
        for body in cases {
            let whole = offer(body, body.len());
            assert_eq!((whole.names(), whole.count()), (&["a".into(), "b".into()][..], 2), "{body}");
            assert_eq!(whole.token_estimate(), (body.len() as u64).div_ceil(4));
            for size in 1..20 {
                assert_eq!(offer(body, size), whole, "{body} in chunks of {size}");
            }
        }
        assert_eq!(offer(r#"{"tools":null,"functions":"x"}"#, 5).count(), 0);
    }

    #[test]
    fn names_are_bounded_and_counted() {
        let tools = vec![format!(r#"{{"name":"{}"}}"#, "é".repeat(100)); 300].join(",");
        let many = offer(&format!(r#"{{"tools":[{tools}]}}"#), 1000);
        assert_eq!((many.names().len(), many.count()), (NAMES_MAX, 300));
        assert!(many.names().iter().all(|name| name.len() == NAME_MAX));
    }
}
