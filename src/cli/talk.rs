//! The commands that talk to a running ELIDA.

use std::num::NonZeroUsize;

use anyhow::anyhow;
use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, ControlArgs};
use super::{print, report};
use crate::settings::units::DurationText;

/// The most sessions asked for at a time.
const PAGE: usize = 500;

/// Arguments of commands that only ask.
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
    #[arg(long)]
    state: Option<String>,
    /// Only those of this program, such as claude-code
    #[arg(long)]
    client: Option<String>,
    /// Only those that used this backend
    #[arg(long)]
    backend: Option<String>,
    /// Only those of this caller
    #[arg(long)]
    principal: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value = "100")]
    limit: NonZeroUsize,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Which session.
#[derive(Args, Debug)]
struct NameArgs {
    /// Id or uid of the session
    id: String,
    /// What ID is, when it is one session's uid and another one's id
    #[arg(long, value_name = "WHAT", value_parser = ["uid", "id"])]
    by: Option<String>,
}

impl NameArgs {
    fn query(&self) -> Vec<(&'static str, String)> {
        self.by.iter().map(|by| ("by", by.clone())).collect()
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
    /// Only this agent of the session, and all that it started
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,
    /// Why; the agent is told
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    block: BlockArgs,
    /// Block the id also when the session has ended already
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    plain: PlainArgs,
}

/// How long the id stays refused; without any of these as `session.kill_block` says.
#[derive(Args, Debug)]
#[group(multiple = false)]
struct BlockArgs {
    /// Refuse the id for so long, such as 24h
    #[arg(long = "for", value_name = "TIME", value_parser = read_span)]
    duration: Option<DurationText>,
    /// Refuse the id for ever
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
    /// Lift the block of this agent, not the session's
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,
    #[command(flatten)]
    plain: PlainArgs,
}

fn read_span(text: &str) -> Result<DurationText, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if !duration.is_zero() => Ok(DurationText(duration)),
        _ => Err("write a time with its unit, such as 30m or 24h".into()),
    }
}

/// `elida sessions`: asks page by page until there are enough.
pub(super) fn sessions(arguments: &SessionsArgs) -> anyhow::Result<()> {
    let client = Client::new(&arguments.plain.control)?;
    let mut list: Vec<Value> = Vec::new();
    let mut answer;
    let mut cursor = None;
    let limit = arguments.limit.get();
    loop {
        let wanted = limit.saturating_sub(list.len()).min(PAGE);
        answer = client.get(&["control", "sessions"], &query(arguments, wanted, cursor.as_deref()))?;
        let page = answer["sessions"].as_array_mut().map(std::mem::take).unwrap_or_default();
        list.extend(page);
        cursor = answer["next_cursor"].as_str().map(String::from);
        // A search that was cut gives few sessions, or none, and a cursor.
        if cursor.is_none() || list.len() >= limit {
            break;
        }
    }
    list.truncate(limit);
    answer["sessions"] = Value::Array(list);
    show(&arguments.plain, &answer, report::sessions)
}

fn query(arguments: &SessionsArgs, limit: usize, cursor: Option<&str>) -> Vec<(&'static str, String)> {
    let mut query = vec![("limit", limit.to_string())];
    let filters = [
        ("state", arguments.state.as_deref()),
        ("client", arguments.client.as_deref()),
        ("backend", arguments.backend.as_deref()),
        ("principal", arguments.principal.as_deref()),
        ("cursor", cursor),
    ];
    query.extend(filters.into_iter().filter_map(|(key, value)| Some((key, value?.to_owned()))));
    query
}

/// `elida session ID`
pub(super) fn session(arguments: &SessionArgs) -> anyhow::Result<()> {
    let name = &arguments.name;
    let client = Client::new(&arguments.plain.control)?;
    let answer = client.get(&["control", "sessions", &name.id], &name.query())?;
    show(&arguments.plain, &answer, report::session_detail)
}

/// `elida stats`
pub(super) fn stats(arguments: &PlainArgs) -> anyhow::Result<()> {
    let answer = Client::new(&arguments.control)?.get(&["control", "stats"], &[])?;
    show(arguments, &answer, report::stats)
}

/// `elida kills`
pub(super) fn kills(arguments: &PlainArgs) -> anyhow::Result<()> {
    let answer = Client::new(&arguments.control)?.get(&["control", "kills"], &[])?;
    show(arguments, &answer, report::kills)
}

/// `elida kill ID`
pub(super) fn kill(arguments: &KillArgs) -> anyhow::Result<()> {
    let client = Client::new(&arguments.plain.control)?;
    let answer = client
        .post(
            &["control", "sessions", &arguments.name.id, "kill"],
            &arguments.name.query(),
            &kill_request(arguments),
        )
        // The API names its own remedy; here it is a flag.
        .map_err(|error| anyhow!(error.to_string().replace("\"force\": true", "--force")))?;
    show(&arguments.plain, &answer, report::killed)
}

fn kill_request(arguments: &KillArgs) -> Value {
    let mut request = json!({});
    if let Some(reason) = &arguments.reason {
        request["reason"] = json!(reason);
    }
    if let Some(agent) = &arguments.agent {
        request["agent"] = json!(agent);
    }
    if arguments.force {
        request["force"] = json!(true);
    }
    let block = &arguments.block;
    if let Some(duration) = block.duration {
        request["block"] = json!({"mode": "duration", "duration": duration});
    } else if block.permanent {
        request["block"] = json!({"mode": "permanent"});
    } else if block.until_resumed {
        request["block"] = json!({"mode": "until_resumed"});
    }
    request
}

/// `elida resume ID`
pub(super) fn resume(arguments: &ResumeArgs) -> anyhow::Result<()> {
    let client = Client::new(&arguments.plain.control)?;
    let request = arguments.agent.as_ref().map_or_else(|| json!({}), |agent| json!({"agent": agent}));
    let name = &arguments.name;
    let answer = client.post(&["control", "sessions", &name.id, "resume"], &name.query(), &request)?;
    show(&arguments.plain, &answer, |answer| report::resumed(&name.id, answer))
}

/// Prints an answer, as JSON if that is asked for.
pub(super) fn show(
    arguments: &PlainArgs,
    answer: &Value,
    report: impl Fn(&Value) -> String,
) -> anyhow::Result<()> {
    if arguments.json {
        print(&format!("{answer}\n"));
    } else {
        print(&report(answer));
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
            kill_request(&Kill::try_parse_from(words).unwrap().arguments)
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
        let query = query(&arguments, 100, Some("c"));
        let expected =
            [("limit", "100"), ("state", "killed"), ("principal", "anon:1.2.3.4"), ("cursor", "c")];
        assert_eq!(query, expected.map(|(key, value)| (key, value.to_owned())));
    }
}
