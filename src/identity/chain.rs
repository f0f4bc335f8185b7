//! Which session a request belongs to: the explicit header, the hints of many clients, a fallback.
//!
//! Asked in this order by the proxy: [`Settings::by_header`] (needs the head only), then
//! [`Settings::by_body`], then [`Settings::fallback`]. Hints in the head are therefore tried before
//! those in the body, each group in its written order.

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

use super::settings::{HeadHint, Missing, Parse, Part, Place, ScopeMode, Settings};
use crate::ids::{AgentId, PrincipalId, Scope, SessionId};

/// Longer ids are replaced by a digest, whatever the pattern says.
const MAX_ID: usize = 256;
/// Longer names of agents are replaced by a digest.
const MAX_AGENT: usize = 128;
/// Bytes of a digest that stand in an id.
const DIGEST: usize = 16;

/// A session that was recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its id: printable ASCII, replaced by a digest when it was unsafe.
    pub id: SessionId,
    /// Where it was found: `header:x-session-id`, `body:metadata.user_id`, `derived`, `generated`.
    pub source: Arc<str>,
    /// The program that sends this hint.
    pub client: Option<Cow<'static, str>>,
    /// The subagent.
    pub agent_id: Option<AgentId>,
    /// The agent that started it.
    pub parent_agent_id: Option<AgentId>,
    /// A derived id: after so long a silence the same id is a new incarnation.
    pub idle_gap: Option<Duration>,
}

/// The session header is there twice, with different values: the request must be refused, because
/// whoever reads the other one sees another session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{header} is there more than once, with different values")]
pub struct Conflict {
    /// The header.
    pub header: HeaderName,
}

impl Settings {
    /// The header with the explicit id, both ways.
    pub fn header(&self) -> &HeaderName {
        &self.header
    }

    /// The dotted paths of the hints in bodies; [`Settings::by_body`] asks for them by position.
    pub fn body_paths(&self) -> Vec<String> {
        self.body.iter().map(|hint| hint.path.clone()).collect()
    }

    /// The session the head names.
    pub fn by_header(&self, headers: &HeaderMap) -> Result<Option<Found>, Conflict> {
        if let Some(value) = self.explicit(headers)? {
            let mut found = self.found(value, &self.header_source, None);
            // A client that names its session twice still tells which of its agents speaks.
            if let Some(hint) = self.head.iter().find(|hint| hint.agent(headers).is_some()) {
                found.name_agent(hint, headers);
            }
            return Ok(Some(found));
        }
        Ok(self.head.iter().find_map(|hint| self.by_head_hint(hint, headers)))
    }

    /// The session the body names. `hint` gives the value at the path of this position.
    pub fn by_body<'a>(&self, hint: &dyn Fn(usize) -> Option<&'a str>) -> Option<Found> {
        self.body.iter().enumerate().find_map(|(i, wanted)| {
            let value = hint(i)?.trim();
            let id = match wanted.parse {
                Parse::Plain | Parse::IdOrString => Cow::Borrowed(value),
                Parse::ClaudeCode => claude_code(value)?,
            };
            (!id.is_empty()).then(|| self.found(id.as_bytes(), &wanted.source, wanted.client.clone()))
        })
    }

    /// The session of a request that names none; `None` when such a request is to be refused.
    pub fn fallback(
        &self,
        principal: &PrincipalId,
        client: IpAddr,
        user_agent: Option<&str>,
        backend: Option<&str>,
    ) -> Option<Found> {
        let (id, source, idle_gap) = match self.missing {
            Missing::Reject => return None,
            Missing::Generate => (Uuid::now_v7().to_string(), "generated", None),
            Missing::Derive => {
                (self.fingerprint(principal, client, user_agent, backend), "derived", self.idle_gap)
            }
        };
        Some(Found {
            id: SessionId::new(id),
            source: source.into(),
            client: None,
            agent_id: None,
            parent_agent_id: None,
            idle_gap,
        })
    }

    /// The namespace of this principal's ids.
    pub fn scope(&self, principal: &PrincipalId) -> Scope {
        match self.scope {
            ScopeMode::Principal => Scope::of(principal),
            ScopeMode::Global => Scope::new(""),
        }
    }

    /// The one value of the session header.
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

    fn by_head_hint(&self, hint: &HeadHint, headers: &HeaderMap) -> Option<Found> {
        let mut found = match &hint.place {
            Place::Header(name) => {
                let value = headers.get(name).and_then(filled)?;
                self.found(value, &hint.source, hint.client.clone())
            }
            Place::Baggage(key) => {
                let value = headers.get_all("baggage").iter().find_map(|line| baggage(line, key))?;
                self.found(&value, &hint.source, hint.client.clone())
            }
            Place::Pattern { before, after } => {
                let (name, value) = fitting(headers, before, after)?;
                self.found(value, &format!("header:{name}").into(), hint.client.clone())
            }
        };
        found.name_agent(hint, headers);
        Some(found)
    }

    fn found(&self, value: &[u8], source: &Arc<str>, client: Option<Cow<'static, str>>) -> Found {
        Found {
            id: self.safe(value),
            source: source.clone(),
            client,
            agent_id: None,
            parent_agent_id: None,
            idle_gap: None,
        }
    }

    /// The id as it is when it fits the pattern and can be printed, else `h-` and a digest of it.
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
            // With its length before it, no part can pass for the beginning of the next.
            digest.update([tag]);
            digest.update((text.len() as u64).to_be_bytes());
            digest.update(text);
        }
        format!("auto-{}", HEXLOWER.encode(&digest.finalize()[..DIGEST]))
    }
}

impl Found {
    /// Takes the agent's name and its parent's. The main agent of some clients goes by the session's id, as
    /// that client names it.
    fn name_agent(&mut self, hint: &HeadHint, headers: &HeaderMap) {
        let own = match &hint.place {
            Place::Header(name) => label(headers, Some(name)),
            Place::Baggage(_) | Place::Pattern { .. } => None,
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

/// The value without the blanks around it, unless nothing is left.
fn filled(value: &HeaderValue) -> Option<&[u8]> {
    let value = value.as_bytes().trim_ascii();
    (!value.is_empty()).then_some(value)
}

/// An agent's name in a header; one that cannot be printed or is too long is replaced by a digest, so that no
/// two agents become one.
fn label(headers: &HeaderMap, name: Option<&HeaderName>) -> Option<AgentId> {
    let value = filled(headers.get(name?)?)?;
    let fits = value.len() <= MAX_AGENT && value.iter().all(u8::is_ascii_graphic);
    match std::str::from_utf8(value) {
        Ok(agent) if fits => Some(AgentId::new(agent)),
        _ => Some(AgentId::new(stand_in(value))),
    }
}

/// What stands for an id that is unsafe to print.
fn stand_in(id: &[u8]) -> String {
    format!("h-{}", HEXLOWER.encode(&Sha256::digest(id)[..DIGEST]))
}

/// The header that fits the pattern; of several the first by name, because a map has no order.
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

/// The value of a baggage member (W3C Baggage: `key=value;property, key=value`), percent-decoded.
fn baggage(line: &HeaderValue, key: &str) -> Option<Vec<u8>> {
    line.as_bytes().split(|byte| *byte == b',').find_map(|member| {
        let member = member.split(|byte| *byte == b';').next()?;
        let equals = member.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (member[..equals].trim_ascii(), member[equals + 1..].trim_ascii());
        (name == key.as_bytes() && !value.is_empty()).then(|| percent_decode(value).collect())
    })
}

/// The session in Claude Code's `metadata.user_id`: the member `session_id` of a JSON text (from 2.1.78
/// on), or what follows `_session_` in `user_<hash>_account_<id>_session_<uuid>`, with or without an
/// account.
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
