//! The `session:` share of the configuration that says how a session is recognised.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use regex::bytes::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::client;
use crate::settings::fault::Faults;
use crate::settings::units::DurationText;

/// Levels a dotted body path may have (the scanner of bodies looks no deeper).
const MAX_DEPTH: usize = 4;

/// Whose a session id is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScopeMode {
    /// The principal's that sent it: nobody else joins by sending the same id.
    #[default]
    Principal,
    /// Everybody's.
    Global,
}

/// What to do with a request that names no session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// Take a fingerprint of the caller for the id.
    #[default]
    Derive,
    /// A new session for each request.
    Generate,
    /// Refuse it.
    Reject,
}

/// A part of the fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Who calls.
    Principal,
    /// Where from.
    ClientIp,
    /// With which program.
    UserAgent,
    /// For which backend.
    Backend,
}

/// How an id is derived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Derive {
    /// The parts of the fingerprint.
    pub from: Vec<Part>,
    /// The same fingerprint after a longer silence is a new session.
    pub idle_gap: DurationText,
}

impl Default for Derive {
    fn default() -> Self {
        Self {
            from: vec![Part::Principal, Part::ClientIp, Part::UserAgent, Part::Backend],
            idle_gap: DurationText::secs(600),
        }
    }
}

/// Where a hint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A request header.
    Header,
    /// A field of the JSON body, by its dotted path.
    Body,
    /// A member of the W3C `baggage` header.
    Baggage,
    /// Any header whose name fits a pattern with one `*`.
    HeaderPattern,
}

/// How the value holds the id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Parse {
    /// It is the id.
    #[default]
    Plain,
    /// One of the three forms of Claude Code's `metadata.user_id`.
    ClaudeCode,
    /// A text, or an object with a member `id`.
    IdOrString,
}

/// One hint as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hint {
    /// Where it is.
    pub source: Source,
    /// The header, the dotted path, the baggage key or the pattern.
    pub name: String,
    /// The program that sends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The header that names the subagent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The header that names the agent that started the subagent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// How the value holds the id; in bodies only.
    #[serde(default, skip_serializing_if = "is_plain")]
    pub parse: Parse,
}

fn is_plain(parse: &Parse) -> bool {
    *parse == Parse::Plain
}

/// The keys as they are written under `session:` (life and limits are read elsewhere).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "SessionIdentity")]
pub struct Written {
    /// The header with an explicit id, both ways.
    pub header: String,
    /// Ids that do not fit are replaced by a digest.
    pub id_pattern: String,
    /// Whose an id is.
    pub scope: ScopeMode,
    /// What to do without a hint.
    pub missing: Missing,
    /// How an id is derived.
    pub derive: Derive,
    /// The hints, first one first; those in the head are tried before those in the body.
    pub identity: Vec<Hint>,
}

/// The keys of [`Written`], for a reader that shares the section with others.
pub const KEYS: [&str; 6] = ["header", "id_pattern", "scope", "missing", "derive", "identity"];

impl Default for Written {
    fn default() -> Self {
        Self {
            header: "X-Session-ID".to_owned(),
            id_pattern: "^[A-Za-z0-9._:-]{1,128}$".to_owned(),
            scope: ScopeMode::default(),
            missing: Missing::default(),
            derive: Derive::default(),
            identity: default_hints(),
        }
    }
}

/// The habits of today's clients. `previous_response_id` is not among them: it would need a table from
/// response to session.
fn default_hints() -> Vec<Hint> {
    let hint = |source, name: &str, client: &str| Hint {
        source,
        name: name.to_owned(),
        client: (!client.is_empty()).then(|| client.to_owned()),
        agent: None,
        parent: None,
        parse: Parse::Plain,
    };
    let claude = Hint {
        agent: Some("x-claude-code-agent-id".to_owned()),
        parent: Some("x-claude-code-parent-agent-id".to_owned()),
        ..hint(Source::Header, "x-claude-code-session-id", "claude-code")
    };
    let codex = Hint {
        agent: Some("thread-id".to_owned()),
        parent: Some("x-codex-parent-thread-id".to_owned()),
        ..hint(Source::Header, "session-id", "codex")
    };
    let mut hints = vec![claude, codex];
    hints.extend(HEADER_HABITS.map(|(name, client)| hint(Source::Header, name, client)));
    hints.push(Hint {
        parse: Parse::ClaudeCode,
        ..hint(Source::Body, "metadata.user_id", client::CLAUDE_CODE)
    });
    hints.push(hint(Source::Body, "metadata.session_id", "openhands"));
    hints.push(hint(Source::Body, "litellm_session_id", ""));
    hints.push(Hint { parse: Parse::IdOrString, ..hint(Source::Body, "conversation", "") });
    hints.push(hint(Source::Body, "prompt_cache_key", ""));
    hints.push(hint(Source::Body, "message.contextId", "a2a"));
    hints.push(hint(Source::Body, "params.message.contextId", "a2a"));
    hints.push(hint(Source::Baggage, "session.id", ""));
    hints.push(hint(Source::HeaderPattern, "x-*-session-id", ""));
    hints
}

/// Headers of clients whose hint is nothing but a header.
const HEADER_HABITS: [(&str, &str); 15] = [
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

/// The compiled chain.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(super) header: HeaderName,
    pub(super) header_source: Arc<str>,
    pub(super) id_pattern: Regex,
    pub(super) scope: ScopeMode,
    pub(super) missing: Missing,
    pub(super) from: Vec<Part>,
    pub(super) idle_gap: Option<Duration>,
    pub(super) head: Vec<HeadHint>,
    pub(super) body: Vec<BodyHint>,
}

/// A hint in the head.
#[derive(Clone, Debug)]
pub(super) struct HeadHint {
    pub(super) place: Place,
    pub(super) source: Arc<str>,
    pub(super) client: Option<Cow<'static, str>>,
    pub(super) agent: Option<HeaderName>,
    pub(super) parent: Option<HeaderName>,
}

/// Where in the head.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Header(HeaderName),
    Baggage(String),
    Pattern { before: String, after: String },
}

/// A hint in the body: one path to look at.
#[derive(Clone, Debug)]
pub(super) struct BodyHint {
    pub(super) path: String,
    pub(super) source: Arc<str>,
    pub(super) client: Option<Cow<'static, str>>,
    pub(super) parse: Parse,
}

impl Written {
    /// Compiles the chain; every fault is noted, and with one there are no settings.
    pub fn compile(self, faults: &mut Faults) -> Option<Settings> {
        let header = header_name(&self.header, "session.header", faults);
        let id_pattern = pattern(&self.id_pattern, faults);
        if self.missing == Missing::Derive && self.derive.from.is_empty() {
            let hint = "name principal, client_ip, user_agent or backend, or write missing: generate";
            faults.add("session.derive.from", "is empty: all callers would share one session", hint);
        }
        if self.scope == ScopeMode::Global {
            let message = "global: whoever sends a session's id joins it, and a kill meets all of them";
            faults.warn("session.scope", message, "write principal, unless all callers trust each other");
        }
        let mut whole = self.missing != Missing::Derive || !self.derive.from.is_empty();
        let (mut head, mut body) = (Vec::new(), Vec::new());
        for (i, hint) in self.identity.into_iter().enumerate() {
            let path = format!("session.identity[{i}]");
            whole &= hint.compile(&path, &mut head, &mut body, faults).is_some();
        }
        let (header, id_pattern) = (header?, id_pattern?);
        whole.then(|| Settings {
            header_source: format!("header:{header}").into(),
            header,
            id_pattern,
            scope: self.scope,
            missing: self.missing,
            from: self.derive.from,
            idle_gap: self.derive.idle_gap.limit(),
            head,
            body,
        })
    }
}

impl Hint {
    /// Adds the compiled hint to its list; `None` when it has a fault.
    fn compile(
        self,
        path: &str,
        head: &mut Vec<HeadHint>,
        body: &mut Vec<BodyHint>,
        faults: &mut Faults,
    ) -> Option<()> {
        let client = self.client.map(client::label);
        let mut optional = |name: Option<String>, key: &str| match name {
            Some(name) => header_name(&name, &format!("{path}.{key}"), faults).map(Some),
            None => Some(None),
        };
        let (agent, parent) = (optional(self.agent, "agent")?, optional(self.parent, "parent")?);
        if self.source != Source::Body && self.parse != Parse::Plain {
            faults.add(format!("{path}.parse"), "is for hints in the body only", "remove it");
            return None;
        }
        let name = format!("{path}.name");
        let place = match self.source {
            Source::Body => {
                let client = client.or_else(|| {
                    (self.parse == Parse::ClaudeCode).then_some(Cow::Borrowed(client::CLAUDE_CODE))
                });
                body.extend(body_hints(&self.name, self.parse, client, &name, faults)?);
                return Some(());
            }
            Source::Header => Place::Header(header_name(&self.name, &name, faults)?),
            Source::Baggage if self.name.trim().is_empty() => {
                faults.add(name, "is empty", "name a baggage key, like session.id");
                return None;
            }
            Source::Baggage => Place::Baggage(self.name.clone()),
            Source::HeaderPattern => header_pattern(&self.name, &name, faults)?,
        };
        let source = match &place {
            Place::Header(header) => format!("header:{header}"),
            Place::Baggage(key) => format!("baggage:{key}"),
            // The header that fits is known per request only.
            Place::Pattern { .. } => String::new(),
        };
        head.push(HeadHint { place, source: source.into(), client, agent, parent });
        Some(())
    }
}

fn header_name(name: &str, path: &str, faults: &mut Faults) -> Option<HeaderName> {
    let parsed = HeaderName::try_from(name).ok();
    if parsed.is_none() {
        faults.add(path, format!("\"{name}\" is no header name"), "letters, digits and - are allowed");
    }
    parsed
}

fn pattern(written: &str, faults: &mut Faults) -> Option<Regex> {
    // Bytes, not characters: ids are ASCII, and what is not is replaced anyway.
    match RegexBuilder::new(written).unicode(false).build() {
        Ok(pattern) => Some(pattern),
        Err(fault) => {
            let hint = "write a regular expression without look-around, like ^[A-Za-z0-9._:-]{1,128}$";
            faults.add("session.id_pattern", format!("is no regular expression: {fault}"), hint);
            None
        }
    }
}

fn header_pattern(written: &str, path: &str, faults: &mut Faults) -> Option<Place> {
    let written = written.to_ascii_lowercase();
    match written.split_once('*') {
        Some((before, after)) if !after.contains('*') && before.len() + after.len() > 0 => {
            Some(Place::Pattern { before: before.to_owned(), after: after.to_owned() })
        }
        _ => {
            let hint = "write a header name with exactly one *, like x-*-session-id";
            faults.add(path, format!("\"{written}\" is no header pattern"), hint);
            None
        }
    }
}

fn body_hints(
    written: &str,
    parse: Parse,
    client: Option<Cow<'static, str>>,
    path: &str,
    faults: &mut Faults,
) -> Option<Vec<BodyHint>> {
    let mut paths = vec![written.to_owned()];
    if parse == Parse::IdOrString {
        paths.push(format!("{written}.id"));
    }
    let too_deep = paths.iter().any(|path| path.split('.').count() > MAX_DEPTH);
    if too_deep || written.split('.').any(str::is_empty) {
        let hint = format!("write member names with a dot between, at most {MAX_DEPTH}: metadata.user_id");
        faults.add(path, format!("\"{written}\" is no body path"), hint);
        return None;
    }
    let source: Arc<str> = format!("body:{written}").into();
    let hint = |path| BodyHint { path, source: source.clone(), client: client.clone(), parse };
    Some(paths.into_iter().map(hint).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_written_is_the_default() {
        let written: Written = serde_yaml::from_str("{}").unwrap();
        assert_eq!(written, Written::default());
        let mut faults = Faults::default();
        let settings = written.compile(&mut faults).unwrap();
        assert!(faults.is_empty(), "{faults}");
        assert_eq!(settings.header, "x-session-id");
        assert_eq!((settings.head.len(), settings.body.len()), (19, 8));
        let text = serde_yaml::to_string(&Written::default()).unwrap();
        assert_eq!(serde_yaml::from_str::<Written>(&text).unwrap(), Written::default());
    }

    #[test]
    fn the_keys_are_all_there() {
        let written = serde_json::to_value(Written::default()).unwrap();
        let keys = written.as_object().unwrap();
        assert!(keys.len() == KEYS.len() && KEYS.iter().all(|key| keys.contains_key(*key)));
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let written: Written = serde_yaml::from_str(
            r#"
header: "X Session"
id_pattern: "["
derive: { from: [] }
identity:
  - { source: header, name: "a b" }
  - { source: body, name: "a..b" }
  - { source: body, name: a.b.c.d, parse: id_or_string }
  - { source: header_pattern, name: x-session-id }
  - { source: header, name: ok, parse: claude_code }
  - { source: header, name: ok, agent: "no good" }
  - { source: baggage, name: "" }
"#,
        )
        .unwrap();
        let mut faults = Faults::default();
        assert!(written.compile(&mut faults).is_none());
        let paths: Vec<&str> = faults.iter().map(|fault| fault.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "session.header",
                "session.id_pattern",
                "session.derive.from",
                "session.identity[0].name",
                "session.identity[1].name",
                "session.identity[2].name",
                "session.identity[3].name",
                "session.identity[4].parse",
                "session.identity[5].agent",
                "session.identity[6].name",
            ]
        );
        assert!(serde_yaml::from_str::<Written>("identity: [{source: cookie, name: x}]").is_err());
    }
}
