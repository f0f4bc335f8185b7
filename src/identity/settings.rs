//! The keys of `session:` that define how the session of a request is found.

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

/// Most levels of a dotted body path; the body scanner looks no deeper.
const MAX_DEPTH: usize = 4;

/// Who shares a session id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScopeMode {
    /// Each principal has ids of its own: another caller cannot join by sending the same id.
    #[default]
    Principal,
    /// All callers share them.
    Global,
}

/// What to do with a request that names no session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// Derive the id from a fingerprint of the caller.
    #[default]
    Derive,
    /// Start a new session for each request.
    Generate,
    /// Refuse the request.
    Reject,
}

/// A part of the fingerprint of a derived id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The principal.
    Principal,
    /// The client's address.
    ClientIp,
    /// The `User-Agent`.
    UserAgent,
    /// The backend.
    Backend,
}

/// How an id is derived for a request that names no session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Derive {
    /// Parts of the fingerprint.
    pub from: Vec<Part>,
    /// After a longer silence, the same fingerprint starts a new session.
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

/// Where a hint is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// In a request header.
    Header,
    /// In a field of the JSON body, by its dotted path.
    Body,
    /// In a member of the W3C `baggage` header.
    Baggage,
    /// In any header whose name matches a pattern with one `*`.
    HeaderPattern,
}

/// How the id is encoded in the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Parse {
    /// The value is the id.
    #[default]
    Plain,
    /// One of the three forms of Claude Code's `metadata.user_id`.
    ClaudeCode,
    /// A string, or an object with a member `id`.
    IdOrString,
}

/// A hint, as configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hint {
    /// Where the hint is found.
    pub source: Source,
    /// Name of the header, dotted path, baggage key or pattern.
    pub name: String,
    /// The client program that sends the hint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The header with the id of the subagent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The header with the id of the subagent's parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// How the id is encoded in the value; for bodies only.
    #[serde(default, skip_serializing_if = "is_plain")]
    pub parse: Parse,
}

fn is_plain(parse: &Parse) -> bool {
    *parse == Parse::Plain
}

/// The keys of `session:` that say how the session of a request is found; `session` reads the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IdentityConfig {
    /// The header with an explicit session id, in requests and responses.
    pub header: String,
    /// Ids that do not match are replaced by a digest.
    pub id_pattern: String,
    /// Who shares a session id.
    pub scope: ScopeMode,
    /// What to do with a request that names no session.
    pub missing: Missing,
    /// How an id is derived for a request that names no session.
    pub derive: Derive,
    /// The hints, in order of precedence; those in headers come before those in the body.
    pub identity: Vec<Hint>,
}

impl Default for IdentityConfig {
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

/// The hints of known clients. `previous_response_id` is not used: it would need a table from responses to sessions.
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
    hints.extend(client::SESSION_HEADERS.map(|(name, client)| hint(Source::Header, name, client)));
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

/// The compiled settings.
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
    pub(super) place: HeadLocation,
    pub(super) source: Arc<str>,
    pub(super) client: Option<Cow<'static, str>>,
    pub(super) agent: Option<HeaderName>,
    pub(super) parent: Option<HeaderName>,
}

/// The part of the head that has the hint.
#[derive(Clone, Debug)]
pub(super) enum HeadLocation {
    Header(HeaderName),
    Baggage(String),
    Pattern { before: String, after: String },
}

/// A hint in the body: a single path.
#[derive(Clone, Debug)]
pub(super) struct BodyHint {
    pub(super) path: String,
    pub(super) source: Arc<str>,
    pub(super) client: Option<Cow<'static, str>>,
    pub(super) parse: Parse,
}

impl IdentityConfig {
    /// Compiles the keys. Reports every fault; `None` after any.
    pub fn compile(self, faults: &mut Faults) -> Option<Settings> {
        let header = header_name(&self.header, "session.header", faults);
        let id_pattern = pattern(&self.id_pattern, faults);
        if self.missing == Missing::Derive && self.derive.from.is_empty() {
            let hint = "name principal, client_ip, user_agent or backend, or write missing: generate";
            faults.add("session.derive.from", "is empty: all callers would share one session", hint);
        }
        if self.scope == ScopeMode::Global {
            let message = "global: anyone who sends a session's id joins it, and a kill affects all of them";
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
    /// Adds the compiled hint to its list; `None` after a fault.
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
            faults.add(format!("{path}.parse"), "applies to hints in the body only", "remove it");
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
            Source::Header => HeadLocation::Header(header_name(&self.name, &name, faults)?),
            Source::Baggage if self.name.trim().is_empty() => {
                faults.add(name, "is empty", "name a baggage key, like session.id");
                return None;
            }
            Source::Baggage => HeadLocation::Baggage(self.name.clone()),
            Source::HeaderPattern => header_pattern(&self.name, &name, faults)?,
        };
        let source = match &place {
            HeadLocation::Header(header) => format!("header:{header}"),
            HeadLocation::Baggage(key) => format!("baggage:{key}"),
            // Which header matches depends on the request.
            HeadLocation::Pattern { .. } => String::new(),
        };
        head.push(HeadHint { place, source: source.into(), client, agent, parent });
        Some(())
    }
}

fn header_name(name: &str, path: &str, faults: &mut Faults) -> Option<HeaderName> {
    let parsed = HeaderName::try_from(name).ok();
    if parsed.is_none() {
        faults.add(path, format!("\"{name}\" is not a header name"), "letters, digits and - are allowed");
    }
    parsed
}

fn pattern(written: &str, faults: &mut Faults) -> Option<Regex> {
    // Bytes, not characters: ids are ASCII; all others are replaced anyway.
    match RegexBuilder::new(written).unicode(false).build() {
        Ok(pattern) => Some(pattern),
        Err(fault) => {
            let hint = "write a regular expression without look-around, like ^[A-Za-z0-9._:-]{1,128}$";
            faults.add("session.id_pattern", format!("is not a regular expression: {fault}"), hint);
            None
        }
    }
}

fn header_pattern(written: &str, path: &str, faults: &mut Faults) -> Option<HeadLocation> {
    let written = written.to_ascii_lowercase();
    match written.split_once('*') {
        Some((before, after)) if !after.contains('*') && before.len() + after.len() > 0 => {
            Some(HeadLocation::Pattern { before: before.to_owned(), after: after.to_owned() })
        }
        _ => {
            let hint = "write a header name with exactly one *, like x-*-session-id";
            faults.add(path, format!("\"{written}\" is not a header pattern"), hint);
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
        faults.add(path, format!("\"{written}\" is not a body path"), hint);
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
        let written: IdentityConfig = serde_yaml::from_str("{}").unwrap();
        assert_eq!(written, IdentityConfig::default());
        let mut faults = Faults::default();
        let settings = written.compile(&mut faults).unwrap();
        assert!(faults.is_empty(), "{faults}");
        assert_eq!(settings.header, "x-session-id");
        assert_eq!((settings.head.len(), settings.body.len()), (19, 8));
        let text = serde_yaml::to_string(&IdentityConfig::default()).unwrap();
        assert_eq!(serde_yaml::from_str::<IdentityConfig>(&text).unwrap(), IdentityConfig::default());
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let written: IdentityConfig = serde_yaml::from_str(
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
        assert!(serde_yaml::from_str::<IdentityConfig>("identity: [{source: cookie, name: x}]").is_err());
    }
}
