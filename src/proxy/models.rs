//! Answers `GET /v1/models` with the models of all backends, when `models.discovery` is `merged`.
//!
//! All backends are queried at the same time, each within [`LIMIT`]; one that fails is left out and logged. The caller's
//! credential is sent only to the backend to which the request would have been routed.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::header::{ACCEPT, ACCEPT_ENCODING, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use pingora_core::connectors::http::Connector;
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use serde_json::Value;
use tokio::time::timeout;

use super::builtin::{self, BuiltinAnswer};
use super::dispatch::{self, Destination};
use super::downstream::LEG_CUT;
use super::error_response::Reject;
use super::facts::RequestFacts;
use super::identify::{self, Caller};
use super::receive::Received;
use super::request_ctx::{Identified, RequestCtx, reached};
use super::settings::Discovery;
use crate::error::{ErrorKind, Refusal};
use crate::identity::ShownKey;
use crate::ids::REQUEST_ID;
use crate::protocol::dialects::model_list::ModelListRequest;
use crate::protocol::dialects::{credentials, model_list};
use crate::protocol::{BackendKind, Dialect};
use crate::routing::forwarded;
use crate::upstream::backend::Backend;
use crate::upstream::credentials::Auth;
use crate::upstream::peer;

/// Timeout for one backend. Claude Code waits three seconds for the whole list.
const LIMIT: Duration = Duration::from_secs(2);

/// Maximum bytes of one backend's list.
const MAX_LIST: usize = 2 << 20;

/// Returns whether this request gets the merged list: it names no backend, neither in its path nor by a header.
pub(crate) fn is_asked(received: &Received, headers: &HeaderMap) -> bool {
    let settings = &received.handle.settings;
    settings.discovery == Discovery::Merged
        && received.method == Method::GET
        && received.forward.is_none()
        && matches!(received.uri.path(), "/v1/models" | "/v1/models/")
        && !headers.contains_key(settings.routes.header())
}

/// Sends the merged list, within the session of the request.
///
/// # Errors
/// The session was killed, the leg was cut meanwhile, or no backend returned a list.
pub(crate) async fn answer(session: &mut Session, ctx: &mut RequestCtx) -> Result<(), Reject> {
    let head = session.req_header();
    if ctx.stage.leg().is_none() {
        let Identified { received, caller, call, .. } = reached(ctx.stage.identified())?;
        let found = identify::by_body(received, caller, call, &head.headers, "")?;
        ctx.admit(&head.headers, found).await?;
    }
    ctx.pass_limits(session).await?;
    let head = session.req_header();
    let who = reached(ctx.stage.identified())?;
    let Identified { received, caller, call, .. } = who;
    let facts = RequestFacts::new(who, &head.headers, &ctx.app.clock);
    let own = dispatch::route(received, caller, head, call, (&ctx.app.endpoints, Destination::Path), &facts)
        .ok()
        .map(|route| route.backend);
    let lists = tokio::select! {
        biased;
        _ = received.handle.cut.soft() => return Err(pingora_core::Error::new(LEG_CUT).into()),
        lists = ask_all(&ctx.app.connector, received, caller, &head.headers, own.as_deref()) => lists,
    };
    if lists.is_empty() {
        let message = "no backend has told its models; the log says why";
        return Err(Refusal::new(ErrorKind::BackendUnavailable, message).into());
    }
    let is_served = |model: &str| {
        let routes = &received.handle.settings.routes;
        !routes.blocks(model) && caller.may_use_model(model)
    };
    let merged = merge(lists, is_served, received.dialect);
    builtin::write(session, ctx, BuiltinAnswer::json(merged)).await?;
    Ok(())
}

/// Returns the lists of all backends that have one, in the order of the configuration.
async fn ask_all(
    connector: &Connector,
    received: &Received,
    caller: &Caller,
    headers: &HeaderMap,
    own: Option<&Backend>,
) -> Vec<(String, Vec<Value>)> {
    let asked = received.handle.settings.backends.iter().filter_map(|backend| {
        let list = backend.settings().kind().model_list()?;
        let key = caller.key.as_ref();
        if key.is_some_and(|key| !key.holder().may_use_backend(backend.settings().name().as_str())) {
            return None;
        }
        let is_own = own.is_some_and(|own| own.settings().name() == backend.settings().name());
        Some(async move {
            let answer = async {
                let head = request(backend, list, received, headers, is_own, key)
                    .map_err(|error| error.to_string())?;
                ask(connector, backend, head).await
            };
            let name = backend.settings().name();
            match timeout(LIMIT, answer).await.unwrap_or_else(|_| Err("it took too long".to_owned())) {
                Ok(list) => Some((name.to_string(), list)),
                Err(why) => {
                    let request_id = received.request_id.as_str();
                    tracing::warn!(request_id, backend = %name, why, "a backend has not told its models");
                    None
                }
            }
        })
    });
    join_all(asked).await.into_iter().flatten().collect()
}

fn request(
    backend: &Backend,
    list: &ModelListRequest,
    received: &Received,
    headers: &HeaderMap,
    is_own: bool,
    key: Option<&ShownKey>,
) -> pingora_core::Result<RequestHeader> {
    let settings = backend.settings();
    let takes_own = is_own && *settings.auth() == Auth::Passthrough;
    let query = received.uri.query().filter(|_| takes_own).map(credentials::only_parameters);
    let query = match key.and_then(ShownKey::text) {
        Some(text) => query.map(|query| credentials::query_without(&query, text)),
        None => query,
    };
    let path = match query.filter(|query| !query.is_empty()) {
        Some(query) if list.target.contains('?') => format!("{}&{query}", list.target),
        Some(query) => format!("{}?{query}", list.target),
        None => list.target.to_owned(),
    };
    let path = forwarded(settings.base_path(), path.as_bytes(), 0..0);
    let mut head = RequestHeader::build(Method::GET, &path, Some(12))?;
    head.insert_header(HOST, settings.authority())?;
    head.insert_header(ACCEPT, "application/json")?;
    head.insert_header(ACCEPT_ENCODING, "identity")?;
    head.insert_header(REQUEST_ID, received.request_id.as_str())?;
    for (name, value) in list.headers {
        head.insert_header(*name, *value)?;
    }
    if let Auth::Inject { header, value } = settings.auth() {
        head.insert_header(header.clone(), value.clone())?;
    }
    let own = [USER_AGENT.as_str()].into_iter().chain(BackendKind::client_headers());
    let own = credentials::fields().map(HeaderName::as_str).chain(own);
    for name in own.filter(|_| takes_own) {
        let is_ours = |value: &&HeaderValue| key.is_some_and(|key| key.is_in(value.as_bytes()));
        if let Some(value) = headers.get(name).filter(|value| !is_ours(value)) {
            head.insert_header(name, value.clone())?;
        }
    }
    peer::address_to_proxy(&mut head, settings, false)?;
    Ok(head)
}

/// Queries one backend.
///
/// # Errors
/// The reason why the backend returned no list, for the log.
async fn ask(connector: &Connector, backend: &Backend, head: RequestHeader) -> Result<Vec<Value>, String> {
    let told = |error: Box<pingora_core::Error>| error.to_string();
    let mut http = peer::connect(connector, backend, LIMIT).await?;
    http.write_request_header(Box::new(head)).await.map_err(told)?;
    http.finish_request_body().await.map_err(told)?;
    http.read_response_header().await.map_err(told)?;
    let status = http.response_header().map_or(0, |head| head.status.as_u16());
    if status != 200 {
        return Err(format!("its answer has status {status}"));
    }
    let mut body = Vec::new();
    while let Some(chunk) = http.read_response_body().await.map_err(told)? {
        if body.len() + chunk.len() > MAX_LIST {
            return Err(format!("its list is larger than {MAX_LIST} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    http.shutdown().await;
    model_list::entries(&body)
}

/// Merges the lists: each model once, from the first backend that has it, if the caller is served with it.
fn merge(lists: Vec<(String, Vec<Value>)>, is_served: impl Fn(&str) -> bool, dialect: Dialect) -> Bytes {
    let mut seen = HashSet::new();
    let mut data = Vec::new();
    for (backend, entries) in &lists {
        for entry in entries.iter().filter_map(Value::as_object) {
            let Some(id) = model_list::id(entry) else { continue };
            if is_served(id) && seen.insert(id) {
                data.push(Value::Object(dialect.model_entry(entry, id, backend)));
            }
        }
    }
    dialect.model_list(data).to_string().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::dialects::model_list::entries;
    use crate::routing::{self, Table};
    use crate::settings::fault::Faults;

    fn merged(lists: &[(&str, Value)], dialect: Dialect) -> Value {
        let written =
            routing::RoutingConfig { blocked_models: vec!["secret-*".into()], ..Default::default() };
        let routes = Table::compile(written, &[], &mut Faults::default()).unwrap();
        let read = |(name, list): &(&str, Value)| {
            ((*name).to_owned(), entries(list.to_string().as_bytes()).unwrap())
        };
        let is_served = |model: &str| !routes.blocks(model);
        serde_json::from_slice(&merge(lists.iter().map(read).collect(), is_served, dialect)).unwrap()
    }

    fn lists() -> [(&'static str, Value); 3] {
        let openai = json!({"object": "list", "data": [
            {"id": "gpt-5", "object": "model", "created": 1_790_000_000, "owned_by": "openai", "x": 1},
            {"id": "secret-1", "object": "model"}, {"id": 7}, "nonsense",
        ]});
        let anthropic = json!({"data": [
            {"type": "model", "id": "claude-4", "display_name": "Claude 4", "created_at": "2026-09-22T00:00:00Z"},
            {"type": "model", "id": "gpt-5"},
        ], "has_more": false});
        let gemini = json!({"models": [{"name": "models/gemini-3", "displayName": "Gemini 3"}]});
        [("one", openai), ("two", anthropic), ("three", gemini)]
    }

    #[test]
    fn each_model_is_listed_once_with_its_owner() {
        assert_eq!(
            merged(&lists(), Dialect::OPENAI_OTHER),
            json!({"object": "list", "data": [
                {"id": "gpt-5", "object": "model", "created": 1_790_000_000, "owned_by": "openai",
                    "display_name": "gpt-5", "x": 1},
                {"id": "claude-4", "object": "model", "created": 1_790_035_200, "owned_by": "two",
                    "display_name": "Claude 4", "created_at": "2026-09-22T00:00:00Z"},
                {"id": "gemini-3", "object": "model", "created": 0, "owned_by": "three",
                    "display_name": "Gemini 3", "displayName": "Gemini 3", "name": "models/gemini-3"},
            ]})
        );
    }

    #[test]
    fn anthropics_clients_get_their_own_shape() {
        let list = merged(&lists(), Dialect::ANTHROPIC);
        assert_eq!(
            (&list["first_id"], &list["last_id"], &list["has_more"]),
            (&json!("gpt-5"), &json!("gemini-3"), &json!(false))
        );
        let first = &list["data"][0];
        assert_eq!(first["type"], "model");
        assert_eq!(first["created_at"], "2026-09-21T14:13:20Z");
        assert_eq!(merged(&[], Dialect::ANTHROPIC)["first_id"], Value::Null);
    }

    #[test]
    fn what_is_no_list_says_so() {
        for body in ["", "[]", "{}", r#"{"data":{}}"#, r#"{"error":{"message":"no"}}"#, &"[".repeat(1000)] {
            assert!(entries(body.as_bytes()).is_err(), "{body}");
        }
    }
}
