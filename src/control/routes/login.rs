//! Logs people in and out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{ConnectInfo, Extension, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use tokio::time::timeout;

use crate::control::api::audit::GrantedRole;
use crate::control::api::error::ErrorCode;
use crate::control::api::people::{
    LoginBody, LogoutBody, LogoutReply, Me, PasswordBody, RefreshBody, RegisterBody, TicketBody, TicketReply,
    TokenReply,
};
use crate::control::extract::ApiBody;
use crate::control::listen::Peer;
use crate::control::operator::{Change, Operator, TICKET_PATHS};
use crate::control::problem::Problem;
use crate::control::service::ControlState;
use crate::identity::people::sessions::{Challenge, Tokens};
use crate::identity::people::user::UserConfig;
use crate::identity::people::{People, PeopleError, password, tickets};
use crate::ids::SharedDocument;
use crate::settings::secret::Secret;

/// How long a request waits until a password is hashed.
const HASH_WAIT: Duration = Duration::from_secs(5);

/// The answer, and the name of the account that it is about, if there is such an account.
type Outcome<T> = Result<(Option<String>, T), (Option<String>, Problem)>;

/// Logs a person in.
pub(super) async fn login(
    State(state): State<Arc<ControlState>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    ApiBody(LoginBody { username, password }): ApiBody<LoginBody>,
) -> Response {
    let outcome = let_in(&state, peer.address.ip(), &username, password).await;
    audited(outcome.map(|tokens| (Some(tokens.name.clone()), reply(&tokens))), true)
}

pub(super) async fn let_in(
    state: &Arc<ControlState>,
    address: IpAddr,
    username: &str,
    password: Secret,
) -> Result<Tokens, (Option<String>, Problem)> {
    let (challenge, is_right) = check_password(state, address, username, password).await?;
    let name = state.parts.people.is_known(&challenge.name).then(|| challenge.name.clone());
    if !is_right {
        return Err((name, problem(PeopleError::Wrong)));
    }
    let done = on_disk(state, move |people| people.log_in(&challenge)).await;
    let tokens = done.map_err(|problem| (name, problem))?;
    share(state, tokens.changed.clone()).await;
    Ok(tokens)
}

/// Logs a person in who has just set the password with this hash.
async fn let_in_with(state: &ControlState, name: String, hash: String) -> Result<Tokens, Problem> {
    let challenge = Challenge { name, hash: Some(hash) };
    let tokens = on_disk(state, move |people| people.log_in(&challenge)).await?;
    share(state, tokens.changed.clone()).await;
    Ok(tokens)
}

/// Holds a password against that of an account. Takes as long for a name that has none.
async fn check_password(
    state: &Arc<ControlState>,
    address: IpAddr,
    username: &str,
    password: Secret,
) -> Result<(Challenge, bool), (Option<String>, Problem)> {
    let people = on(state).map_err(|problem| (None, problem))?;
    if username.trim().is_empty() || password.is_empty() {
        return Err((None, Problem::bad_request("the body needs the members username and password")));
    }
    let challenge = people.challenge(username);
    let attempt = state.attempts.begin(&challenge.name, address, HASH_WAIT).await;
    let attempt = attempt.map_err(|wait| (None, too_many(wait)))?;
    let hash = challenge.hash.clone();
    match hashed(state, move || password::verify(&password, hash.as_deref())).await {
        Ok(false) => Ok((challenge, false)),
        Ok(true) => {
            attempt.forgive();
            Ok((challenge, true))
        }
        // The password was not checked, so the attempt does not count as a failure.
        Err(problem) => {
            attempt.forgive();
            Err((None, problem))
        }
    }
}

/// Replaces a refresh token by new tokens.
pub(super) async fn refresh(
    State(state): State<Arc<ControlState>>,
    ApiBody(RefreshBody { refresh_token }): ApiBody<RefreshBody>,
) -> Response {
    audited(refreshed(&state, refresh_token).await, false)
}

async fn refreshed(state: &Arc<ControlState>, token: Secret) -> Outcome<Json<TokenReply>> {
    let people = on(state).map_err(|problem| (None, problem))?;
    if token.is_empty() {
        return Err((None, Problem::bad_request("the body needs the member refresh_token")));
    }
    let name = people.owner(&token);
    let done = on_disk(state, move |people| Ok(people.refresh(&token))).await;
    match done.map_err(|problem| (name.clone(), problem))? {
        Ok(tokens) => {
            share(state, tokens.changed.clone()).await;
            Ok((name, reply(&tokens)))
        }
        Err((fault, changed)) => {
            if !changed.is_empty() {
                let legs_cut = state.parts.manager.cut_invalid_legs();
                tracing::warn!(user = name, legs_cut, "a refresh token was used twice: its log-in has ended");
            }
            share(state, changed).await;
            Err((name, problem(fault)))
        }
    }
}

/// Ends a log-in.
pub(super) async fn logout(
    State(state): State<Arc<ControlState>>,
    Extension(operator): Extension<Operator>,
    ApiBody(LogoutBody { refresh_token }): ApiBody<LogoutBody>,
) -> Response {
    audited(logged_out(&state, &operator, refresh_token).await, false)
}

async fn logged_out(
    state: &Arc<ControlState>,
    operator: &Operator,
    token: Option<Secret>,
) -> Outcome<Json<LogoutReply>> {
    let people = on(state).map_err(|problem| (None, problem))?;
    let (name, login) = match (&token, operator.person()) {
        (Some(token), _) => (people.owner(token), None),
        (None, Some((name, login))) => (Some(name.to_owned()), Some(login.to_owned())),
        (None, None) => {
            let detail = "send the refresh token, or the access token in the header Authorization";
            return Err((None, Problem::bad_request(detail)));
        }
    };
    let done = on_disk(state, move |people| people.log_out(token.as_ref(), login.as_deref())).await;
    let changed = done.map_err(|problem| (name.clone(), problem))?;
    let legs_cut = state.parts.manager.cut_invalid_legs();
    let ended = changed.is_some();
    share(state, changed.into_iter().collect()).await;
    Ok((name, Json(LogoutReply { ended, legs_cut })))
}

/// Makes an account by an invitation, or without one if everyone may, and logs its holder in.
pub(super) async fn register(
    State(state): State<Arc<ControlState>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    ApiBody(body): ApiBody<RegisterBody>,
) -> Response {
    match registered(&state, peer.address.ip(), body).await {
        Ok((name, tokens)) => (StatusCode::CREATED, audited(Ok((name, tokens)), true)).into_response(),
        Err(refused) => audited(Err::<(Option<String>, ()), _>(refused), true),
    }
}

async fn registered(
    state: &Arc<ControlState>,
    address: IpAddr,
    body: RegisterBody,
) -> Outcome<Json<TokenReply>> {
    let refused = |problem: Problem| (None, problem);
    let people = on(state).map_err(refused)?;
    let RegisterBody { invitation, username, password } = body;
    let name = match (&invitation, username) {
        (Some(_), Some(_)) => {
            return Err(refused(Problem::bad_request("an invitation names the account: send no username")));
        }
        // One that is for nobody is refused once the password is hashed, as one that was used.
        (Some(invitation), None) => people.invited(invitation).unwrap_or_default(),
        (None, name) => name.unwrap_or_default(),
    };
    password::check_new(&password).map_err(|fault| refused(Problem::bad_request(fault)))?;
    // Each registration counts, whether it succeeds or not.
    let attempt = state.attempts.begin(&format!("register {name}"), address, HASH_WAIT).await;
    drop(attempt.map_err(|wait| refused(too_many(wait)))?);
    let hash = hashed(state, move || password::hash(&password)).await.map_err(refused)?;
    let hash = hash.map_err(|fault| refused(Problem::internal(fault.to_string())))?;
    let (account, own) = (name.clone(), hash.clone());
    let auth = state.parts.runtime.auth();
    let make = move |people: &People| people.register(invitation.as_ref(), &account, hash, auth.roles());
    let shared = on_disk(state, make).await;
    share(state, vec![shared.map_err(refused)?]).await;
    let name = name.trim().to_lowercase();
    let tokens = let_in_with(state, name.clone(), own).await.map_err(|problem| (Some(name), problem))?;
    Ok((Some(tokens.name.clone()), reply(&tokens)))
}

/// Replaces the password of the caller, which ends all its log-ins, and logs it in again.
pub(super) async fn change_password(
    State(state): State<Arc<ControlState>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Extension(operator): Extension<Operator>,
    ApiBody(PasswordBody { password: old, new_password }): ApiBody<PasswordBody>,
) -> Result<Json<TokenReply>, Problem> {
    on(&state)?;
    let Some((name, _)) = operator.person() else {
        return Err(Problem::bad_request("the caller did not log in with a password"));
    };
    password::check_new(&new_password).map_err(Problem::bad_request)?;
    let (challenge, is_right) =
        check_password(&state, peer.address.ip(), name, old).await.map_err(|(_, problem)| problem)?;
    if !is_right {
        return Err(problem(PeopleError::Wrong));
    }
    let hash = hashed(&state, move || password::hash(&new_password)).await?;
    let hash = hash.map_err(|fault| Problem::internal(fault.to_string()))?;
    let own = hash.clone();
    let shared = on_disk(&state, move |people| people.change_password(&challenge, hash)).await?;
    state.parts.manager.cut_invalid_legs();
    share(&state, vec![shared]).await;
    let tokens = let_in_with(&state, name.to_owned(), own).await?;
    Ok(reply(&tokens))
}

/// Returns the caller, whether it has a role or not.
pub(super) async fn me(Extension(operator): Extension<Operator>) -> Json<Me> {
    let roles = operator.grants().iter();
    let roles = roles.map(|(role, tenant)| GrantedRole { role, tenant: tenant.map(ToString::to_string) });
    let member = operator.membership();
    Json(Me {
        id: operator.id().to_owned(),
        username: operator.person().map(|(name, _)| name.to_owned()),
        tenant: member.and_then(|member| member.tenant.as_ref()).map(ToString::to_string),
        groups: member
            .map(|member| member.groups.iter().map(ToString::to_string).collect())
            .unwrap_or_default(),
        roles: roles.collect(),
    })
}

/// Makes a ticket for the URL of a stream.
pub(super) async fn ticket(
    State(state): State<Arc<ControlState>>,
    Extension(operator): Extension<Operator>,
    ApiBody(TicketBody { path }): ApiBody<TicketBody>,
) -> Result<Json<TicketReply>, Problem> {
    if !TICKET_PATHS.contains(&path.as_str()) {
        let detail = format!("no ticket is for '{path}'; there are tickets for {}", TICKET_PATHS.join(", "));
        return Err(Problem::bad_request(detail));
    }
    let Some(credential) = operator.credential() else {
        return Err(Problem::bad_request("this control API needs no credential, and so no ticket"));
    };
    let auth = state.parts.runtime.auth();
    let made = state.tickets.issue(path.clone(), operator.id(), Arc::clone(credential), auth.prefix());
    match made.map_err(|fault| Problem::internal(fault.to_string()))? {
        Some(ticket) => {
            let expires_in = tickets::VALID.as_secs();
            Ok(Json(TicketReply { ticket: ticket.reveal().to_owned(), path, expires_in }))
        }
        None => Err(too_many(tickets::VALID)),
    }
}

/// Returns the people, if they log in here.
///
/// # Errors
/// 404 when they do not.
pub(super) fn on(state: &ControlState) -> Result<&Arc<People>, Problem> {
    let people = &state.parts.people;
    if people.is_on() { Ok(people) } else { Err(problem(PeopleError::Off)) }
}

/// Runs work that hashes a password, of which few run at the same time.
///
/// # Errors
/// 429 when too many wait.
pub(super) async fn hashed<T: Send + 'static>(
    state: &ControlState,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    let permit = timeout(HASH_WAIT, Arc::clone(&state.hashing).acquire_owned()).await;
    let Ok(Ok(permit)) = permit else { return Err(too_many(HASH_WAIT)) };
    let done = tokio::task::spawn_blocking(move || {
        let done = work();
        drop(permit);
        done
    });
    done.await.map_err(|_| Problem::internal("a password could not be hashed; see the server log"))
}

/// Runs work that writes to disk where it may block; it is completed even when the caller's connection breaks.
pub(super) async fn on_disk<T: Send + 'static>(
    state: &ControlState,
    work: impl FnOnce(&People) -> Result<T, PeopleError> + Send + 'static,
) -> Result<T, Problem> {
    let people = Arc::clone(&state.parts.people);
    let done = tokio::task::spawn_blocking(move || work(&people)).await;
    done.map_err(|_| Problem::internal("an account could not be changed; see the server log"))?
        .map_err(problem)
}

/// Tells the other processes of changes.
pub(super) async fn share(state: &ControlState, documents: Vec<SharedDocument>) {
    for document in documents {
        if !state.parts.manager.share_client_key(document).await {
            tracing::warn!(
                "the other instances do not know of a change of an account yet, because redis is unavailable"
            );
        }
    }
}

pub(super) fn problem(fault: PeopleError) -> Problem {
    let code = match &fault {
        PeopleError::Full(wait) => {
            return Problem::new(ErrorCode::TooManyAttempts, fault.to_string()).retry_after(*wait);
        }
        PeopleError::Off => ErrorCode::LoginDisabled,
        PeopleError::Wrong | PeopleError::Refresh => ErrorCode::LoginFailed,
        PeopleError::Closed(_) => ErrorCode::RegistrationClosed,
        PeopleError::Invalid(_) => ErrorCode::BadRequest,
        PeopleError::Exists(_) => ErrorCode::UserExists,
        PeopleError::Unknown(_) => ErrorCode::UserNotFound,
        PeopleError::Storage(_) => ErrorCode::StateUnavailable,
    };
    Problem::new(code, fault.to_string())
}

fn too_many(wait: Duration) -> Problem {
    let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
    let detail = format!("there were too many attempts; try again in {seconds} s");
    Problem::new(ErrorCode::TooManyAttempts, detail).retry_after(seconds)
}

fn reply(tokens: &Tokens) -> Json<TokenReply> {
    let user = UserConfig { name: tokens.name.clone(), ..UserConfig::default() };
    Json(TokenReply::new(tokens, user.principal().as_str()))
}

/// Returns the answer with the account that it is about, for the audit log. A name that has no account is not told: it may be
/// a password that was written into the wrong field. Without an account there is a line only of attempts that are limited in
/// number.
pub(super) fn audited<T: IntoResponse>(outcome: Outcome<T>, are_limited: bool) -> Response {
    let change = |name: String| {
        let user = UserConfig { name, ..UserConfig::default() };
        Extension(Change { by: Some(user.principal().to_string()), ..Change::default() })
    };
    match outcome {
        Ok((Some(name), answer)) => (change(name), answer).into_response(),
        Ok((None, answer)) => answer.into_response(),
        Err((Some(name), problem)) => (change(name), problem).into_response(),
        Err((None, problem)) => {
            let codes = [ErrorCode::LoginFailed, ErrorCode::RegistrationClosed].map(ErrorCode::name);
            match are_limited && codes.contains(&problem.code()) {
                true => (Extension(Change::default()), problem).into_response(),
                false => problem.into_response(),
            }
        }
    }
}
