//! Which API a request speaks, told by its path alone.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a configured backend is (`backends.NAME.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// Ollama: its own API, and the OpenAI one beside it.
    Ollama,
    /// OpenAI, or a server that speaks its API.
    Openai,
    /// Anthropic.
    Anthropic,
    /// Mistral: the OpenAI API with a few paths of its own.
    Mistral,
    /// Anything else that speaks HTTP.
    Http,
}

impl BackendKind {
    /// The word of the configuration file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::Openai => "openai",
            Self::Anthropic => "anthropic",
            Self::Mistral => "mistral",
            Self::Http => "http",
        }
    }
}

/// The API of one request: it decides how usage is read and how a refusal is worded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `POST /v1/chat/completions`.
    OpenAiChat,
    /// `/v1/responses` and what is below it.
    OpenAiResponses,
    /// The WebSocket `/v1/realtime`.
    OpenAiRealtime,
    /// The rest of the OpenAI API that names a model: completions, embeddings, models, ….
    OpenAiOther,
    /// `/v1/messages`, `/v1/messages/count_tokens` and `/v1/complete`.
    Anthropic,
    /// The OpenAI API at a Mistral backend.
    Mistral,
    /// Ollama's own API, `/api/chat` and its neighbours.
    Ollama,
    /// Not an LLM API that is known here.
    Plain,
}

/// Ollama's calls below `/api`; a bare `/api/…` belongs to many other programs.
const OLLAMA_CALLS: [&str; 13] = [
    "chat",
    "copy",
    "create",
    "delete",
    "embed",
    "embeddings",
    "generate",
    "ps",
    "pull",
    "push",
    "show",
    "tags",
    "version",
];

/// OpenAI calls that are neither chat nor responses, as the path ends.
const OPENAI_ENDINGS: [&str; 7] = [
    "/completions",
    "/embeddings",
    "/v1/models",
    "/v1/moderations",
    "/v1/rerank",
    "/v1/images/generations",
    "/v1/audio/speech",
];

/// OpenAI calls with an id behind them.
const OPENAI_BRANCHES: [&str; 2] = ["/chat/completions/", "/v1/models/"];

impl Dialect {
    /// The dialect of a path without its query. Only the end of the path counts, so a route's prefix
    /// (`/openai/v1/chat/completions`) may still stand before it.
    pub fn detect(path: &str) -> Self {
        let path = path.strip_suffix('/').unwrap_or(path);
        if path.ends_with("/chat/completions") {
            Self::OpenAiChat
        } else if path.ends_with("/responses") || path.contains("/v1/responses/") {
            Self::OpenAiResponses
        } else if is_anthropic(path) {
            Self::Anthropic
        } else if is_ollama(path) {
            Self::Ollama
        } else if OPENAI_ENDINGS.iter().any(|ending| path.ends_with(ending))
            || OPENAI_BRANCHES.iter().any(|branch| path.contains(branch))
        {
            Self::OpenAiOther
        } else {
            Self::Plain
        }
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
            (dialect, _) => dialect,
        }
    }

    /// True when bodies of this dialect name a model and answers count tokens.
    pub fn is_llm(self) -> bool {
        self != Self::Plain
    }

    /// A stable word for logs and labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAiChat => "openai_chat",
            Self::OpenAiResponses => "openai_responses",
            Self::OpenAiRealtime => "openai_realtime",
            Self::OpenAiOther => "openai",
            Self::Anthropic => "anthropic",
            Self::Mistral => "mistral",
            Self::Ollama => "ollama",
            Self::Plain => "plain",
        }
    }
}

/// A bare `/messages` is not enough: chat servers and old MCP transports have it too.
fn is_anthropic(path: &str) -> bool {
    path.ends_with("/v1/messages") || path.contains("/v1/messages/") || path.ends_with("/v1/complete")
}

fn is_ollama(path: &str) -> bool {
    let call = path.rsplit_once('/').filter(|(before, _)| before.ends_with("/api")).map(|(_, call)| call);
    call.is_some_and(|call| OLLAMA_CALLS.contains(&call)) || path.contains("/api/blobs/")
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
            ("/api/users", Dialect::Plain),
            ("/v1/threads/t/messages", Dialect::Plain),
            ("/messages", Dialect::Plain),
            ("/api/chatter", Dialect::Plain),
            ("/", Dialect::Plain),
            ("", Dialect::Plain),
        ];
        for (path, dialect) in cases {
            assert_eq!(Dialect::detect(path), dialect, "{path}");
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
        assert!(Dialect::Ollama.is_llm() && !Dialect::Plain.is_llm());
    }

    #[test]
    fn a_backend_kind_is_written_as_it_is_named() {
        for kind in [
            BackendKind::Ollama,
            BackendKind::Openai,
            BackendKind::Anthropic,
            BackendKind::Mistral,
            BackendKind::Http,
        ] {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{}\"", kind.name()));
        }
    }
}
