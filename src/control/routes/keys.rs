//! Makes, lists, rotates and revokes keys for callers.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::response::IntoResponse;
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IntoDeserializer;

use crate::control::api::error::ErrorCode;
use crate::control::api::keys::{KeyList, KeysQuery, MadeKey, NewKey, RevokedKey, RotateBody};
use crate::control::extract::{ApiBody, ApiQuery};
use crate::control::operator::{Change, digest_of};
use crate::control::problem::Problem;
use crate::control::service::ControlState;
use crate::identity::auth_settings::PrincipalConfig;
use crate::identity::made_keys::{ClientKeys, KeyError, ListedKey};
use crate::identity::roles::Reach;
use crate::ids::{Membership, PrincipalId};
use crate::settings::units::DurationText;

/// Makes a key, or takes over one of another gateway.
pub(super) async fn create(
    State(state): State<Arc<ControlState>>,
    Extension(reach): Extension<Reach>,
    ApiBody(body): ApiBody<NewKey>,
) -> Result<impl IntoResponse, Problem> {
    let NewKey { id, tenant, groups, labels, models, backends, tools, expires, key } = body;
    let tenant = tenant.or_else(|| own_tenant(&reach));
    check_maker(&state, &reach, &principal_of(&id), tenant.as_deref(), &groups)?;
    let expires = expires.map(|text| expiry(&text)).transpose()?;
    let principal = PrincipalConfig {
        id,
        tenant,
        groups,
        labels,
        models,
        backends,
        tools,
        expires,
        key_sha256: String::new(),
    };
    let (listed, key) = on_disk(&state, move |keys| keys.create(principal, key)).await?;
    share(&state, &listed.principal.id).await;
    tracing::info!(id = listed.principal.id, "a key is made");
    let made = Some(listed.principal.id.clone());
    let change = Change { made, after: Some(digest(&listed)), ..Change::default() };
    let made = MadeKey { key: key.reveal().to_owned(), view: listed.into() };
    Ok((StatusCode::CREATED, Extension(change), Json(made)))
}

/// Returns all keys, without the keys themselves.
pub(super) async fn list(
    State(state): State<Arc<ControlState>>,
    Extension(reach): Extension<Reach>,
    ApiQuery(KeysQuery { limit, cursor }): ApiQuery<KeysQuery>,
) -> Json<KeyList> {
    let fit = |key: &ListedKey| reach.covers(key.principal.tenant.as_deref());
    let (page, is_cut) = state.parts.keys.page(cursor.as_deref(), limit.get(), fit);
    let next_cursor = page.last().filter(|_| is_cut).map(|last| last.principal.id.clone());
    Json(KeyList { keys: page.into_iter().map(Into::into).collect(), next_cursor })
}

/// Replaces a key by a new one.
pub(super) async fn rotate(
    State(state): State<Arc<ControlState>>,
    Extension(reach): Extension<Reach>,
    Path(id): Path<String>,
    ApiBody(RotateBody { grace }): ApiBody<RotateBody>,
) -> Result<(Extension<Change>, Json<MadeKey>), Problem> {
    let before = own_key(&state, &reach, &id)?;
    let grace = grace.map(|grace| grace.limit().unwrap_or_default()).unwrap_or_default();
    let (listed, key) = on_disk(&state, move |keys| keys.rotate(&id, grace)).await?;
    let legs_cut = state.parts.manager.cut_invalid_legs();
    share(&state, &listed.principal.id).await;
    tracing::info!(id = listed.principal.id, ?grace, legs_cut, "a key is rotated");
    let change = Change { before, after: Some(digest(&listed)), ..Change::default() };
    Ok((Extension(change), Json(MadeKey { key: key.reveal().to_owned(), view: listed.into() })))
}

/// Revokes a key, and cuts its open requests.
pub(super) async fn revoke(
    State(state): State<Arc<ControlState>>,
    Extension(reach): Extension<Reach>,
    Path(id): Path<String>,
) -> Result<(Extension<Change>, Json<RevokedKey>), Problem> {
    let before = own_key(&state, &reach, &id)?;
    let name = id.clone();
    on_disk(&state, move |keys| keys.revoke(&name)).await?;
    let legs_cut = state.parts.manager.cut_invalid_legs();
    share(&state, &id).await;
    tracing::info!(id, legs_cut, "a key is revoked");
    Ok((Extension(Change { before, ..Change::default() }), Json(RevokedKey { id, legs_cut })))
}

/// Returns the tenant of a new key or account that names none.
pub(super) fn own_tenant(reach: &Reach) -> Option<String> {
    match reach {
        Reach::Tenants(tenants) if tenants.len() == 1 => tenants.first().map(ToString::to_string),
        Reach::Tenants(_) | Reach::All => None,
    }
}

fn principal_of(id: &str) -> PrincipalId {
    PrincipalId::new(format!("key:{id}"))
}

/// Checks that a key or an account gets no more than its maker has.
///
/// # Errors
/// It would be of a tenant out of reach, or have a role that covers one.
pub(super) fn check_maker(
    state: &ControlState,
    reach: &Reach,
    principal: &PrincipalId,
    tenant: Option<&str>,
    groups: &[String],
) -> Result<(), Problem> {
    if *reach == Reach::All {
        return Ok(());
    }
    let refuse = |detail: String| Err(Problem::new(ErrorCode::RoleRequired, detail));
    let covered = reach.tenants().join(", ");
    if !reach.covers(tenant) {
        return refuse(format!("your role covers {covered}; write one of them as tenant"));
    }
    let groups = groups.iter().map(|group| group.as_str().into()).collect();
    let membership = Membership::of(tenant.map(Into::into), groups, Default::default());
    let grants = state.parts.runtime.auth().roles().of(principal, membership.as_deref());
    match grants.iter().find(|(_, tenant)| !reach.covers(tenant.map(|tenant| &**tenant))) {
        Some((role, _)) => {
            let role = role.name();
            refuse(format!(
                "{principal} would have the role {role} for more than {covered}, by its id or its groups"
            ))
        }
        None => Ok(()),
    }
}

/// Returns the digest of a key within reach that can do no more than its caller: who rotates a key has it then.
///
/// # Errors
/// 404 when there is none with this id, 403 when it can do more.
fn own_key(state: &ControlState, reach: &Reach, id: &str) -> Result<Option<String>, Problem> {
    let key = within(state, reach, id)?;
    let PrincipalConfig { tenant, groups, .. } = &key.principal;
    check_maker(state, reach, &principal_of(id), tenant.as_deref(), groups)?;
    Ok(Some(digest(&key)))
}

/// Returns a key within reach, declared or made.
///
/// # Errors
/// 404 when there is none with this id.
fn within(state: &ControlState, reach: &Reach, id: &str) -> Result<ListedKey, Problem> {
    let found = state.parts.keys.find(id).filter(|key| reach.covers(key.principal.tenant.as_deref()));
    found.ok_or_else(|| problem(KeyError::Unknown(id.to_owned())))
}

/// Returns the digest of what is known of a key, for the audit log; it covers the digest of the key, not the key.
fn digest(key: &ListedKey) -> String {
    digest_of(&serde_json::to_value(&key.principal).unwrap_or_default())
}

/// Runs work that writes to disk where it may block; it is completed even when the operator's connection breaks.
async fn on_disk<T: Send + 'static>(
    state: &ControlState,
    work: impl FnOnce(&ClientKeys) -> Result<T, KeyError> + Send + 'static,
) -> Result<T, Problem> {
    let keys = Arc::clone(&state.parts.keys);
    let done = tokio::task::spawn_blocking(move || work(&keys)).await;
    done.map_err(|_| Problem::internal("the change of a key failed; see the server log"))?.map_err(problem)
}

/// Tells the other processes of a change.
async fn share(state: &ControlState, id: &str) {
    let Some(document) = state.parts.keys.document(id) else { return };
    if !state.parts.manager.share_client_key(document).await {
        tracing::warn!(
            id,
            "the other instances do not know of the change of a key yet, because redis is unavailable"
        );
    }
}

/// Returns the time of an expiry that is written as a duration; anything else as it is.
///
/// # Errors
/// The time is over.
fn expiry(text: &str) -> Result<String, Problem> {
    let span: Result<DurationText, serde::de::value::Error> =
        DurationText::deserialize(text.into_deserializer());
    let Ok(span) = span else {
        return match text.parse::<Timestamp>().is_ok_and(|at| at <= Timestamp::now()) {
            true => Err(Problem::bad_request(format!("expires: {text} is over; write a later time, or 90d"))),
            false => Ok(text.to_owned()),
        };
    };
    let until = span.limit().and_then(|span| Timestamp::now().checked_add(span).ok());
    let until = until.ok_or_else(|| Problem::bad_request("expires: the time is 0 or too long"))?;
    Ok(until.to_string())
}

fn problem(fault: KeyError) -> Problem {
    let code = match &fault {
        KeyError::Invalid(_) => ErrorCode::BadRequest,
        KeyError::Exists(_) | KeyError::Changed(_) | KeyError::OfAnotherTenant(_) => ErrorCode::KeyExists,
        KeyError::ManagedByFile(_) => ErrorCode::ManagedByFile,
        KeyError::Unknown(_) => ErrorCode::KeyNotFound,
        KeyError::Storage(_) => ErrorCode::StateUnavailable,
    };
    Problem::new(code, fault.to_string())
}
