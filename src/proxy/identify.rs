//! Step 2: the caller, its program and its session.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName};

use super::proxy_authorization;
use super::receive::Received;
use crate::error::{ErrorKind, Refusal};
use crate::identity::client::Client;
use crate::identity::{FoundSession, Key, KeyFault, Origin, Principal, ShownKey, TokenFault};
use crate::ids::{ClientNetwork, Membership, PrincipalId, Validity};
use crate::protocol::dialects::credentials;
use crate::protocol::request::ModelRequest;
use crate::upstream::{balance, reporters};

/// The caller.
pub(crate) struct Caller {
    pub(crate) principal: PrincipalId,
    /// The principals that its credentials would be alone, when it carries several.
    pub(crate) accounts: Box<[PrincipalId]>,
    /// What the health of backends distinguishes callers by.
    pub(crate) for_health: reporters::Caller,
    /// The program; a label, never authority.
    pub(crate) client: Client,
    pub(crate) address: IpAddr,
    /// The key that it shows; `None` without one.
    pub(crate) key: Option<ShownKey>,
    /// The set of keys among which that was looked up ([`Auth::generation`]).
    ///
    /// [`Auth::generation`]: crate::identity::Auth::generation
    pub(crate) keys: (u64, u64),
}

/// Whether the caller depends on this field: nothing else in a head does, except the query.
pub(crate) fn decides_on_caller(field: &HeaderName) -> bool {
    Client::reads(field) || credentials::is_read(field)
}

impl Caller {
    /// Returns whether its key permits some models only.
    pub(crate) fn limits_models(&self) -> bool {
        self.key.as_ref().is_some_and(|key| key.holder().limits_models())
    }

    /// Returns whether it may use this model.
    pub(crate) fn may_use_model(&self, model: &str) -> bool {
        self.key.as_ref().is_none_or(|key| key.holder().may_use_model(model))
    }

    /// Returns the same caller with the program that these fields tell.
    pub(super) fn with_program(&self, headers: &HeaderMap) -> Self {
        Self {
            principal: self.principal.clone(),
            accounts: self.accounts.clone(),
            for_health: self.for_health,
            client: Client::recognise(headers),
            address: self.address,
            key: self.key.clone(),
            keys: self.keys,
        }
    }

    /// Returns its tenant and groups; `None` if it has neither.
    pub(crate) fn membership(&self) -> Option<&Arc<Membership>> {
        self.key.as_ref()?.holder().membership()
    }

    /// Returns whether its key or token need not be looked up again.
    fn is_fresh(&self) -> bool {
        self.key.as_ref().is_none_or(ShownKey::is_fresh)
    }

    /// Checks that it is still accepted, which may change while its connection or request is open.
    ///
    /// # Errors
    /// The key has expired or was revoked, or there is none and one is required since.
    pub(super) fn check(&self, received: &Received) -> Result<(), Refusal> {
        match &self.key {
            Some(key) => key.check().map_err(|fault| not_accepted(&fault)),
            None if self.validity(received).is_revoked() => Err(not_accepted(&KeyFault::Missing)),
            None => Ok(()),
        }
    }

    /// Returns for how long it is accepted.
    pub(super) fn validity<'c>(&'c self, received: &'c Received) -> &'c Arc<Validity> {
        match &self.key {
            Some(key) => key.holder().validity(),
            None => received.handle.settings.auth.keyless(),
        }
    }
}

/// Reads the caller from the head. `key` is the same as long as the process runs.
///
/// # Errors
/// The head carries too many credentials, or its key of this gateway is missing or no good.
pub(crate) fn caller(received: &Received, headers: &HeaderMap, key: &Key) -> Result<Arc<Caller>, Refusal> {
    let (last, query) = (&received.handle.peer.last_caller, received.query_of_caller());
    let auth = &received.handle.settings.auth;
    let last_one = last.find(headers, query, received.client, auth.generation());
    if let Some(caller) = last_one.filter(|caller| caller.is_fresh()) {
        caller.check(received)?;
        return Ok(caller);
    }
    let origin = Origin { names: &received.handle.peer.names, address: received.client };
    let shown = auth.shown(headers, query, &origin).map_err(|fault| not_accepted(&fault))?;
    let principal = match &shown {
        Some(shown) => Principal { id: shown.holder().id().clone(), accounts: Box::default() },
        None => key
            .principal(headers, query, received.client)
            .map_err(|fault| Refusal::new(ErrorKind::BadRequest, fault.to_string()))?,
    };
    let caller = Arc::new(Caller {
        for_health: reporters::Caller {
            principal: balance::mark(principal.id.as_str()),
            network: ClientNetwork::of(received.client),
        },
        principal: principal.id,
        accounts: principal.accounts,
        client: Client::recognise(headers),
        address: received.client,
        key: shown,
        keys: auth.generation(),
    });
    caller.check(received)?;
    last.set(headers, query, &caller);
    Ok(caller)
}

/// Checks that the caller is known by its key, if the forward proxy asks for one.
///
/// # Errors
/// It is not.
pub(super) fn require_key(received: &Received, caller: &Caller) -> Result<(), Refusal> {
    let is_required = received.forward.is_some() && received.handle.settings.forward.requires_auth();
    if !is_required || caller.key.is_some() {
        return Ok(());
    }
    let message = "this proxy needs a key of the gateway as its password: http://SESSION:KEY@HOST:PORT (`elida key create`)";
    Err(Refusal::new(ErrorKind::KeyRequired, message))
}

/// Returns why the caller of an open request is no longer accepted; `None` before it was identified.
pub(super) fn no_longer_accepted(who: Option<(&Caller, &Received)>) -> Refusal {
    let checked = who.map_or(Ok(()), |(caller, received)| caller.check(received));
    checked.err().unwrap_or_else(|| not_accepted(&KeyFault::Revoked))
}

/// Returns the refusal of a caller that is not accepted.
fn not_accepted(fault: &KeyFault) -> Refusal {
    let kind = match fault {
        KeyFault::TooMany(_) | KeyFault::Several => ErrorKind::BadRequest,
        KeyFault::Missing => ErrorKind::KeyRequired,
        KeyFault::Damaged | KeyFault::Unknown => ErrorKind::KeyUnknown,
        KeyFault::Revoked => ErrorKind::KeyRevoked,
        KeyFault::Expired { .. } => ErrorKind::KeyExpired,
        KeyFault::Token(TokenFault::Expired) => ErrorKind::TokenExpired,
        KeyFault::Token(TokenFault::KeysPending | TokenFault::KeysUnavailable) => {
            ErrorKind::IssuerUnavailable
        }
        KeyFault::Token(_) => ErrorKind::TokenInvalid,
    };
    let mut refusal = Refusal::new(kind, fault.to_string());
    if kind == ErrorKind::IssuerUnavailable {
        let is_pending = matches!(fault, KeyFault::Token(TokenFault::KeysPending));
        refusal.retry_after = Some(Duration::from_secs(if is_pending { 1 } else { 10 }));
    }
    refusal
}

/// Where the session is named, which decides when the leg is opened (ADR 2).
pub(crate) enum SessionHint {
    /// The head names it: the leg is opened, and can be cut, before the body is read.
    Known(FoundSession),
    /// The body may name it: the leg is opened after routing.
    InBody,
}

/// Reads where the session is named.
///
/// # Errors
/// The head names two different sessions.
pub(crate) fn session_hint(received: &Received, headers: &HeaderMap) -> Result<SessionHint, Refusal> {
    let by_user = proxy_authorization::session(received);
    let is_intercepted = received.forward.as_ref().is_some_and(|forward| forward.is_intercepted);
    let found = match is_intercepted {
        // What the program says of itself is more exact than the name that its tunnel has.
        true => by_head(received, headers)?.or(by_user),
        false if by_user.is_some() => by_user,
        false => by_head(received, headers)?,
    };
    Ok(found.map_or(SessionHint::InBody, SessionHint::Known))
}

/// Returns the session that the head names, if any.
///
/// # Errors
/// The head names two different sessions.
pub(crate) fn by_head(received: &Received, headers: &HeaderMap) -> Result<Option<FoundSession>, Refusal> {
    received
        .handle
        .settings
        .identity
        .by_header(headers)
        .map_err(|conflict| Refusal::new(ErrorKind::BadRequest, conflict.to_string()))
}

/// Returns the session that the body names, else the one that `session.missing` makes up.
///
/// # Errors
/// `session.missing` is `reject` and the request names no session.
pub(crate) fn by_body(
    received: &Received,
    caller: &Caller,
    call: &ModelRequest,
    headers: &HeaderMap,
    backend: &str,
) -> Result<FoundSession, Refusal> {
    let identity = &received.handle.settings.identity;
    let agent = headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("");
    identity
        .by_body(&|index| call.hint(index))
        .or_else(|| identity.fallback(&caller.principal, caller.address, Some(agent), Some(backend)))
        .ok_or_else(|| {
            let message =
                format!("the request names no session; send the header {}", identity.header().as_str());
            Refusal::new(ErrorKind::SessionRequired, message)
        })
}
