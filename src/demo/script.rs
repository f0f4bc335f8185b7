//! Directives: what the last user text asks of the provider, between `[[` and `]]`.

use std::time::Duration;

use serde_json::{Map, Value};

use super::packing::Packing;

/// How an answer misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Twist {
    /// The head and the first word, then silence.
    Stall,
    /// Nothing at all, not even a head.
    Mute,
    /// The connection breaks in mid-answer.
    Cut,
    /// This status and an error body, and the seconds of a `retry-after`.
    Error(u16, Option<u32>),
}

/// A tool call the text asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ToolWish {
    pub(super) name: String,
    pub(super) arguments: Value,
}

/// Everything the directives of one text say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Script {
    pub(super) words: Option<usize>,
    pub(super) pace: Option<Duration>,
    pub(super) twist: Option<Twist>,
    pub(super) tool: Option<ToolWish>,
    pub(super) extra: Extra,
    pub(super) packing: Option<Packing>,
}

/// Tokens beside those that the words make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extra {
    /// Read from the prompt cache.
    pub(super) cached: usize,
    /// Written to it.
    pub(super) written: usize,
    /// Spent on reasoning.
    pub(super) reasoning: usize,
}

impl Script {
    /// Reads the directives of `text`; returns the text without them. What is between brackets
    /// but is no directive stays in the text.
    pub(super) fn read(text: &str) -> (Self, String) {
        let mut script = Self::default();
        let mut rest = String::new();
        let mut left = text;
        while let Some(start) = left.find("[[") {
            let inner = &left[start + 2..];
            let Some(length) = script.directive(inner) else {
                rest.push_str(&left[..start + 2]);
                left = inner;
                continue;
            };
            rest.push_str(&left[..start]);
            left = &inner[length..];
        }
        rest.push_str(left);
        (script, rest)
    }

    /// Takes one directive that begins `inner`; its length with the closing brackets, or `None`
    /// when there is no directive.
    fn directive(&mut self, inner: &str) -> Option<usize> {
        if let Some(call) = inner.strip_prefix("tool ") {
            let (wish, length) = tool(call)?;
            self.tool = Some(wish);
            return Some("tool ".len() + length);
        }
        let close = inner.find("]]")?;
        let (name, argument) = inner[..close].split_once(' ').unwrap_or((&inner[..close], ""));
        match name {
            "words" => self.words = Some(argument.trim().parse().ok()?),
            "pace" => self.pace = Some(humantime::parse_duration(argument.trim()).ok()?),
            "cached" => self.extra.cached = argument.trim().parse().ok()?,
            "written" => self.extra.written = argument.trim().parse().ok()?,
            "reasoning" => self.extra.reasoning = argument.trim().parse().ok()?,
            "gzip" => self.packing = Some(Packing::Gzip),
            "deflate" => self.packing = Some(Packing::Deflate),
            "br" => self.packing = Some(Packing::Brotli),
            "stall" => self.twist = Some(Twist::Stall),
            "mute" => self.twist = Some(Twist::Mute),
            "cut" => self.twist = Some(Twist::Cut),
            "error" => self.twist = Some(error(argument)?),
            _ => return None,
        }
        Some(close + 2)
    }
}

/// Reads `STATUS` or `STATUS SECONDS`.
fn error(argument: &str) -> Option<Twist> {
    let (status, seconds) = argument.trim().split_once(' ').unzip();
    let status =
        status.unwrap_or(argument.trim()).parse().ok().filter(|status| (400..=599).contains(status))?;
    let retry_after = seconds.map(|seconds| seconds.trim().parse()).transpose().ok()?;
    Some(Twist::Error(status, retry_after))
}

/// Reads `NAME {json}]]` or `NAME]]`; the JSON may hold brackets itself, so it is parsed.
fn tool(call: &str) -> Option<(ToolWish, usize)> {
    let name_end = call.find([' ', ']'])?;
    let name = call[..name_end].to_owned();
    let after = &call[name_end..];
    let mut values = serde_json::Deserializer::from_str(after).into_iter::<Map<String, Value>>();
    let (arguments, used) = match values.next() {
        Some(Ok(arguments)) => (arguments, values.byte_offset()),
        _ => (Map::new(), 0),
    };
    let close = after[used..].find("]]")?;
    let only_space = after[used..used + close].trim().is_empty();
    let length = name_end + used + close + 2;
    (only_space && !name.is_empty())
        .then_some((ToolWish { name, arguments: Value::Object(arguments) }, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn directives_are_taken_out_of_the_text() {
        let (script, rest) = Script::read("count [[words 3]][[pace 20ms]] please [[error 529]]");
        assert_eq!(script.words, Some(3));
        assert_eq!(script.pace, Some(Duration::from_millis(20)));
        assert_eq!(script.twist, Some(Twist::Error(529, None)));
        assert_eq!(rest, "count  please ");
        assert_eq!(Script::read("[[error 429 2]]").0.twist, Some(Twist::Error(429, Some(2))));
    }

    #[test]
    fn an_answer_may_be_compressed_and_cost_more() {
        let (script, rest) = Script::read("[[br]][[cached 7]][[written 2]][[reasoning 5]]hi");
        assert_eq!(script.packing, Some(Packing::Brotli));
        assert_eq!(script.extra, Extra { cached: 7, written: 2, reasoning: 5 });
        assert_eq!(rest, "hi");
    }

    #[test]
    fn a_tool_call_may_hold_brackets() {
        let (script, rest) = Script::read(r#"a [[tool Bash {"command":"[[ 1 ]] && echo"}]] b"#);
        let wish = script.tool.expect("a tool");
        assert_eq!(wish.name, "Bash");
        assert_eq!(wish.arguments, json!({"command": "[[ 1 ]] && echo"}));
        assert_eq!(rest, "a  b");
    }

    #[test]
    fn a_tool_call_needs_no_arguments() {
        let (script, _) = Script::read("[[tool now]]");
        assert_eq!(script.tool, Some(ToolWish { name: "now".into(), arguments: json!({}) }));
    }

    #[test]
    fn other_brackets_stay() {
        let texts = ["[[unknown]] x", "[[error 42]]", "[[error 500 soon]]", "[[words many]]", "[[ open"];
        for text in texts.into_iter().chain(["[[tool ", "[[tool x y]]"]) {
            let (script, rest) = Script::read(text);
            assert_eq!((script, rest.as_str()), (Script::default(), text));
        }
    }
}
