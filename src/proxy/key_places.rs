//! Step 2, continued: keys of this gateway where none belongs. A key in a path, in a request's id or in the name of a session
//! would be forwarded and written down, so such a request is refused and its path and id are forgotten.

use std::borrow::Cow;

use http::{HeaderMap, Uri};
use percent_encoding::percent_decode_str;

use super::receive::Received;
use super::request_ctx::Identified;
use crate::error::{ErrorKind, Refusal};
use crate::identity::{Auth, FoundSession, ShownKey};
use crate::ids::{REQUEST_ID, RequestId};
use crate::protocol::dialects::credentials;

/// Recognises keys.
pub(super) struct KeyPlaces<'a> {
    pub(super) auth: &'a Auth,
    /// The key that the request shows, which may have any form if it was imported.
    pub(super) shown: Option<&'a ShownKey>,
}

impl KeyPlaces<'_> {
    /// Checks the id of the request, path and query, before any of them is written down. They are forgotten if one contains
    /// a key.
    ///
    /// # Errors
    /// One of them contains a key.
    pub(super) fn check_target(&self, received: &mut Received) -> Result<(), Refusal> {
        let misplaced = self.place_in_target(received).map(|place| misplaced(&place));
        let Some(refusal) = misplaced else { return Ok(()) };
        (received.request_id, received.uri) = (RequestId::fresh(), Uri::from_static("/"));
        Err(refusal)
    }

    fn place_in_target<'r>(&self, received: &'r Received) -> Option<Cow<'r, str>> {
        let path: Cow<'_, [u8]> = percent_decode_str(received.uri.path()).into();
        if self.is_in(received.request_id.as_str().as_bytes()) {
            return Some(Cow::Borrowed(REQUEST_ID));
        }
        if self.is_in(&path) {
            return Some(Cow::Borrowed("the path"));
        }
        let mut others = credentials::other_parameters(received.uri.query().unwrap_or_default());
        others.find_map(|(name, value)| match self.is_in(name.as_bytes()) {
            true => Some(Cow::Borrowed("the name of a query parameter")),
            false if self.is_in(value.as_bytes()) => Some(Cow::Owned(format!("the query parameter {name}"))),
            false => None,
        })
    }

    /// Checks the fields: none may contain another key than the one that is shown, which is removed from them later.
    ///
    /// # Errors
    /// One contains such a key.
    pub(super) fn check_fields(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let is_other = |value: &[u8]| {
            let key = self.auth.key_in(value);
            key.is_some_and(|key| self.shown.is_none_or(|shown| shown.text() != Some(key)))
        };
        match headers.iter().find(|(_, value)| is_other(value.as_bytes())) {
            Some((name, _)) => Err(misplaced(name.as_str())),
            None => Ok(()),
        }
    }

    /// Checks the names of the session and its agents.
    ///
    /// # Errors
    /// One contains a key.
    pub(super) fn check_session(&self, found: &FoundSession) -> Result<(), Refusal> {
        let agents =
            [&found.agent_id, &found.parent_agent_id].into_iter().flatten().map(|agent| agent.as_str());
        match std::iter::once(found.id.as_str()).chain(agents).any(|name| self.is_in(name.as_bytes())) {
            true => Err(misplaced(&format!("the name of a session or agent ({})", found.source))),
            false => Ok(()),
        }
    }

    fn is_in(&self, text: &[u8]) -> bool {
        self.auth.key_in(text).is_some() || self.shown.is_some_and(|shown| shown.is_in(text))
    }
}

impl Identified {
    /// Recognises keys in what follows.
    pub(super) fn key_places(&self) -> KeyPlaces<'_> {
        KeyPlaces { auth: &self.received.handle.settings.auth, shown: self.caller.key.as_ref() }
    }
}

fn misplaced(place: &str) -> Refusal {
    let message = format!(
        "a key of this gateway is in {place}, where it would be forwarded and written down; send it where your client sends \
         its API key (Authorization, x-api-key), or in the header x-elida-key"
    );
    Refusal::new(ErrorKind::BadRequest, message)
}
