//! The instructions of a request: the system prompt, wherever the API has it.

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::segments::{self, Element, Reader, Segment};
use crate::policy::rule::{Place, Role};
use crate::protocol::dialects::spec::Dialect;
use crate::protocol::facts::model_request::Instructions;

/// Reads the instructions of a body of this dialect, decoded.
pub fn instructions(body: &[u8], dialect: Dialect) -> Instructions {
    let mut reading = Reading { hasher: Sha256::new(), texts: 0 };
    segments::read(body, dialect, &mut reading);
    match reading.texts {
        0 => Instructions::None,
        _ => Instructions::Digest(HEXLOWER.encode(&reading.hasher.finalize()).into()),
    }
}

struct Reading {
    hasher: Sha256,
    texts: usize,
}

impl Reader for Reading {
    fn begin(&mut self, element: &Element<'_>) -> bool {
        // A message of chat says who speaks in its texts only.
        element.role == Role::System || element.is_conversation && element.kind != Place::ToolDefinition
    }

    fn segment(&mut self, segment: &Segment<'_>) {
        if segment.kind == Place::System {
            if self.texts > 0 {
                self.hasher.update(b"\n");
            }
            self.hasher.update(segment.text);
            self.texts += 1;
        }
    }

    fn end(&mut self, _: &Element<'_>) {}
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn digest(text: &str) -> Instructions {
        Instructions::Digest(HEXLOWER.encode(&Sha256::digest(text)).into())
    }

    #[test]
    fn only_the_texts_count_in_every_dialect() {
        let said = |dialect: &str, body: &Value| {
            let dialect = Dialect::all().find(|known| known.name() == dialect).unwrap();
            instructions(body.to_string().as_bytes(), dialect)
        };
        let user = json!({"role": "user", "content": "hi"});
        let blocks = json!([{"type": "text", "text": "be kind", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "be \"short\""}]);
        for (dialect, body) in [
            ("anthropic", json!({"system": blocks, "messages": [user]})),
            (
                "openai_chat",
                json!({"messages": [{"role": "system", "content": "be kind"}, {"role": "developer", "content": "be \"short\""}, user]}),
            ),
            (
                "gemini",
                json!({"systemInstruction": {"parts": [{"text": "be kind"}, {"text": "be \"short\""}]}, "contents": [{"parts": [{"text": "hi"}]}]}),
            ),
        ] {
            assert_eq!(said(dialect, &body), digest("be kind\nbe \"short\""), "{dialect}");
        }
        assert_eq!(
            said("openai_responses", &json!({"instructions": "be kind", "input": "hi"})),
            digest("be kind")
        );
        assert_eq!(said("anthropic", &json!({"system": "be kind", "messages": [user]})), digest("be kind"));
        assert_eq!(said("anthropic", &json!({"messages": [user]})), Instructions::None);
    }
}
