//! The commands that use the control API of a running gateway.

use std::num::NonZeroUsize;

use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde_json::{Value, json};

use super::client::{Answer, Client, ControlArgs};
use super::{print, report};
use crate::control::api::kills::ResumeBody;
use crate::control::api::params::SessionQuery;
use crate::control::api::sessions::{SessionLimit, SessionPage, SessionsQuery};
use crate::session::{NamedBy, SessionState};
use crate::settings::units::DurationText;

/// Sessions read per request.
const PAGE: usize = 500;

/// Arguments of commands without parameters of their own.
#[derive(Args, Debug)]
pub(super) struct PlainArgs {
    #[command(flatten)]
    pub(super) control: ControlArgs,
    /// Print the JSON of the control API
    #[arg(long)]
    pub(super) json: bool,
}

/// Arguments of `elida sessions`.
#[derive(Args, Debug)]
pub(super) struct SessionsArgs {
    /// Only those in this state: active, completed, killed, timed_out
    #[arg(long, value_parser = read_state)]
    state: Option<SessionState>,
    /// Only those of this client program, such as claude-code
    #[arg(long)]
    client: Option<String>,
    /// Only those that used this backend
    #[arg(long)]
    backend: Option<String>,
    /// Only those of this principal
    #[arg(long)]
    principal: Option<String>,
    /// At most this many
    #[arg(long, value_name = "N", default_value = "100")]
    limit: NonZeroUsize,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Names a session.
#[derive(Args, Debug)]
struct NameArgs {
    /// Id or uid of the session
    id: String,
    /// What ID is, when it is the uid of one session and the id of another
    #[arg(long, value_name = "WHAT")]
    by: Option<NameKind>,
}

/// What the name of a session is.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum NameKind {
    Uid,
    Id,
}

/// Returns the query that names a session.
pub(super) fn named_by(kind: Option<NameKind>) -> SessionQuery {
    let by = kind.map(|kind| match kind {
        NameKind::Uid => NamedBy::Uid,
        NameKind::Id => NamedBy::Id,
    });
    SessionQuery { by }
}

impl NameArgs {
    fn query(&self) -> SessionQuery {
        named_by(self.by)
    }
}

/// Arguments of `elida session`.
#[derive(Args, Debug)]
pub(super) struct SessionArgs {
    #[command(flatten)]
    name: NameArgs,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Arguments of `elida resume`.
#[derive(Args, Debug)]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    name: NameArgs,
    /// Lift the order against this agent, not the one against the session
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,
    #[command(flatten)]
    plain: PlainArgs,
}

pub(super) fn read_span(text: &str) -> Result<DurationText, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(DurationText(duration)),
        _ => Err("write a time with its unit, such as 30m or 24h".into()),
    }
}

fn read_state(text: &str) -> Result<SessionState, String> {
    let state: Result<SessionState, serde::de::value::Error> =
        SessionState::deserialize(text.into_deserializer());
    state.map_err(|_| "must be active, completed, killed or timed_out".to_owned())
}

/// `elida sessions`: reads page after page until there are enough sessions.
pub(super) fn sessions(arguments: &SessionsArgs) -> anyhow::Result<()> {
    let client = Client::new(&arguments.plain.control)?;
    if arguments.plain.json {
        print(&format!("{}\n", json!(session_pages::<Value>(arguments, &client)?)));
    } else {
        print(&report::sessions(&session_pages(arguments, &client)?));
    }
    Ok(())
}

/// Reads up to `--limit` sessions as one page.
fn session_pages<S: DeserializeOwned>(
    arguments: &SessionsArgs,
    client: &Client,
) -> anyhow::Result<SessionPage<S>> {
    let mut sessions: Vec<S> = Vec::new();
    let mut cursor = None;
    let limit = arguments.limit.get();
    loop {
        let wanted = limit.saturating_sub(sessions.len()).min(PAGE);
        let answer = client.get(&["control", "sessions"], &query(arguments, wanted, cursor))?;
        let mut page: SessionPage<S> = answer.read()?;
        sessions.append(&mut page.sessions);
        // A search that stopped at its bound returns few sessions, or none, and a cursor.
        if page.next_cursor.is_none() || sessions.len() >= limit {
            sessions.truncate(limit);
            return Ok(SessionPage { sessions, ..page });
        }
        cursor = page.next_cursor;
    }
}

fn query(arguments: &SessionsArgs, limit: usize, cursor: Option<String>) -> SessionsQuery {
    SessionsQuery {
        state: arguments.state,
        client: arguments.client.clone(),
        backend: arguments.backend.clone(),
        principal: arguments.principal.clone(),
        limit: SessionLimit::new(limit),
        cursor,
        ..SessionsQuery::default()
    }
}

/// `elida session ID`
pub(super) fn session(arguments: &SessionArgs) -> anyhow::Result<()> {
    let name = &arguments.name;
    let client = Client::new(&arguments.plain.control)?;
    let answer = client.get(&["control", "sessions", &name.id], &name.query())?;
    show(&arguments.plain, answer, report::session_detail)
}

/// `elida stats`
pub(super) fn stats(arguments: &PlainArgs) -> anyhow::Result<()> {
    let answer = Client::new(&arguments.control)?.get(&["control", "stats"], &())?;
    show(arguments, answer, report::stats)
}

/// `elida kills`
pub(super) fn kills(arguments: &PlainArgs) -> anyhow::Result<()> {
    let answer = Client::new(&arguments.control)?.get(&["control", "kills"], &())?;
    show(arguments, answer, report::kills)
}

/// `elida resume ID`
pub(super) fn resume(arguments: &ResumeArgs) -> anyhow::Result<()> {
    let client = Client::new(&arguments.plain.control)?;
    let name = &arguments.name;
    let path = ["control", "sessions", &name.id, "resume"];
    let answer = client.post(&path, &name.query(), &ResumeBody { agent: arguments.agent.clone() })?;
    show(&arguments.plain, answer, report::resumed)
}

/// Prints an answer, with `--json` as it came.
pub(super) fn show<T: DeserializeOwned>(
    arguments: &PlainArgs,
    answer: Answer,
    report: impl Fn(&T) -> String,
) -> anyhow::Result<()> {
    if arguments.json {
        print(&format!("{}\n", answer.json()));
    } else {
        print(&report(&answer.read()?));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Sessions {
        #[command(flatten)]
        arguments: SessionsArgs,
    }

    #[test]
    fn filters_become_the_query() {
        let words = ["sessions", "--state", "killed", "--principal", "anon:1.2.3.4"];
        let arguments = Sessions::try_parse_from(words).unwrap().arguments;
        let query = json!(query(&arguments, 100, Some("c".to_owned())));
        let expected = json!({"limit": 100, "state": "killed", "principal": "anon:1.2.3.4", "cursor": "c"});
        assert_eq!(query, expected);
    }
}
