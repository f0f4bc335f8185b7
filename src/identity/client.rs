//! The client program, as it identifies itself. A label for people; never authority.

use std::borrow::Cow;

use http::header::USER_AGENT;
use http::{HeaderMap, HeaderName};

/// ELIDA's name for Claude Code.
pub(super) const CLAUDE_CODE: &str = "claude-code";

/// Bytes that are kept of a name or a version.
const MAX_LABEL: usize = 64;
/// The field in which Codex names itself.
const ORIGINATOR: HeaderName = HeaderName::from_static("originator");

/// Bytes of the user agent that are read.
const MAX_AGENT: usize = 256;

/// A program and its version, from the request's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// The name; printable ASCII, at most 64 bytes.
    pub name: Option<Cow<'static, str>>,
    /// The version; printable ASCII, at most 64 bytes.
    pub version: Option<String>,
}

/// Products of user agents, in lower case, and ELIDA's name for their program.
const KNOWN: [(&str, &str); 59] = [
    ("claude-cli", CLAUDE_CODE),
    ("claude-code", CLAUDE_CODE),
    ("codex_exec", "codex"),
    ("codex_cli_rs", "codex"),
    ("codex-tui", "codex"),
    ("codex_vscode", "codex"),
    ("codex_sdk_ts", "codex"),
    ("codex", "codex"),
    ("opencode", "opencode"),
    ("openai/python", "openai-python"),
    ("asyncopenai/python", "openai-python"),
    ("azureopenai/python", "openai-python"),
    ("asyncazureopenai/python", "openai-python"),
    ("openai/js", "openai-node"),
    ("azureopenai/js", "openai-node"),
    ("openai/go", "openai-go"),
    ("openai/java", "openai-java"),
    ("anthropic/python", "anthropic-python"),
    ("asyncanthropic/python", "anthropic-python"),
    ("anthropic/js", "anthropic-node"),
    ("anthropic/go", "anthropic-go"),
    ("anthropic/java", "anthropic-java"),
    ("mistral-client-python", "mistral-python"),
    ("mistral-client-typescript", "mistral-node"),
    ("mistral-client-js", "mistral-node"),
    ("mistral-vibe", "mistral-vibe"),
    ("ollama", "ollama"),
    ("ollama-python", "ollama-python"),
    ("ollama-js", "ollama-node"),
    ("litellm", "litellm"),
    ("langchain", "langchain"),
    ("aider", "aider"),
    ("goose", "goose"),
    ("geminicli", "gemini-cli"),
    ("qwencode", "qwen-code"),
    ("cursor", "cursor"),
    ("zed", "zed"),
    ("roocode", "roo-code"),
    ("kilo-code", "kilo-code"),
    ("cline", "cline"),
    ("crush", "crush"),
    ("githubcopilotchat", "copilot-vscode"),
    ("copilot", "copilot-cli"),
    ("openhands", "openhands"),
    ("ai-sdk", "ai-sdk"),
    ("curl", "curl"),
    ("wget", "wget"),
    ("python-httpx", "python-httpx"),
    ("python-requests", "python-requests"),
    ("python-urllib", "python-urllib"),
    ("aiohttp", "aiohttp"),
    ("go-http-client", "go"),
    ("node", "node"),
    ("undici", "node"),
    ("node-fetch", "node"),
    ("axios", "axios"),
    ("reqwest", "reqwest"),
    ("okhttp", "okhttp"),
    ("postmanruntime", "postman"),
];

/// Header fields in which clients name their sessions, and the client or platform that does.
pub(super) const SESSION_HEADERS: [(&str, &str); 15] = [
    ("session_id", "codex-legacy"),
    ("x-opencode-session", "opencode"),
    ("x-session-affinity", "opencode"),
    ("agent-session-id", "goose"),
    ("x-client-session-id", "copilot-cli"),
    ("x-interaction-id", "copilot-vscode"),
    ("x-kilocode-taskid", "kilo-code"),
    ("x-cagent-session-id", "docker-agent"),
    ("x-mux-workspace-id", "mux"),
    ("x-coder-chat-id", "coder"),
    ("x-litellm-trace-id", "litellm"),
    ("x-litellm-session-id", "litellm"),
    ("helicone-session-id", "helicone"),
    ("x-amzn-bedrock-agentcore-runtime-session-id", "agentcore"),
    ("mcp-session-id", "mcp"),
];

impl Client {
    /// Whether [`Client::recognise`] reads this field.
    pub fn reads(field: &HeaderName) -> bool {
        *field == USER_AGENT || *field == ORIGINATOR
    }

    /// Reads the user agent, and `originator` where the user agent does not name the program.
    pub fn recognise(headers: &HeaderMap) -> Self {
        let agent = headers.get(USER_AGENT).map(|value| value.as_bytes()).unwrap_or_default();
        let agent = &agent[..agent.len().min(MAX_AGENT)];
        let client = Self::from_agent(agent.trim_ascii());
        let known = client.name.as_deref().is_some_and(|name| name != "node" && name != "reqwest");
        if known {
            return client;
        }
        // Codex names itself here too, also through a library with a user agent of its own.
        match headers.get(ORIGINATOR).map(|value| value.as_bytes()) {
            Some(originator) if originator.starts_with(b"codex") => {
                Self { name: Some(Cow::Borrowed("codex")), version: None }
            }
            _ => client,
        }
    }

    /// `product/version …`; the Stainless SDKs write `OpenAI/Python 1.2.3` instead.
    fn from_agent(agent: &[u8]) -> Self {
        let mut words = agent.split(|byte| *byte == b' ' || *byte == b'(');
        let first = words.next().unwrap_or_default();
        if let Some(name) = known(first) {
            // A product with a slash in its own name: the version is the next word.
            let version = words.next().map(printable).filter(|version| !version.is_empty());
            let (product, after) = halves(first);
            let alone = known(product).is_some() && !after.is_empty();
            let version = if alone { Some(printable(after)) } else { version };
            return Self { name: Some(Cow::Borrowed(name)), version };
        }
        let (product, version) = halves(first);
        let version = Some(printable(version)).filter(|version| !version.is_empty());
        match known(product) {
            Some(name) => Self { name: Some(Cow::Borrowed(name)), version },
            None => {
                let name = printable(product);
                Self {
                    version: version.filter(|_| !name.is_empty()),
                    name: (!name.is_empty()).then(|| name.into()),
                }
            }
        }
    }
}

/// The label for a program's name from the configuration.
pub(super) fn label(name: String) -> Cow<'static, str> {
    match KNOWN.iter().find(|(_, known)| *known == name) {
        Some((_, known)) => Cow::Borrowed(known),
        None => Cow::Owned(printable(name.as_bytes())),
    }
}

fn known(product: &[u8]) -> Option<&'static str> {
    KNOWN.iter().find(|(known, _)| known.as_bytes().eq_ignore_ascii_case(product)).map(|(_, name)| *name)
}

fn halves(product: &[u8]) -> (&[u8], &[u8]) {
    match product.iter().position(|byte| *byte == b'/') {
        Some(slash) => (&product[..slash], &product[slash + 1..]),
        None => (product, b""),
    }
}

/// The part of a peer's text that is safe in a log line.
fn printable(text: &[u8]) -> String {
    let safe = |byte: &&u8| byte.is_ascii_alphanumeric() || b"._-+:@".contains(byte);
    text.iter().filter(safe).take(MAX_LABEL).map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recognise(agent: &str) -> (String, String) {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, agent.parse().unwrap());
        let client = Client::recognise(&headers);
        (client.name.unwrap_or_default().into_owned(), client.version.unwrap_or_default())
    }

    #[test]
    fn known_programs_are_recognised() {
        for (agent, name, version) in [
            ("claude-cli/2.1.197 (external, sdk-ts)", "claude-code", "2.1.197"),
            ("codex_exec/0.169.0 (Linux; x86_64) unknown", "codex", "0.169.0"),
            ("codex_cli_rs/0.40.0 (Mac OS 15.1)", "codex", "0.40.0"),
            ("opencode/1.18.33 ai-sdk/openai", "opencode", "1.18.33"),
            ("OpenAI/Python 1.2.3", "openai-python", "1.2.3"),
            ("AsyncOpenAI/Python 1.109.1", "openai-python", "1.109.1"),
            ("OpenAI/JS 5.0.1", "openai-node", "5.0.1"),
            ("Anthropic/Python 0.71.0", "anthropic-python", "0.71.0"),
            ("Anthropic/JS 0.52.0", "anthropic-node", "0.52.0"),
            ("mistral-client-python/1.9.11", "mistral-python", "1.9.11"),
            ("ollama/0.12.0 (amd64 linux) Go/go1.24", "ollama", "0.12.0"),
            ("curl/8.5.0", "curl", "8.5.0"),
            ("python-httpx/0.28.1", "python-httpx", "0.28.1"),
            ("Go-http-client/1.1", "go", "1.1"),
            ("curl", "curl", ""),
        ] {
            assert_eq!(recognise(agent), (name.to_owned(), version.to_owned()), "{agent}");
        }
    }

    #[test]
    fn unknown_programs_keep_a_safe_name() {
        assert_eq!(recognise("My<Agent>/1.0\"x (a)"), ("MyAgent".to_owned(), "1.0x".to_owned()));
        assert_eq!(recognise(&"a".repeat(500)).0.len(), MAX_LABEL);
        assert_eq!(recognise("(compatible)"), Default::default());
        assert_eq!(Client::recognise(&HeaderMap::new()), Client::default());
    }

    #[test]
    fn codex_behind_a_library_is_recognised() {
        let mut headers = HeaderMap::new();
        headers.insert("originator", "codex_vscode".parse().unwrap());
        assert_eq!(Client::recognise(&headers).name.as_deref(), Some("codex"));
        headers.insert(USER_AGENT, "reqwest/0.12.1".parse().unwrap());
        assert_eq!(Client::recognise(&headers).name.as_deref(), Some("codex"));
    }

    #[test]
    fn known_labels_take_no_memory() {
        assert!(matches!(label("claude-code".to_owned()), Cow::Borrowed(_)));
        assert!(matches!(label("my-own".to_owned()), Cow::Owned(_)));
    }
}
