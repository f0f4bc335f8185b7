//! What a request offers the model, and about how long it is: from the one scan of its body.

use super::json_scan::Value;

/// Where the APIs name the tools: Anthropic and responses, chat and Ollama, the older chat.
pub(super) const PATHS: [&str; 3] = ["tools[].name", "tools[].function.name", "functions[].name"];

/// Names that are kept.
const NAMES_MAX: usize = 128;
/// Bytes that are kept of a name.
const NAME_MAX: usize = 128;
/// Bytes of JSON that make a token, about: four letters of English, fewer of other languages, far more of
/// pictures. An estimate for rough limits; what was used the provider tells.
const BYTES_PER_TOKEN: u64 = 4;

/// The tools a request offers, and its length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    names: Vec<Box<str>>,
    count: u32,
    bytes: u64,
}

impl Offer {
    pub(super) fn take(&mut self, value: &Value<'_>) {
        if let Value::Str(name) = value {
            self.count = self.count.saturating_add(1);
            if self.names.len() < NAMES_MAX {
                self.names.push(name[..name.floor_char_boundary(NAME_MAX)].into());
            }
        }
    }

    pub(super) fn add_bytes(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// The names of the tools, of the first 128 of them.
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// How many tools are offered.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// About how many tokens the request has: its bytes by four.
    pub fn token_estimate(&self) -> u64 {
        self.bytes.div_ceil(BYTES_PER_TOKEN)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::call::{CallPaths, CallScan};
    use super::*;

    fn offer(body: &str, size: usize) -> Offer {
        let mut scan = CallScan::new(Arc::new(CallPaths::new(&[])));
        body.as_bytes().chunks(size).for_each(|chunk| scan.feed(chunk));
        scan.finish().offer
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
