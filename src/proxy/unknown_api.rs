//! Requests to a model's server at paths of no known API. Nobody knows what they ask a model for, and their answers are not read.

use http::HeaderMap;

use super::receive::Received;
use crate::error::{ErrorKind, Refusal};
use crate::policy::ruleset::RuleSet;
use crate::protocol::{BackendKind, Dialect};

/// Whether a request to a server of this type may ask a model in a way that is not known here. `has_body`: it has one.
pub(super) fn is_asked(received: &Received, kind: BackendKind, has_body: bool) -> bool {
    // What sockets say is read, or they are refused.
    if received.socket || received.dialect.is_llm() || !kind.is_llm() {
        return false;
    }
    // Of MCP and A2A only the path is believed: any client can send the fields of their heads.
    if received.dialect.is_json_rpc() && Dialect::detect(received.uri.path(), &HeaderMap::new()).is_json_rpc()
    {
        return false;
    }
    Dialect::may_ask_model(&received.method, received.uri.path(), has_body)
}

/// Checks that the answer to a request is read where rules act on what models say and call. Returns whether it is not read, and
/// rules only ask for it.
///
/// # Errors
/// It is not, so it could say or call anything.
pub(super) fn check(
    rules: &RuleSet,
    received: &Received,
    kind: BackendKind,
    has_body: bool,
) -> Result<bool, Refusal> {
    if !rules.hears() || !is_asked(received, kind, has_body) {
        return Ok(false);
    }
    if !rules.acts_on_what_is_heard() {
        return Ok(true);
    }
    let message = format!(
        "{} to this path is of no API that this gateway reads, so what the model says and calls cannot be held against \
         policy.rules; call a path of the provider's API, or give what is no model's a backend of its own (type: http)",
        received.method
    );
    Err(Refusal::new(ErrorKind::PolicyBlocked, message))
}
