//! All dialects and providers, and which dialect a request speaks.
//!
//! A new one is a file of its own and one line in [`DIALECTS`] or [`PROVIDERS`].

use std::borrow::Cow;

use http::HeaderMap;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer};
use serde::{Serialize, Serializer};

use super::path_method::other_spellings;
use super::spec::{BackendKind, Dialect, DialectSpec, ProviderSpec};
use super::{
    a2a, anthropic, bedrock, cohere, gemini, mcp, mistral, ollama, openai, plain, realtime, responses,
};

/// The dialects in the order in which their rules are tried. Those of models precede MCP and A2A, so that no header
/// field a client adds turns a request to a model into something else.
static DIALECTS: [&DialectSpec; 14] = [
    &openai::CHAT,
    &responses::SPEC,
    &realtime::SPEC,
    &anthropic::SPEC,
    &cohere::SPEC,
    &ollama::SPEC,
    &mistral::SPEC,
    &gemini::SPEC,
    &bedrock::SPEC,
    &bedrock::ASYNC,
    &openai::OTHER,
    &mcp::SPEC,
    &a2a::SPEC,
    &plain::SPEC,
];

/// The types of backends, in the order of the configuration's schema.
static PROVIDERS: [&ProviderSpec; 9] = [
    &ollama::PROVIDER,
    &openai::PROVIDER,
    &anthropic::PROVIDER,
    &mistral::PROVIDER,
    &gemini::PROVIDER,
    &cohere::PROVIDER,
    &mcp::PROVIDER,
    &a2a::PROVIDER,
    &plain::PROVIDER,
];

impl Dialect {
    /// All dialects.
    pub fn all() -> impl Iterator<Item = Self> {
        DIALECTS.iter().map(|spec| Self(spec))
    }

    /// The dialect of a path without its query, and of the header fields beside it.
    pub fn detect(path: &str, headers: &HeaderMap) -> Self {
        let path = path.strip_suffix('/').unwrap_or(path);
        Self::first(|spec| {
            spec.rules.iter().any(|(rule, field)| {
                rule.matches(path) && field.is_none_or(|name| headers.contains_key(name))
            })
        })
    }

    /// Whether a path that is of no known API is another spelling of one that is: in other letters, percent-encoded, with
    /// empty segments, dots, control characters or `;parameters`. A server may take the one for the other.
    pub fn is_respelled(path: &str, headers: &HeaderMap) -> bool {
        let is_model =
            |path: &String| Self::detect(path, headers).is_llm() || Self::detect_socket(path).is_llm();
        other_spellings(path).iter().any(is_model)
    }

    /// The dialect of a WebSocket at this path. HTTP requests below `/v1/realtime` create keys and calls,
    /// and speak another one.
    pub fn detect_socket(path: &str) -> Self {
        let path = path.strip_suffix('/').unwrap_or(path);
        Self::first(|spec| spec.socket_paths.iter().any(|rule| rule.matches(path)))
    }

    fn first(matches: impl Fn(&DialectSpec) -> bool) -> Self {
        Self(DIALECTS.iter().find(|spec| matches(spec)).unwrap_or(&&plain::SPEC))
    }

    /// What a POST to this path asks of a model, in the word of `gen_ai.operation.name`; `None` for what is no
    /// such question (a count of tokens).
    pub fn operation(self, path: &str) -> Option<&'static str> {
        let path = path.strip_suffix('/').unwrap_or(path);
        let mut all = DIALECTS.iter().flat_map(|spec| spec.operations);
        let found = all.find(|(end, _)| path.ends_with(end)).filter(|_| self.is_llm());
        found.map(|(_, operation)| *operation)
    }
}

impl BackendKind {
    /// The type of a backend of which only the URL is written (`backend: URL`).
    pub const OF_URL: Self = Self(&ollama::PROVIDER);

    /// All types of backends.
    pub fn all() -> impl Iterator<Item = Self> {
        PROVIDERS.iter().map(|spec| Self(spec))
    }

    /// The header fields of a client, of any provider, that belong to the request for a list of models.
    pub fn client_headers() -> impl Iterator<Item = &'static str> {
        PROVIDERS.iter().flat_map(|spec| spec.client_headers.iter().copied())
    }
}

impl Serialize for BackendKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for BackendKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<str>::deserialize(deserializer)?;
        Self::all().find(|kind| kind.name() == name).ok_or_else(|| {
            let names: Vec<String> = Self::all().map(|kind| format!("`{}`", kind.name())).collect();
            de::Error::custom(format!("unknown variant `{name}`, expected one of {}", names.join(", ")))
        })
    }
}

impl JsonSchema for BackendKind {
    fn schema_name() -> Cow<'static, str> {
        "BackendKind".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let kinds: Vec<Schema> = PROVIDERS
            .iter()
            .map(|spec| json_schema!({"type": "string", "const": spec.name, "description": spec.summary}))
            .collect();
        json_schema!({"description": "What a configured backend is (`backends.NAME.type`).", "oneOf": kinds})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::dialects::spec::PathRule;

    #[test]
    fn the_end_of_the_path_tells_the_dialect() {
        let cases = [
            ("/v1/chat/completions", Dialect::OPENAI_CHAT),
            ("/openai/v1/chat/completions", Dialect::OPENAI_CHAT),
            ("/v1/chat/completions/", Dialect::OPENAI_CHAT),
            ("/v1/chat/completions/chatcmpl-1", Dialect::OPENAI_OTHER),
            ("/v1/responses", Dialect::OPENAI_RESPONSES),
            ("/backend-api/codex/responses", Dialect::OPENAI_RESPONSES),
            ("/v1/responses/resp_1/cancel", Dialect::OPENAI_RESPONSES),
            ("/v1/completions", Dialect::OPENAI_OTHER),
            ("/v1/fim/completions", Dialect::OPENAI_OTHER),
            ("/v1/embeddings", Dialect::OPENAI_OTHER),
            ("/v1/models", Dialect::OPENAI_OTHER),
            ("/v1/models/gpt-5", Dialect::OPENAI_OTHER),
            ("/v1/messages", Dialect::ANTHROPIC),
            ("/anthropic/v1/messages", Dialect::ANTHROPIC),
            ("/v1/messages/count_tokens", Dialect::ANTHROPIC),
            ("/api/chat", Dialect::OLLAMA),
            ("/ollama/api/generate", Dialect::OLLAMA),
            ("/api/embeddings", Dialect::OLLAMA),
            ("/api/blobs/sha256:00", Dialect::OLLAMA),
            ("/v1beta/models/gemini-2.5-pro:generateContent", Dialect::GEMINI),
            ("/google/v1/models/gemini-2.5-pro:embedContent", Dialect::GEMINI),
            ("/v1beta/models", Dialect::GEMINI),
            ("/v1beta/openai/chat/completions", Dialect::OPENAI_CHAT),
            ("/v2/chat", Dialect::COHERE),
            ("/cohere/v2/embed", Dialect::COHERE),
            ("/v1/models/ft:gpt-4o:acme::1", Dialect::OPENAI_OTHER),
            ("/v1/audio/transcriptions", Dialect::OPENAI_OTHER),
            ("/openai/deployments/whisper/audio/translations", Dialect::OPENAI_OTHER),
            ("/v1/images/edits", Dialect::OPENAI_OTHER),
            ("/v1/publishers/anthropic/models/claude-sonnet-4:streamRawPredict", Dialect::ANTHROPIC),
            ("/v1/publishers/mistralai/models/codestral:rawPredict", Dialect::MISTRAL),
            ("/v1/publishers/google/models/gemini-3:generateContent", Dialect::GEMINI),
            ("/model/anthropic.claude-3-haiku-20240307-v1:0/invoke", Dialect::ANTHROPIC),
            ("/bedrock/async-invoke", Dialect(&bedrock::ASYNC)),
            ("/model/amazon.nova-sonic-v1:0/invoke-with-bidirectional-stream", Dialect(&bedrock::SPEC)),
            ("/build/mcp", Dialect::MCP),
            ("/mcp/", Dialect::MCP),
            ("/agent/v1/message:stream", Dialect::A2A),
            ("/mcpx", Dialect::PLAIN),
            ("/api/users", Dialect::PLAIN),
            ("/v1/threads/t/messages", Dialect::PLAIN),
            ("/messages", Dialect::PLAIN),
            ("/api/chatter", Dialect::PLAIN),
            ("/", Dialect::PLAIN),
            ("", Dialect::PLAIN),
        ];
        for (path, dialect) in cases {
            assert_eq!(Dialect::detect(path, &HeaderMap::new()), dialect, "{path}");
        }
    }

    #[test]
    fn fields_tell_where_the_path_does_not() {
        let detect = |path: &str, field: &'static str| {
            Dialect::detect(path, &HeaderMap::from_iter([(field.parse().unwrap(), "x".parse().unwrap())]))
        };
        assert_eq!(detect("/", "mcp-session-id"), Dialect::MCP);
        assert_eq!(detect("/tools", "mcp-protocol-version"), Dialect::MCP);
        assert_eq!(detect("/tasks/1", "a2a-version"), Dialect::A2A);
        assert_eq!(detect("/v1/models", "anthropic-version"), Dialect::ANTHROPIC);
        // A model call stays one, whatever else its client says.
        for field in ["mcp-session-id", "mcp-method", "a2a-version"] {
            for dialect in Dialect::all() {
                for (rule, _) in dialect.0.rules.iter().filter(|(_, field)| field.is_none()) {
                    let path = match rule {
                        PathRule::EndsWith(path) => (*path).to_owned(),
                        PathRule::Contains(path) => format!("{path}x"),
                        PathRule::Matches(_) | PathRule::Any => continue,
                    };
                    assert_eq!(detect(&path, field).is_llm(), dialect.is_llm(), "{path} {field}");
                }
            }
            assert_eq!(detect("/api/chat", field), Dialect::OLLAMA);
            assert_eq!(detect("/v1beta/models/g:generateContent", field), Dialect::GEMINI);
        }
    }

    #[test]
    fn a_sockets_path_tells_its_dialect() {
        let cases = [
            ("/v1/realtime", Dialect::OPENAI_REALTIME),
            ("/openai/v1/realtime/", Dialect::OPENAI_REALTIME),
            ("/openai/realtime", Dialect::OPENAI_REALTIME),
            ("/v1/realtime/translations", Dialect::OPENAI_REALTIME),
            ("/v1/responses", Dialect::OPENAI_RESPONSES),
            ("/backend-api/codex/responses", Dialect::OPENAI_RESPONSES),
            ("/v1/chat/completions", Dialect::PLAIN),
            ("/realtime/v1/websocket", Dialect::PLAIN),
            ("/", Dialect::PLAIN),
        ];
        for (path, dialect) in cases {
            assert_eq!(Dialect::detect_socket(path), dialect, "{path}");
        }
    }

    #[test]
    fn other_spellings_of_a_models_api_are_known() {
        let is_respelled = |path: &str| Dialect::is_respelled(path, &HeaderMap::new());
        for path in [
            "/openai/deployments/gpt-4o/Chat/Completions",
            "/v1/chat/completion%73",
            "/v1/chat//completions",
            "/v1/chat/completions//",
            "/v1/chat/completions;x",
            "/v1/chat/x/../completions",
            "/v1/audio/transcription%73",
            "/v1/realtim%65",
            "/V1/messages",
            "/v1/chat/completions%00",
            "/v1/chat/completions%00.png",
            "/v1/chat/comp%0Aletions",
            "/v1/chat/completions%09",
            "/v1/chat/completions%7f",
            "/v1/chat/completions%C2%85",
            "/v1/chat/completions%3Fa=b",
            "/v1/chat/completions%23a",
            "/v1/chat/%2563ompletions",
        ] {
            assert!(Dialect::detect(path, &HeaderMap::new()).is_llm() || is_respelled(path), "{path}");
        }
        for path in [
            "/",
            "/files/Report%20A.pdf",
            "/v1/threads/T/messages",
            "/a//b",
            "/tools/mcp",
            "/a%00b%3Fc",
            "/100%25%25",
        ] {
            assert!(!is_respelled(path), "{path}");
        }
    }

    #[test]
    fn the_backend_decides_what_the_path_leaves_open() {
        assert_eq!(Dialect::OPENAI_CHAT.on(BackendKind::MISTRAL), Dialect::MISTRAL);
        assert_eq!(Dialect::OPENAI_CHAT.on(BackendKind::OLLAMA), Dialect::OPENAI_CHAT);
        assert_eq!(Dialect::OPENAI_OTHER.on(BackendKind::ANTHROPIC), Dialect::ANTHROPIC);
        assert_eq!(Dialect::ANTHROPIC.on(BackendKind::HTTP), Dialect::ANTHROPIC);
        assert_eq!(Dialect::PLAIN.on(BackendKind::MISTRAL), Dialect::PLAIN);
        assert_eq!(Dialect::PLAIN.on(BackendKind::MCP), Dialect::MCP);
        assert_eq!(Dialect::OPENAI_CHAT.on(BackendKind::MCP), Dialect::OPENAI_CHAT);
        assert!(Dialect::OLLAMA.is_llm() && !Dialect::PLAIN.is_llm() && !Dialect::MCP.is_llm());
    }

    #[test]
    fn a_backend_kind_is_written_as_it_is_named() {
        for kind in BackendKind::all() {
            let text = serde_json::to_string(&kind).unwrap();
            assert_eq!(text, format!("\"{}\"", kind.name()));
            assert_eq!(serde_json::from_str::<BackendKind>(&text).unwrap(), kind);
        }
    }
}
