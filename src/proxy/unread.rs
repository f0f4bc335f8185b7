//! Refuses requests whose body cannot be read here while something depends on what it says. The backend may be able to
//! read it, so guessing could reach a blocked model, another provider with the caller's key, or a killed session.

use http::HeaderMap;

use super::identify::Caller;
use super::receive::Received;
use super::{batch, dispatch};
use crate::error::{ErrorKind, Refusal};
use crate::protocol::Dialect;
use crate::protocol::request::ModelRequest;
use crate::protocol::wire::coding::{ACCEPTED, Coding, Unread};

/// Refuses the request if its body was not read and matters. `has_session`: the head names the session.
///
/// # Errors
/// The body may name a blocked model, decides on the backend, has to be rewritten, or may name the session.
pub(crate) fn check(
    received: &Received,
    headers: &HeaderMap,
    call: &ModelRequest,
    caller: &Caller,
    has_session: bool,
) -> Result<(), Refusal> {
    let settings = &received.handle.settings;
    let restricts = settings.routes.restricts_models() || caller.limits_models();
    batch::check_elsewhere(received, call, restricts)?;
    let counts = !settings.budgets.is_empty() || !settings.caller_limits.is_empty();
    let is_checked = restricts || counts || settings.rules.read_bodies();
    if !received.dialect.is_llm() && is_checked && Dialect::is_respelled(received.uri.path(), headers) {
        let message = "the path is an unusual spelling of one of a model's API, so what it asks for cannot be held against \
                       routing.blocked_models, routing.strict_models, the key, limits, budgets and policy.rules; write it as \
                       the API's documentation does";
        return Err(Refusal::new(ErrorKind::BadRequest, message));
    }
    check_others(received, call)?;
    let why = match call.unread {
        Some(Unread::TooLarge) => {
            let message = "the request body grows too much when it is decoded: send less than \
                           server.limits.max_body_llm (model calls, MCP, A2A), max_upload (forms) or max_body \
                           (other JSON), or send it uncompressed";
            return Err(Refusal::new(ErrorKind::BodyTooLarge, message));
        }
        Some(Unread::Coding) if received.coding == Coding::Identity => "it is not in UTF-8".to_owned(),
        Some(Unread::Coding) => format!("its Content-Encoding is none of {ACCEPTED}"),
        Some(Unread::Corrupt) => "it is not what its Content-Encoding says".to_owned(),
        None if !received.dialect.is_llm() => return Ok(()),
        None if call.malformed => "it is neither plain JSON nor a form".to_owned(),
        None if call.model.is_none() && call.model_is_odd => "its model is no text".to_owned(),
        None => return Ok(()),
    };
    let unchecked = match () {
        () if settings.routes.blocks_models() => Some((ErrorKind::PolicyBlocked, "routing.blocked_models")),
        () if caller.limits_models() => Some((ErrorKind::ModelDenied, "those that the key permits")),
        () => None,
    };
    if let Some((kind, by)) = unchecked {
        let message = format!(
            "the request body cannot be read ({why}), so its model cannot be held against {by}; send plain JSON"
        );
        return Err(Refusal::new(kind, message));
    }
    let wanted = dispatch::wanted(headers, settings.routes.header())?;
    let depends = settings.routes.depends_on_model(wanted, received.uri.path());
    let needed = match (call.unread, depends) {
        (Some(_), Some(reason)) => reason,
        (None, Some(reason)) if settings.routes.is_strict() => reason,
        (Some(_), None) if !has_session && settings.identity.reads_bodies() => {
            "it may name the session (session.identity)"
        }
        _ => return Ok(()),
    };
    let message =
        format!("the request body cannot be read ({why}), but {needed}; send it as plain JSON in UTF-8");
    Err(Refusal::new(ErrorKind::BodyUnreadable, message))
}

/// Refuses a request that names more models to fall back on than are kept, where some are refused.
///
/// # Errors
/// It does.
fn check_others(received: &Received, call: &ModelRequest) -> Result<(), Refusal> {
    let has_more = call.others.as_ref().is_some_and(|others| others.has_more());
    if !(has_more && received.dialect.is_llm() && received.handle.settings.routes.restricts_models()) {
        return Ok(());
    }
    let message = "the request names more than 64 models besides the first one, so not all can be held against \
                   routing.blocked_models and routing.strict_models; name fewer";
    Err(Refusal::new(ErrorKind::PolicyBlocked, message))
}
