//! Which API a request speaks, told by its path, and where that says nothing by its header fields.
//!
//! One table ([`TABLE`]). Paths of model APIs stand first, so that no field a client adds makes something
//! else of a model call.

use http::HeaderMap;

use super::spec::{BackendKind, Dialect, Rules};
use super::{anthropic, gemini, json_rpc, mcp, mistral, ollama, openai, realtime, responses};
use crate::protocol::facts::model_request::ModelRequest;
use crate::protocol::facts::usage::TokenCounts;

/// What a path must be like.
enum Path {
    /// It ends so.
    Ends(&'static str),
    /// This is in it.
    Holds(&'static str),
    /// It passes this test.
    Fits(fn(&str) -> bool),
    /// It may be any.
    Any,
}

use Path::{Any, Ends, Fits, Holds};

/// Path, a header field that must be there as well, and the dialect. The first row that fits decides.
/// Only the end of a path counts, so a route's prefix (`/openai/v1/chat/completions`) may stand before it.
const TABLE: &[(Path, Option<&str>, Dialect)] = &[
    (Ends("/chat/completions"), None, Dialect::OpenAiChat),
    (Ends("/responses"), None, Dialect::OpenAiResponses),
    (Holds("/v1/responses/"), None, Dialect::OpenAiResponses),
    // A bare `/messages` is not enough: chat servers and old MCP transports have it too.
    (Ends("/v1/messages"), None, Dialect::Anthropic),
    (Holds("/v1/messages/"), None, Dialect::Anthropic),
    (Ends("/v1/complete"), None, Dialect::Anthropic),
    (Ends("/v1/models"), Some("anthropic-version"), Dialect::Anthropic),
    (Holds("/v1/models/"), Some("anthropic-version"), Dialect::Anthropic),
    (Fits(ollama::is_call), None, Dialect::Ollama),
    (Fits(gemini::is_call), None, Dialect::Gemini),
    (Ends("/v1beta/models"), None, Dialect::Gemini),
    (Holds("/v1beta/models/"), None, Dialect::Gemini),
    (Ends("/completions"), None, Dialect::OpenAiOther),
    (Ends("/embeddings"), None, Dialect::OpenAiOther),
    (Ends("/v1/models"), None, Dialect::OpenAiOther),
    (Ends("/v1/moderations"), None, Dialect::OpenAiOther),
    (Ends("/v1/rerank"), None, Dialect::OpenAiOther),
    (Ends("/v1/images/generations"), None, Dialect::OpenAiOther),
    (Ends("/v1/audio/speech"), None, Dialect::OpenAiOther),
    (Holds("/chat/completions/"), None, Dialect::OpenAiOther),
    (Holds("/v1/models/"), None, Dialect::OpenAiOther),
    (Ends("/mcp"), None, Dialect::Mcp),
    (Any, Some(mcp::SESSION_ID), Dialect::Mcp),
    (Any, Some(mcp::PROTOCOL_VERSION), Dialect::Mcp),
    (Any, Some(mcp::METHOD), Dialect::Mcp),
    (Any, Some("a2a-version"), Dialect::A2a),
    (Ends("/message:send"), None, Dialect::A2a),
    (Ends("/message:stream"), None, Dialect::A2a),
    (Ends("/.well-known/agent-card.json"), None, Dialect::A2a),
];

impl Path {
    fn fits(&self, path: &str) -> bool {
        match self {
            Self::Ends(ending) => path.ends_with(ending),
            Self::Holds(part) => path.contains(part),
            Self::Fits(test) => test(path),
            Self::Any => true,
        }
    }
}

impl Dialect {
    /// The dialect of a path without its query, and of the fields beside it.
    pub fn detect(path: &str, headers: &HeaderMap) -> Self {
        let path = path.strip_suffix('/').unwrap_or(path);
        let fits = |(place, field, _): &&(Path, Option<&str>, Self)| {
            place.fits(path) && field.is_none_or(|name| headers.contains_key(name))
        };
        TABLE.iter().find(fits).map_or(Self::Plain, |(.., dialect)| *dialect)
    }

    /// The dialect of a WebSocket at this path. Requests by HTTP below `/v1/realtime` make keys and calls,
    /// and speak another one.
    pub fn detect_socket(path: &str) -> Self {
        let path = path.strip_suffix('/').unwrap_or(path);
        if path.ends_with("/realtime") || path.contains("/v1/realtime/") {
            Self::OpenAiRealtime
        } else if path.ends_with("/responses") {
            Self::OpenAiResponses
        } else {
            Self::Plain
        }
    }

    /// The dialect once the backend is known: what the path leaves open, its kind decides.
    pub fn on(self, backend: BackendKind) -> Self {
        match (self, backend) {
            (Self::OpenAiChat | Self::OpenAiOther, BackendKind::Mistral) => Self::Mistral,
            // `/v1/models` is in both APIs.
            (Self::OpenAiOther, BackendKind::Anthropic) => Self::Anthropic,
            (Self::OpenAiOther, BackendKind::Gemini) => Self::Gemini,
            (Self::Plain, BackendKind::Mcp) => Self::Mcp,
            (Self::Plain, BackendKind::A2a) => Self::A2a,
            (dialect, _) => dialect,
        }
    }

    /// What its token numbers include.
    pub fn token_counts(self) -> TokenCounts {
        TokenCounts {
            input_includes_cached: self != Self::Anthropic,
            output_includes_reasoning: self != Self::Gemini,
        }
    }

    /// Adds what the path says of a request: Gemini's names the model.
    pub fn read_path(self, path: &str, request: &mut ModelRequest) {
        if self == Self::Gemini {
            gemini::read_path(path, request);
        }
    }
}

impl Rules {
    /// The rules of a dialect; none where answers are not read.
    pub(in crate::protocol) fn of(dialect: Dialect) -> Option<&'static Self> {
        match dialect {
            Dialect::OpenAiChat | Dialect::OpenAiOther => Some(&openai::RULES),
            Dialect::OpenAiResponses => Some(&responses::RULES),
            Dialect::OpenAiRealtime => Some(&realtime::RULES),
            Dialect::Anthropic => Some(&anthropic::RULES),
            Dialect::Mistral => Some(&mistral::RULES),
            Dialect::Ollama => Some(&ollama::RULES),
            Dialect::Gemini => Some(&gemini::RULES),
            Dialect::Mcp | Dialect::A2a => Some(&json_rpc::RULES),
            Dialect::Plain => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_path_tells_the_dialect() {
        let cases = [
            ("/v1/chat/completions", Dialect::OpenAiChat),
            ("/openai/v1/chat/completions", Dialect::OpenAiChat),
            ("/v1/chat/completions/", Dialect::OpenAiChat),
            ("/v1/chat/completions/chatcmpl-1", Dialect::OpenAiOther),
            ("/v1/responses", Dialect::OpenAiResponses),
            ("/backend-api/codex/responses", Dialect::OpenAiResponses),
            ("/v1/responses/resp_1/cancel", Dialect::OpenAiResponses),
            ("/v1/completions", Dialect::OpenAiOther),
            ("/v1/fim/completions", Dialect::OpenAiOther),
            ("/v1/embeddings", Dialect::OpenAiOther),
            ("/v1/models", Dialect::OpenAiOther),
            ("/v1/models/gpt-5", Dialect::OpenAiOther),
            ("/v1/messages", Dialect::Anthropic),
            ("/anthropic/v1/messages", Dialect::Anthropic),
            ("/v1/messages/count_tokens", Dialect::Anthropic),
            ("/api/chat", Dialect::Ollama),
            ("/ollama/api/generate", Dialect::Ollama),
            ("/api/embeddings", Dialect::Ollama),
            ("/api/blobs/sha256:00", Dialect::Ollama),
            ("/v1beta/models/gemini-2.5-pro:generateContent", Dialect::Gemini),
            ("/google/v1/models/gemini-2.5-pro:embedContent", Dialect::Gemini),
            ("/v1beta/models", Dialect::Gemini),
            ("/v1beta/openai/chat/completions", Dialect::OpenAiChat),
            ("/v1/models/ft:gpt-4o:acme::1", Dialect::OpenAiOther),
            ("/build/mcp", Dialect::Mcp),
            ("/mcp/", Dialect::Mcp),
            ("/agent/v1/message:stream", Dialect::A2a),
            ("/mcpx", Dialect::Plain),
            ("/api/users", Dialect::Plain),
            ("/v1/threads/t/messages", Dialect::Plain),
            ("/messages", Dialect::Plain),
            ("/api/chatter", Dialect::Plain),
            ("/", Dialect::Plain),
            ("", Dialect::Plain),
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
        assert_eq!(detect("/", "mcp-session-id"), Dialect::Mcp);
        assert_eq!(detect("/tools", "mcp-protocol-version"), Dialect::Mcp);
        assert_eq!(detect("/tasks/1", "a2a-version"), Dialect::A2a);
        assert_eq!(detect("/v1/models", "anthropic-version"), Dialect::Anthropic);
        // A model call stays one, whatever else its client says.
        for field in ["mcp-session-id", "mcp-method", "a2a-version"] {
            for (path, _, dialect) in TABLE.iter().filter(|(_, field, _)| field.is_none()) {
                let path = match path {
                    Ends(path) => (*path).to_owned(),
                    Holds(path) => format!("{path}x"),
                    Fits(_) | Any => continue,
                };
                assert_eq!(detect(&path, field).is_llm(), dialect.is_llm(), "{path} {field}");
            }
            assert_eq!(detect("/api/chat", field), Dialect::Ollama);
            assert_eq!(detect("/v1beta/models/g:generateContent", field), Dialect::Gemini);
        }
    }

    #[test]
    fn a_sockets_path_tells_its_dialect() {
        let cases = [
            ("/v1/realtime", Dialect::OpenAiRealtime),
            ("/openai/v1/realtime/", Dialect::OpenAiRealtime),
            ("/openai/realtime", Dialect::OpenAiRealtime),
            ("/v1/realtime/translations", Dialect::OpenAiRealtime),
            ("/v1/responses", Dialect::OpenAiResponses),
            ("/backend-api/codex/responses", Dialect::OpenAiResponses),
            ("/v1/chat/completions", Dialect::Plain),
            ("/realtime/v1/websocket", Dialect::Plain),
            ("/", Dialect::Plain),
        ];
        for (path, dialect) in cases {
            assert_eq!(Dialect::detect_socket(path), dialect, "{path}");
        }
    }

    #[test]
    fn the_backend_decides_what_the_path_leaves_open() {
        assert_eq!(Dialect::OpenAiChat.on(BackendKind::Mistral), Dialect::Mistral);
        assert_eq!(Dialect::OpenAiChat.on(BackendKind::Ollama), Dialect::OpenAiChat);
        assert_eq!(Dialect::OpenAiOther.on(BackendKind::Anthropic), Dialect::Anthropic);
        assert_eq!(Dialect::Anthropic.on(BackendKind::Http), Dialect::Anthropic);
        assert_eq!(Dialect::Plain.on(BackendKind::Mistral), Dialect::Plain);
        assert_eq!(Dialect::Plain.on(BackendKind::Mcp), Dialect::Mcp);
        assert_eq!(Dialect::OpenAiChat.on(BackendKind::Mcp), Dialect::OpenAiChat);
        assert!(Dialect::Ollama.is_llm() && !Dialect::Plain.is_llm() && !Dialect::Mcp.is_llm());
    }

    #[test]
    fn a_backend_kind_is_written_as_it_is_named() {
        for kind in [
            BackendKind::Ollama,
            BackendKind::Openai,
            BackendKind::Anthropic,
            BackendKind::Mistral,
            BackendKind::Gemini,
            BackendKind::Mcp,
            BackendKind::A2a,
            BackendKind::Http,
        ] {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{}\"", kind.name()));
        }
    }
}
