//! Makes, lists and changes the accounts of people.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::response::IntoResponse;
use http::StatusCode;

use super::keys::check_maker;
use super::login::{hashed, on, on_disk, problem, share};
use crate::control::api::people::{
    ChangedUser, InvitedUser, MadeUser, NewUser, RoleBody, UserList, UserView,
};
use crate::control::extract::ApiBody;
use crate::control::operator::{Change, digest_of};
use crate::control::problem::Problem;
use crate::control::service::ControlState;
use crate::identity::People;
use crate::identity::people::accounts::Entrance;
use crate::identity::people::settings::Registration;
use crate::identity::people::user::{ListedUser, UserConfig};
use crate::identity::people::{PeopleError, password};
use crate::identity::roles::Reach;
use crate::ids::SharedDocument;
use crate::settings::secret::Secret;

/// How long an invitation is valid that says nothing of it, and how long it may be.
const INVITATION: [Duration; 2] = [Duration::from_secs(7 * 24 * 3600), Duration::from_secs(30 * 24 * 3600)];

/// Returns all accounts.
pub(super) async fn list(
    State(state): State<Arc<ControlState>>,
    Extension(reach): Extension<Reach>,
) -> Result<Json<UserList>, Problem> {
    let users = on(&state)?.list().into_iter().filter(|user| reach.covers(user.user.tenant.as_deref()));
    Ok(Json(UserList { users: users.map(Into::into).collect() }))
}

/// Makes an account with a password, which is shown this once.
pub(super) async fn create(
    State(state): State<Arc<ControlState>>,
    Extension(reach): Extension<Reach>,
    ApiBody(body): ApiBody<NewUser>,
) -> Result<impl IntoResponse, Problem> {
    if body.expires.is_some() {
        return Err(Problem::bad_request("expires is for invitations"));
    }
    let user = new_user(&state, &reach, body)?;
    let (password, hash) = new_password(&state).await?;
    let made = on_disk(&state, move |people| people.create(user, Entrance::Password(hash), &reach)).await;
    let (listed, _, shared) = made?;
    share(&state, vec![shared]).await;
    tracing::info!(name = listed.user.name, "an account is made");
    let name = Some(listed.user.name.clone());
    let change = Change { made: name, after: Some(digest(&listed)), ..Change::default() };
    let made = MadeUser { password: password.reveal().to_owned(), user: listed.into() };
    Ok((StatusCode::CREATED, Extension(change), Json(made)))
}

/// Makes an account whose holder chooses the password by an invitation.
pub(super) async fn invite(
    State(state): State<Arc<ControlState>>,
    Extension(reach): Extension<Reach>,
    ApiBody(body): ApiBody<NewUser>,
) -> Result<impl IntoResponse, Problem> {
    if state.parts.runtime.auth().people().registration == Registration::Closed {
        let detail = "invitations are not accepted; write auth.people.registration: invite";
        return Err(problem(PeopleError::Closed(detail)));
    }
    let [usual, longest] = INVITATION;
    let valid = body.expires.map_or(usual, |expires| expires.0);
    if valid.is_zero() || valid > longest {
        return Err(Problem::bad_request("expires: an invitation is valid for at most 30d"));
    }
    let user = new_user(&state, &reach, body)?;
    let made = on_disk(&state, move |people| people.create(user, Entrance::Invitation(valid), &reach)).await;
    let (listed, invitation, shared) = made?;
    share(&state, vec![shared]).await;
    tracing::info!(name = listed.user.name, "a person is invited");
    let name = Some(listed.user.name.clone());
    let change = Change { made: name, after: Some(digest(&listed)), ..Change::default() };
    let invitation = invitation.map(|text| text.reveal().to_owned()).unwrap_or_default();
    Ok((StatusCode::CREATED, Extension(change), Json(InvitedUser { invitation, user: listed.into() })))
}

/// Sets or takes away the role of a person.
pub(super) async fn set_role(
    State(state): State<Arc<ControlState>>,
    Extension(reach): Extension<Reach>,
    Path(name): Path<String>,
    ApiBody(RoleBody { role }): ApiBody<RoleBody>,
) -> Result<impl IntoResponse, Problem> {
    let before = own_user(&state, &reach, &name)?;
    change(&state, &before, move |people, account| people.set_role(account, role)).await
}

/// Disables an account, and ends all that its holder has begun.
pub(super) async fn disable(
    State(state): State<Arc<ControlState>>,
    Extension(reach): Extension<Reach>,
    Path(name): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    let before = own_user(&state, &reach, &name)?;
    change(&state, &before, |people, account| people.disable(account)).await
}

/// Enables an account again.
pub(super) async fn enable(
    State(state): State<Arc<ControlState>>,
    Extension(reach): Extension<Reach>,
    Path(name): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    let before = own_user(&state, &reach, &name)?;
    change(&state, &before, |people, account| people.enable(account)).await
}

/// Replaces a password by a new one, which is shown this once, and ends all that the account's holder has begun.
pub(super) async fn reset_password(
    State(state): State<Arc<ControlState>>,
    Extension(reach): Extension<Reach>,
    Path(name): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    let before = own_user(&state, &reach, &name)?;
    let (password, hash) = new_password(&state).await?;
    let done = change(&state, &before, move |people, account| people.set_password(account, hash)).await?;
    let (change, Json(ChangedUser { user, .. })) = done;
    Ok((change, Json(MadeUser { password: password.reveal().to_owned(), user })))
}

/// Returns a new account that can do no more than its maker.
fn new_user(state: &ControlState, reach: &Reach, body: NewUser) -> Result<UserConfig, Problem> {
    on(state)?;
    let NewUser { name, role, tenant, groups, models, backends, tools, expires: _ } = body;
    let tenant = tenant.or_else(|| super::keys::own_tenant(reach));
    let user = UserConfig { name: name.trim().to_lowercase(), role, tenant, groups, models, backends, tools };
    check_maker(state, reach, &user.principal(), user.tenant.as_deref(), &user.groups)?;
    if let Some(known) = state.parts.people.account(&user.name)
        && !reach.covers(known.user.tenant.as_deref())
    {
        return Err(problem(PeopleError::Exists(user.name)));
    }
    Ok(user)
}

async fn new_password(state: &ControlState) -> Result<(Secret, String), Problem> {
    let made = hashed(state, || {
        let password = password::generate()?;
        let hash = password::hash(&password)?;
        Ok((password, hash))
    });
    made.await?.map_err(|fault: std::io::Error| Problem::internal(fault.to_string()))
}

/// Returns an account within reach that can do no more than its caller.
///
/// # Errors
/// 404 when there is none with this name, 403 when it can do more.
fn own_user(state: &ControlState, reach: &Reach, name: &str) -> Result<ListedUser, Problem> {
    let name = name.to_lowercase();
    let found = on(state)?.account(&name).filter(|user| reach.covers(user.user.tenant.as_deref()));
    let found = found.ok_or_else(|| problem(PeopleError::Unknown(name)))?;
    check_maker(state, reach, &found.user.principal(), found.user.tenant.as_deref(), &found.user.groups)?;
    Ok(found)
}

/// Changes an account, ends what its holder may no longer do, and tells the other processes.
async fn change(
    state: &ControlState,
    before: &ListedUser,
    work: impl FnOnce(&People, &UserConfig) -> Result<(ListedUser, SharedDocument), PeopleError> + Send + 'static,
) -> Result<(Extension<Change>, Json<ChangedUser>), Problem> {
    let account = before.user.clone();
    let (listed, shared) = on_disk(state, move |people| work(people, &account)).await?;
    let legs_cut = state.parts.manager.cut_invalid_legs();
    share(state, vec![shared]).await;
    tracing::info!(name = listed.user.name, legs_cut, "an account is changed");
    let change = Change { before: Some(digest(before)), after: Some(digest(&listed)), ..Change::default() };
    Ok((Extension(change), Json(ChangedUser { legs_cut, user: listed.into() })))
}

/// Returns the digest of what operators may see of an account, for the audit log.
fn digest(user: &ListedUser) -> String {
    let view = UserView::from(ListedUser { logins: 0, ..user.clone() });
    digest_of(&serde_json::to_value(view).unwrap_or_default())
}
