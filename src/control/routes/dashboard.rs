//! The dashboard: its files, its log-in, and what its first screen shows.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, Extension, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Uri, header};
use jiff::Timestamp;

use super::login;
use crate::control::api::error::ErrorCode;
use crate::control::api::overview::{
    CookieEnd, CookieLogin, CookieReply, Instance, InstanceList, RecentSeries,
};
use crate::control::auth;
use crate::control::dashboard::{assets, cookies};
use crate::control::extract::ApiBody;
use crate::control::listen::Peer;
use crate::control::operator::{Change, Operator};
use crate::control::problem::Problem;
use crate::control::service::ControlState;
use crate::identity::people::sessions::Tokens;
use crate::settings::secret::Secret;
use crate::telemetry::series::STEP;

/// Returns a file of the page.
pub(super) async fn asset(State(state): State<Arc<ControlState>>, uri: Uri, headers: HeaderMap) -> Response {
    let is_on = state.parts.settings.load().has_dashboard();
    let file = is_on.then(|| assets::answer(uri.path(), &headers)).flatten();
    file.unwrap_or_else(|| Problem::new(ErrorCode::NotFound, "there is no such endpoint").into_response())
}

/// Returns the last hour in steps of a minute.
pub(super) async fn series(State(state): State<Arc<ControlState>>) -> Json<RecentSeries> {
    let points = state.series.points(&state.parts.metrics, Timestamp::now().as_millisecond());
    Json(RecentSeries { step_s: STEP.as_secs(), points: points.into_iter().map(Into::into).collect() })
}

/// Returns this instance, and the others of its fleet.
pub(super) async fn instances(State(state): State<Arc<ControlState>>) -> Json<InstanceList> {
    let stats = state.parts.manager.stats();
    let here = Instance {
        name: state.parts.manager.instance().unwrap_or("local").to_owned(),
        version: env!("CARGO_PKG_VERSION").into(),
        uptime_s: state.opened.elapsed().as_secs(),
        sessions: stats.active,
        legs: stats.open_legs,
        store: state.parts.store.into(),
        store_up: state.parts.manager.store_answers(),
        here: true,
    };
    let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default();
    let others = state.parts.manager.instances().await.into_iter().filter(|one| one.name != here.name);
    let others = others.map(|one| Instance {
        uptime_s: now.saturating_sub(one.started_ms) / 1000,
        name: one.name,
        version: one.version.into(),
        sessions: one.sessions,
        legs: one.legs,
        store: here.store.clone(),
        store_up: true,
        here: false,
    });
    let mut others: Vec<Instance> = others.collect();
    others.sort_by(|a, b| a.name.cmp(&b.name));
    Json(InstanceList { instances: std::iter::once(here.clone()).chain(others).collect() })
}

/// What a browser has logged in with.
enum LoggedIn {
    /// A token or key.
    Token(Secret),
    /// A name and a password.
    Person(Tokens),
}

/// Logs a browser in: answers with a cookie that stands for a token, or for a name and a password.
pub(super) async fn log_in(
    State(state): State<Arc<ControlState>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
    ApiBody(body): ApiBody<CookieLogin>,
) -> Response {
    let ttl = state.parts.settings.load().session_ttl();
    let (logged_in, id) = match let_in(&state, peer.address.ip(), body).await {
        Ok(logged_in) => logged_in,
        Err((name, problem)) => return login::audited(Err::<(Option<String>, ()), _>((name, problem)), true),
    };
    let value = match &logged_in {
        LoggedIn::Token(token) => state.cookies.begin(token.reveal().as_bytes(), ttl),
        LoggedIn::Person(tokens) => state.cookies.begin_person(tokens, ttl),
    };
    let value = match value {
        Ok(value) => value,
        Err(fault) => return Problem::internal(fault.to_string()).into_response(),
    };
    let reply = CookieReply { id: id.clone(), expires_in: ttl.as_secs() };
    let change = Extension(Change { by: Some(id), ..Change::default() });
    with_cookie((change, Json(reply)).into_response(), &headers, Some((&value, ttl)))
}

/// Checks what was shown. Returns it and who it is.
async fn let_in(
    state: &Arc<ControlState>,
    address: IpAddr,
    body: CookieLogin,
) -> Result<(LoggedIn, String), (Option<String>, Problem)> {
    match body {
        CookieLogin { token: Some(token), username: None, password: None } => {
            let operator = auth::operator(state, Some(token.reveal().as_bytes()));
            let operator = operator.map_err(|_| {
                let detail = "this is neither the control token nor a key or access token that is known here";
                (None, Problem::new(ErrorCode::LoginFailed, detail))
            })?;
            Ok((LoggedIn::Token(token), operator.id().to_owned()))
        }
        CookieLogin { token: None, username: Some(username), password: Some(password) } => {
            let tokens = login::let_in(state, address, &username, password).await?;
            let operator = auth::operator(state, Some(tokens.access.reveal().as_bytes()));
            let operator = operator.map_err(|problem| (Some(tokens.name.clone()), problem))?;
            Ok((LoggedIn::Person(tokens), operator.id().to_owned()))
        }
        _ => {
            let detail = "the body needs the member token, or the members username and password";
            Err((None, Problem::bad_request(detail)))
        }
    }
}

/// Ends the log-in of a browser, and of the person who has logged in with it.
pub(super) async fn log_out(
    State(state): State<Arc<ControlState>>,
    Extension(operator): Extension<Operator>,
    headers: HeaderMap,
) -> Response {
    let value = cookies::value(&headers);
    if let Some(renewal) = value.and_then(|value| state.cookies.renewal(value)) {
        let refresh = renewal.state.lock().await.refresh.clone();
        let ended = login::on_disk(&state, move |people| people.log_out(Some(&refresh), None)).await;
        match ended {
            Ok(changed) => {
                state.parts.manager.cut_invalid_legs();
                login::share(&state, changed.into_iter().collect()).await;
            }
            Err(problem) => return problem.into_response(),
        }
    }
    let ended = value.is_some_and(|value| state.cookies.end(value));
    let change = Extension(Change { by: Some(operator.id().to_owned()), ..Change::default() });
    let response = match ended {
        true => (change, Json(CookieEnd { ended })).into_response(),
        false => Json(CookieEnd { ended }).into_response(),
    };
    with_cookie(response, &headers, None)
}

fn with_cookie(
    mut response: Response,
    asked: &HeaderMap,
    value: Option<(&Secret, std::time::Duration)>,
) -> Response {
    if let Some(line) = cookies::set(asked, value) {
        response.headers_mut().insert(header::SET_COOKIE, line);
    }
    response
}

/// Renews the access token behind a cookie when half of its time is over. One that cannot be renewed ends by itself.
pub(in crate::control) async fn renew(state: &Arc<ControlState>, headers: &HeaderMap) {
    let Some(value) = cookies::value(headers) else { return };
    let Some(renewal) = state.cookies.renewal(value).filter(|renewal| renewal.is_due()) else { return };
    let mut renewable = renewal.state.lock().await;
    // Another request may have renewed it meanwhile.
    if !renewal.is_due() {
        return;
    }
    let refresh = renewable.refresh.clone();
    let done = login::on_disk(state, move |people| Ok(people.refresh(&refresh))).await;
    if let Ok(Ok(tokens)) = done {
        renewable.refresh = tokens.refresh.clone();
        state.cookies.renewed(value, &renewal, &tokens);
        login::share(state, tokens.changed).await;
    }
}
