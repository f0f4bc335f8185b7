//! The commands that use the control API of a running gateway.

use std::num::NonZeroUsize;

use anyhow::anyhow;
use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde_json::{Value, json};

use super::client::{Answer, Client, ControlArgs};
use super::{print, report};
use crate::control::api::kills::{BlockBody, KillBody, ResumeBody};
use crate::control::api::params::SessionQuery;
use crate::control::api::sessions::{SessionLimit, SessionPage, SessionsQuery};
use crate::session::{BlockMode, NamedBy, SessionState};
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
enum NameKind {
    Uid,
    Id,
}

impl NameArgs {
    fn query(&self) -> SessionQuery {
        let by = self.by.map(|kind| match kind {
            NameKind::Uid => NamedBy::Uid,
            NameKind::Id => NamedBy::Id,
        });
        SessionQuery { by }
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

/// Arguments of `elida kill`.
#[derive(Args, Debug)]
pub(super) struct KillArgs {
    #[command(flatten)]
    name: NameArgs,
    /// Kill only this agent of the session, and all agents below it
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,
    /// Why; the client sees it
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    block: BlockArgs,
    /// Block the id even if the session has ended
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    plain: PlainArgs,
}

/// How long the id stays refused; by default as `session.kill_block` says.
#[derive(Args, Debug)]
#[group(multiple = false)]
struct BlockArgs {
    /// Refuse the id for this long, such as 24h
    #[arg(long = "for", value_name = "TIME", value_parser = read_span)]
    duration: Option<DurationText>,
    /// Refuse the id permanently
    #[arg(long)]
    permanent: bool,
    /// Refuse the id until `elida resume`
    #[arg(long)]
    until_resumed: bool,
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

/// `elida kill ID`
pub(super) fn kill(arguments: &KillArgs) -> anyhow::Result<()> {
    let client = Client::new(&arguments.plain.control)?;
    let path = ["control", "sessions", &arguments.name.id, "kill"];
    let answer = client
        .post(&path, &arguments.name.query(), &kill_body(arguments))
        // The API names a member of the body; here it is a flag.
        .map_err(|error| anyhow!(error.to_string().replace("\"force\": true", "--force")))?;
    show(&arguments.plain, answer, report::killed)
}

fn kill_body(arguments: &KillArgs) -> KillBody {
    let block = &arguments.block;
    let mode = |mode| Some(BlockBody { mode, duration: None });
    KillBody {
        reason: arguments.reason.clone(),
        agent: arguments.agent.clone(),
        force: arguments.force,
        scope: None,
        block: match block.duration {
            Some(duration) => Some(BlockBody { mode: BlockMode::Duration, duration: Some(duration) }),
            None if block.permanent => mode(BlockMode::Permanent),
            None if block.until_resumed => mode(BlockMode::UntilResumed),
            None => None,
        },
    }
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
    struct Kill {
        #[command(flatten)]
        arguments: KillArgs,
    }

    #[derive(Parser)]
    struct Sessions {
        #[command(flatten)]
        arguments: SessionsArgs,
    }

    #[test]
    fn a_kill_says_only_what_was_asked_for() {
        let request = |flags: &[&str]| {
            let words = ["kill", "id"].iter().chain(flags);
            json!(kill_body(&Kill::try_parse_from(words).unwrap().arguments))
        };
        assert_eq!(request(&[]), json!({}));
        assert_eq!(
            request(&["--reason", "runaway", "--for", "90m", "--force"]),
            json!({"reason": "runaway", "force": true, "block": {"mode": "duration", "duration": "1h 30m"}})
        );
        assert_eq!(request(&["--permanent"]), json!({"block": {"mode": "permanent"}}));
        assert_eq!(request(&["--agent", "a1"]), json!({"agent": "a1"}));
        assert_eq!(request(&["--until-resumed"]), json!({"block": {"mode": "until_resumed"}}));
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
