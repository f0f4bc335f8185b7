//! Step 2: who calls, with which program, in which session.

use std::net::IpAddr;

use http::HeaderMap;

use super::receive::Received;
use crate::error::{ErrorKind, Refusal};
use crate::identity::FoundSession;
use crate::identity::Key;
use crate::identity::client::Client;
use crate::ids::PrincipalId;
use crate::protocol::request::ModelRequest;
use crate::upstream::balance;

/// The one at the other end.
pub(crate) struct Caller {
    pub(crate) principal: PrincipalId,
    /// The principals that its credentials would be alone, when it carries several.
    pub(crate) accounts: Box<[PrincipalId]>,
    /// The mark of the principal, by which backends tell callers apart.
    pub(crate) mark: u64,
    /// The program; a label, never authority.
    pub(crate) client: Client,
    pub(crate) address: IpAddr,
}

/// Reads who calls from the head.
///
/// # Errors
/// It carries more credentials than anybody needs.
pub(crate) fn caller(received: &Received, headers: &HeaderMap, key: &Key) -> Result<Caller, Refusal> {
    let principal = key
        .principal(headers, received.uri.query(), received.client)
        .map_err(|fault| Refusal::new(ErrorKind::BadRequest, fault.to_string()))?;
    Ok(Caller {
        mark: balance::mark(principal.id.as_str()),
        principal: principal.id,
        accounts: principal.accounts,
        client: Client::recognise(headers),
        address: received.client,
    })
}

/// The session as the head names it. Then the leg can be opened, and cut, before the body is here.
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

/// The session as the body names it, else one made up by `session.missing`.
///
/// # Errors
/// `session.missing: reject`, and nothing names a session.
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
