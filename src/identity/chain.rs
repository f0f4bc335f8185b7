//! Finds the session of a request: by the explicit header, by the hints of known clients, or by a fallback.
//!
//! The proxy calls [`Settings::by_header`] (needs the head only), then [`Settings::by_body`], then
//! [`Settings::fallback`]. Hints in the head therefore come before hints in the body; each group keeps the order of
//! the configuration.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::settings::{HeadHint, HeadLocation, Missing, Parse, Part, ScopeMode, Settings};
use crate::ids::{AgentId, PrincipalId, Scope, SessionId};

/// Longest id, in bytes; longer ones are replaced by a digest, whatever `id_pattern` says.
const MAX_ID: usize = 256;
/// Longest agent id, in bytes; longer ones are replaced by a digest.
const MAX_AGENT: usize = 128;
/// Bytes of the digest used in an id.
const DIGEST: usize = 16;

/// The session that a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundSession {
    /// The id: printable ASCII; an unsafe one is replaced by a digest.
    pub id: SessionId,
    /// Where the id comes from: `header:x-session-id`, `body:metadata.user_id`, `derived`, `generated`.
    pub source: Arc<str>,
    /// The client program that sends this hint; `None` if unknown.
    pub client: Option<Cow<'static, str>>,
    /// The subagent; `None` for the main agent.
    pub agent_id: Option<AgentId>,
    /// The parent of the subagent.
    pub parent_agent_id: Option<AgentId>,
    /// For derived ids: after a longer silence the same id starts a new incarnation.
    pub idle_gap: Option<Duration>,
}

/// The session header occurs more than once with different values. The request must be refused: a backend might read
/// another value than the proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{header} occurs more than once with different values")]
pub struct Conflict {
    /// The header.
    pub header: HeaderName,
}

impl Settings {
    /// Name of the header with the explicit id, in requests and responses.
    pub fn header(&self) -> &HeaderName {
        &self.header
    }

    /// Returns the dotted paths of the body hints; [`Settings::by_body`] refers to them by index.
    pub fn body_paths(&self) -> Vec<String> {
        self.body.iter().map(|hint| hint.path.clone()).collect()
    }

    /// Returns whether a body may name the session.
    pub fn reads_bodies(&self) -> bool {
        !self.body.is_empty()
    }

    /// Returns the session that the request head names.
    pub fn by_header(&self, headers: &HeaderMap) -> Result<Option<FoundSession>, Conflict> {
        if let Some(value) = self.explicit(headers)? {
            let mut found = self.found(value, &self.header_source, None);
            // A client's own hint still names the agent.
            if let Some(hint) = self.head.iter().find(|hint| hint.agent(headers).is_some()) {
                found.name_agent(hint, headers);
            }
            return Ok(Some(found));
        }
        Ok(self.head.iter().find_map(|hint| self.by_head_hint(hint, headers)))
    }

    /// Returns the session with the name that `source` gives it.
    pub fn named(&self, name: &[u8], source: &Arc<str>) -> FoundSession {
        self.found(name, source, None)
    }

    /// Returns the session that the body names. `hint` returns the value at the body path with the given index.
    pub fn by_body<'a>(&self, hint: &dyn Fn(usize) -> Option<&'a str>) -> Option<FoundSession> {
        self.body.iter().enumerate().find_map(|(i, wanted)| {
            let value = hint(i)?.trim();
            let id = match wanted.parse {
                Parse::Plain | Parse::IdOrString => Cow::Borrowed(value),
                Parse::ClaudeCode => claude_code(value)?,
            };
            (!id.is_empty()).then(|| self.found(id.as_bytes(), &wanted.source, wanted.client.clone()))
        })
    }

    /// Returns a session for a request that names none; `None` if such requests are refused (`missing: reject`).
    pub fn fallback(
        &self,
        principal: &PrincipalId,
        client: IpAddr,
        user_agent: Option<&str>,
        backend: Option<&str>,
    ) -> Option<FoundSession> {
        let (id, source, idle_gap) = match self.missing {
            Missing::Reject => return None,
            Missing::Generate => (Uuid::now_v7().to_string(), "generated", None),
            Missing::Derive => {
                (self.fingerprint(principal, client, user_agent, backend), "derived", self.idle_gap)
            }
        };
        Some(FoundSession {
            id: SessionId::new(id),
            source: source.into(),
            client: None,
            agent_id: None,
            parent_agent_id: None,
            idle_gap,
        })
    }

    /// Returns the namespace of this principal's ids.
    pub fn scope(&self, principal: &PrincipalId) -> Scope {
        match self.scope {
            ScopeMode::Principal => Scope::of(principal),
            ScopeMode::Global => Scope::new(""),
        }
    }

    /// Returns the value of the session header.
    fn explicit<'h>(&self, headers: &'h HeaderMap) -> Result<Option<&'h [u8]>, Conflict> {
        let mut value = None;
        for next in headers.get_all(&self.header).iter().filter_map(filled) {
            if value.is_some_and(|value| value != next) {
                return Err(Conflict { header: self.header.clone() });
            }
            value = Some(next);
        }
        Ok(value)
    }

    fn by_head_hint(&self, hint: &HeadHint, headers: &HeaderMap) -> Option<FoundSession> {
        let mut found = match &hint.place {
            HeadLocation::Header(name) => {
                let value = headers.get(name).and_then(filled)?;
                self.found(value, &hint.source, hint.client.clone())
            }
            HeadLocation::Baggage(key) => {
                let value = headers.get_all("baggage").iter().find_map(|line| baggage(line, key))?;
                self.found(&value, &hint.source, hint.client.clone())
            }
            HeadLocation::Pattern { before, after } => {
                let (name, value) = fitting(headers, before, after)?;
                self.found(value, &format!("header:{name}").into(), hint.client.clone())
            }
        };
        found.name_agent(hint, headers);
        Some(found)
    }

    fn found(&self, value: &[u8], source: &Arc<str>, client: Option<Cow<'static, str>>) -> FoundSession {
        FoundSession {
            id: self.safe(value),
            source: source.clone(),
            client,
            agent_id: None,
            parent_agent_id: None,
            idle_gap: None,
        }
    }

    /// Returns the id if it matches the pattern and is printable, otherwise `h-` and its digest.
    fn safe(&self, value: &[u8]) -> SessionId {
        let fits = value.len() <= MAX_ID
            && value.iter().all(u8::is_ascii_graphic)
            && self.id_pattern.is_match(value);
        match std::str::from_utf8(value) {
            Ok(id) if fits => SessionId::new(id),
            _ => SessionId::new(stand_in(value)),
        }
    }

    fn fingerprint(
        &self,
        principal: &PrincipalId,
        client: IpAddr,
        user_agent: Option<&str>,
        backend: Option<&str>,
    ) -> String {
        let client = client.to_canonical().to_string();
        let mut digest = Sha256::new();
        for part in &self.from {
            let (tag, text) = match part {
                Part::Principal => (b'p', principal.as_str()),
                Part::ClientIp => (b'c', client.as_str()),
                Part::UserAgent => (b'u', user_agent.unwrap_or_default()),
                Part::Backend => (b'b', backend.unwrap_or_default()),
            };
            // The length prefix keeps different parts from hashing alike.
            digest.update([tag]);
            digest.update((text.len() as u64).to_be_bytes());
            digest.update(text);
        }
        format!("auto-{}", HEXLOWER.encode(&digest.finalize()[..DIGEST]))
    }
}

impl FoundSession {
    /// Sets the agent and its parent. Some clients send the session id as the id of the main agent, which is not a
    /// subagent.
    fn name_agent(&mut self, hint: &HeadHint, headers: &HeaderMap) {
        let own = match &hint.place {
            HeadLocation::Header(name) => label(headers, Some(name)),
            HeadLocation::Baggage(_) | HeadLocation::Pattern { .. } => None,
        };
        let is_sub = |agent: &AgentId| agent.as_str() != self.id.as_str() && Some(agent) != own.as_ref();
        self.agent_id = hint.agent(headers).filter(is_sub);
        self.parent_agent_id =
            label(headers, hint.parent.as_ref()).filter(is_sub).filter(|_| self.agent_id.is_some());
    }
}

impl HeadHint {
    fn agent(&self, headers: &HeaderMap) -> Option<AgentId> {
        label(headers, self.agent.as_ref())
    }
}

/// Returns the trimmed value unless it is empty.
fn filled(value: &HeaderValue) -> Option<&[u8]> {
    let value = value.as_bytes().trim_ascii();
    (!value.is_empty()).then_some(value)
}

/// Returns the agent id in a header. An unprintable or too long one is replaced by a digest, which keeps different
/// agents apart.
fn label(headers: &HeaderMap, name: Option<&HeaderName>) -> Option<AgentId> {
    let value = filled(headers.get(name?)?)?;
    let fits = value.len() <= MAX_AGENT && value.iter().all(u8::is_ascii_graphic);
    match std::str::from_utf8(value) {
        Ok(agent) if fits => Some(AgentId::new(agent)),
        _ => Some(AgentId::new(stand_in(value))),
    }
}

/// Returns the replacement of an unsafe id.
fn stand_in(id: &[u8]) -> String {
    format!("h-{}", HEXLOWER.encode(&Sha256::digest(id)[..DIGEST]))
}

/// Returns the header that matches the pattern; of several the first by name, because `HeaderMap` has no order.
fn fitting<'h>(headers: &'h HeaderMap, before: &str, after: &str) -> Option<(&'h HeaderName, &'h [u8])> {
    headers
        .iter()
        .filter_map(|(name, value)| {
            let middle = name.as_str().strip_prefix(before)?.strip_suffix(after)?;
            (!middle.is_empty()).then_some(())?;
            Some((name, filled(value)?))
        })
        .min_by_key(|(name, _)| name.as_str())
}

/// Returns the percent-decoded value of a baggage member (W3C Baggage: `key=value;property, key=value`).
fn baggage(line: &HeaderValue, key: &str) -> Option<Vec<u8>> {
    line.as_bytes().split(|byte| *byte == b',').find_map(|member| {
        let member = member.split(|byte| *byte == b';').next()?;
        let equals = member.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (member[..equals].trim_ascii(), member[equals + 1..].trim_ascii());
        (name == key.as_bytes() && !value.is_empty()).then(|| percent_decode(value).collect())
    })
}

/// Returns the session in Claude Code's `metadata.user_id`: the member `session_id` of a JSON text (from 2.1.78 on), or
/// the part after `_session_` in `user_<hash>_account_<id>_session_<uuid>`, with or without an account.
fn claude_code(user_id: &str) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct UserId {
        session_id: String,
    }
    if user_id.starts_with('{') {
        return serde_json::from_str::<UserId>(user_id).ok().map(|user| Cow::Owned(user.session_id));
    }
    let (user, session) = user_id.rsplit_once("_session_")?;
    user.starts_with("user_").then_some(Cow::Borrowed(session))
}

#[cfg(test)]
mod tests;
