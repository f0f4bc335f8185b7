//! Kills all sessions that a selector fits, with an order for each, so that other instances agree.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::{ConnectInfo, Extension, State};
use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};

use super::kills::{read_reason, wait_until_written};
use crate::control::api::kill_selector::{KillResult, KillWhere, KillWhereReply, SelectedSession};
use crate::control::extract::ApiBody;
use crate::control::listen::Peer;
use crate::control::operator::{Change, Operator};
use crate::control::problem::Problem;
use crate::control::service::ControlState;
use crate::identity::roles::Reach;
use crate::ids::Uid;
use crate::model_patterns::ModelPattern;
use crate::policy::expr::{Expression, Truth};
use crate::policy::facts::Phase;
use crate::session::{
    Filter, KillError, KillRequest, NamedBy, SessionFacts, SessionRef, SessionState, SessionView,
};
use crate::settings::units::DurationText;

/// Sessions read per page.
const PAGE: usize = 1000;
/// The most sessions that one call kills.
const MOST: usize = 10_000;
/// The most sessions that an answer lists.
const LISTED: usize = 1000;
/// The most of what was not reached that an answer lists.
const MOST_NOT_REACHED: usize = 32;
/// Sessions that are looked up or killed at the same time.
const AT_ONCE: usize = 16;
/// How often sessions are searched: those that begin while others are killed are found by the next search.
const SEARCHES: usize = 3;

/// Kills every active session that the selector fits, or lists them.
pub(super) async fn kill(
    State(state): State<Arc<ControlState>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Extension(operator): Extension<Operator>,
    Extension(reach): Extension<Reach>,
    ApiBody(body): ApiBody<KillWhere>,
) -> Result<(Extension<Change>, Json<KillWhereReply>), Problem> {
    let reason = read_reason(body.reason.clone())?;
    let selector = Selector::new(&body, &reach)?;
    let request = KillRequest {
        reason: reason.clone(),
        by: operator.author(peer.address),
        block: body.block.map(Into::into),
        ..KillRequest::default()
    };
    let mut reply = KillWhereReply {
        dry_run: body.dry_run,
        matched: 0,
        killed: 0,
        legs_cut: 0,
        sessions: Vec::new(),
        truncated: false,
        not_reached: Vec::new(),
        reason: reason.as_str().into(),
    };
    let mut seen = HashSet::new();
    for _ in 0..SEARCHES {
        let found = selector.search(&state, &mut seen, &mut reply.truncated).await;
        if found.is_empty() {
            break;
        }
        reply.matched += found.len();
        if body.dry_run {
            list(&mut reply, found);
            break;
        }
        kill_all(&state, found, &request, &mut reply).await?;
    }
    if reply.killed > 0 {
        wait_until_written(&state).await;
    }
    let what = format!("{reason} ({} of {} sessions)", reply.killed, reply.matched);
    Ok((Extension(Change { reason: Some(what), ..Change::default() }), Json(reply)))
}

fn list(reply: &mut KillWhereReply, found: Vec<SelectedSession>) {
    let room = LISTED.saturating_sub(reply.sessions.len());
    reply.sessions.extend(found.into_iter().take(room));
}

async fn kill_all(
    state: &Arc<ControlState>,
    found: Vec<SelectedSession>,
    request: &KillRequest,
    reply: &mut KillWhereReply,
) -> Result<(), Problem> {
    let manager = &state.parts.manager;
    let mut results = stream::iter(found)
        .map(async |mut session| {
            let uid = session.uid.to_string();
            let killed = manager.kill(SessionRef::new(&uid, Some(NamedBy::Uid)), request.clone()).await;
            let (result, legs_cut, not_reached) = match killed {
                Ok(killed) => (KillResult::Killed, killed.legs_cut, killed.not_reached),
                // Each session would be refused for the same reason.
                Err(KillError::EmptyBlock) => {
                    return Err(Problem::bad_request("block.duration is 0: the kill would block nothing"));
                }
                Err(KillError::AlreadyEnded { .. } | KillError::Unknown) => {
                    (KillResult::Ended, 0, Vec::new())
                }
                Err(fault) => (KillResult::Failed(fault.to_string()), 0, Vec::new()),
            };
            session.result = Some(result);
            Ok((session, legs_cut, not_reached))
        })
        .buffered(AT_ONCE);
    let mut done = Vec::new();
    while let Some(result) = results.next().await {
        let (session, legs_cut, not_reached) = result?;
        reply.killed += usize::from(session.result == Some(KillResult::Killed));
        reply.legs_cut += legs_cut;
        for what in not_reached {
            if reply.not_reached.len() < MOST_NOT_REACHED && !reply.not_reached.contains(&what) {
                reply.not_reached.push(what);
            }
        }
        done.push(session);
    }
    drop(results);
    list(reply, done);
    Ok(())
}

/// A selector, compiled.
struct Selector {
    filter: Filter,
    group: Option<String>,
    agent: Option<String>,
    model: Option<ModelPattern>,
    idle_over: Option<SignedDuration>,
    running_over: Option<SignedDuration>,
    when: Option<Expression>,
}

impl Selector {
    fn new(body: &KillWhere, reach: &Reach) -> Result<Self, Problem> {
        if body.is_empty() {
            return Err(Problem::bad_request(
                "the selector is empty and would kill every session; give at least one of principal, group, agent, \
                 client, backend, model, idle_over, running_over, when",
            ));
        }
        let model = body.model.as_deref().map(|text| {
            ModelPattern::new(text)
                .map_err(|fault| Problem::bad_request(format!("model is no pattern: {fault}")))
        });
        let when = body.when.as_deref().map(|source| {
            Expression::condition(source, Phase::Session).map_err(|fault| {
                let hint = if fault.hint.is_empty() { String::new() } else { format!("; {}", fault.hint) };
                Problem::bad_request(format!("when, character {}: {}{hint}", fault.at + 1, fault.message))
            })
        });
        let span = |text: Option<DurationText>| {
            text.map(|text| SignedDuration::try_from(text.0).unwrap_or(SignedDuration::MAX))
        };
        Ok(Self {
            filter: Filter {
                principal: body.principal.clone(),
                backend: body.backend.clone(),
                client: body.client.clone(),
                tenants: reach.tenants(),
                limit: PAGE,
                ..Filter::in_state(SessionState::Active)
            },
            group: body.group.clone(),
            agent: body.agent.clone(),
            model: model.transpose()?,
            idle_over: span(body.idle_over),
            running_over: span(body.running_over),
            when: when.transpose()?,
        })
    }

    /// Returns the sessions that fit and were not seen before.
    async fn search(
        &self,
        state: &ControlState,
        seen: &mut HashSet<Uid>,
        truncated: &mut bool,
    ) -> Vec<SelectedSession> {
        let mut filter = self.filter.clone();
        let mut found = Vec::new();
        loop {
            let page = state.parts.manager.list(&filter).await;
            let now = Timestamp::now();
            let fitting: Vec<SessionView> =
                page.sessions.into_iter().filter(|session| self.fits(session, now)).collect();
            let with_agent = stream::iter(fitting)
                .map(async |session| self.has_agent(state, &session).await.then_some(session))
                .buffered(AT_ONCE);
            for session in with_agent.collect::<Vec<_>>().await.into_iter().flatten() {
                if seen.len() >= MOST {
                    *truncated = true;
                    return found;
                }
                if seen.insert(session.uid) {
                    found.push(SelectedSession::of(&session));
                }
            }
            filter.cursor = page.next_cursor;
            if filter.cursor.is_none() {
                *truncated |= page.truncated;
                return found;
            }
        }
    }

    fn fits(&self, session: &SessionView, now: Timestamp) -> bool {
        let in_group = |name: &String| session.principal.groups.iter().any(|group| **group == *name.as_str());
        let is_older = |than: SignedDuration, time| now.duration_since(time) > than;
        self.group.as_ref().is_none_or(in_group)
            && self
                .model
                .as_ref()
                .is_none_or(|model| session.models.keys().any(|used| model.fits(used)))
            && self.idle_over.is_none_or(|span| is_older(span, session.last_activity))
            && self.running_over.is_none_or(|span| is_older(span, session.started_at))
            // What cannot be told selects nothing: a kill is not undone.
            && self
                .when
                .as_ref()
                .is_none_or(|when| when.truth(&SessionFacts { session, now }) == Truth::Yes)
    }

    /// Whether the session has the agent that is asked for; lists do not show agents.
    async fn has_agent(&self, state: &ControlState, session: &SessionView) -> bool {
        let Some(agent) = &self.agent else { return true };
        let uid = session.uid.to_string();
        let found = state.parts.manager.get(SessionRef::new(&uid, Some(NamedBy::Uid))).await;
        let mut agents = found.iter().flat_map(|session| session.agents.iter().flatten());
        agents.any(|known| known.id.as_str() == agent)
    }
}
