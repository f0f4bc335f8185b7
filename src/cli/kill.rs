//! `elida kill`: one session or agent, or all sessions that a selector fits.

use anyhow::{anyhow, bail};
use clap::Args;

use super::client::Client;
use super::commands::{NameKind, PlainArgs, named_by, read_span, show};
use super::report;
use super::table::{plain, table};
use crate::control::api::kill_selector::{KillResult, KillWhere, KillWhereReply};
use crate::control::api::kills::{BlockBody, KillBody};
use crate::session::BlockMode;
use crate::settings::units::DurationText;

/// Arguments of `elida kill`.
#[derive(Args, Debug)]
pub(super) struct KillArgs {
    /// Id or uid of the session; without it, all sessions that fit the selectors
    #[arg(conflicts_with = "selector", required_unless_present_any = ["selector", "agent", "dry_run"])]
    id: Option<String>,
    /// What ID is, when it is the uid of one session and the id of another
    #[arg(long, value_name = "WHAT", requires = "id", conflicts_with = "selector")]
    by: Option<NameKind>,
    /// With ID: kill only this agent of the session, and all agents below it; without: sessions with this agent
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,
    #[command(flatten)]
    selector: SelectorArgs,
    /// Only list the sessions that fit
    #[arg(long, conflicts_with = "id")]
    dry_run: bool,
    /// Why; the client sees it
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    block: BlockArgs,
    /// Block the id even if the session has ended
    #[arg(long, requires = "id", conflicts_with = "selector")]
    force: bool,
    #[command(flatten)]
    plain: PlainArgs,
}

/// Which active sessions: those that fit all of these.
#[derive(Args, Debug)]
#[group(id = "selector", multiple = true)]
struct SelectorArgs {
    /// Sessions of this principal, such as key:ci
    #[arg(long)]
    principal: Option<String>,
    /// Sessions whose caller is in this group
    #[arg(long)]
    group: Option<String>,
    /// Sessions of this client program, such as claude-code
    #[arg(long)]
    client: Option<String>,
    /// Sessions that used this backend
    #[arg(long)]
    backend: Option<String>,
    /// Sessions that used a model which this pattern fits, such as 'gpt-*'
    #[arg(long)]
    model: Option<String>,
    /// Sessions in which no byte has moved for longer than this, such as 10m
    #[arg(long, value_name = "TIME", value_parser = read_span)]
    idle_over: Option<DurationText>,
    /// Sessions that began longer ago than this, such as 2h
    #[arg(long, value_name = "TIME", value_parser = read_span)]
    running_over: Option<DurationText>,
    /// Sessions for which this expression is true, such as 'session.requests > 100'
    #[arg(long, value_name = "EXPRESSION")]
    when: Option<String>,
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

impl BlockArgs {
    fn body(&self) -> Option<BlockBody> {
        let mode = |mode| Some(BlockBody { mode, duration: None });
        match self.duration {
            Some(duration) => Some(BlockBody { mode: BlockMode::Duration, duration: Some(duration) }),
            None if self.permanent => mode(BlockMode::Permanent),
            None if self.until_resumed => mode(BlockMode::UntilResumed),
            None => None,
        }
    }
}

impl KillArgs {
    fn has_selector(&self) -> bool {
        let SelectorArgs { principal, group, client, backend, model, idle_over, running_over, when } =
            &self.selector;
        let texts = [principal, group, client, backend, model, when, &self.agent];
        texts.into_iter().any(Option::is_some) || idle_over.is_some() || running_over.is_some()
    }
}

/// `elida kill ID` and `elida kill --principal …`
pub(super) fn kill(arguments: &KillArgs) -> anyhow::Result<()> {
    let client = Client::new(&arguments.plain.control)?;
    let Some(id) = &arguments.id else {
        if !arguments.has_selector() {
            bail!(
                "--dry-run lists the sessions that selectors fit, and none is given: add --principal, --group, --agent, \
                 --client, --backend, --model, --idle-over, --running-over or --when"
            );
        }
        let answer = client.post(&["control", "kill"], &(), &selector(arguments))?;
        return show(&arguments.plain, answer, selected);
    };
    let answer = client
        .post(&["control", "sessions", id, "kill"], &named_by(arguments.by), &kill_body(arguments))
        // The API names a member of the body; here it is a flag.
        .map_err(|error| anyhow!(error.to_string().replace("\"force\": true", "--force")))?;
    show(&arguments.plain, answer, report::killed)
}

fn kill_body(arguments: &KillArgs) -> KillBody {
    KillBody {
        reason: arguments.reason.clone(),
        agent: arguments.agent.clone(),
        force: arguments.force,
        scope: None,
        block: arguments.block.body(),
    }
}

fn selector(arguments: &KillArgs) -> KillWhere {
    let of = &arguments.selector;
    KillWhere {
        principal: of.principal.clone(),
        group: of.group.clone(),
        agent: arguments.agent.clone(),
        client: of.client.clone(),
        backend: of.backend.clone(),
        model: of.model.clone(),
        idle_over: of.idle_over,
        running_over: of.running_over,
        when: of.when.clone(),
        dry_run: arguments.dry_run,
        reason: arguments.reason.clone(),
        block: arguments.block.body(),
    }
}

/// Formats the answer to a kill by selector: one line for each session, and the sum.
fn selected(reply: &KillWhereReply) -> String {
    let mut rows = vec![["ID", "PRINCIPAL", "CLIENT", "OPEN", "RESULT", "UID"].map(str::to_owned).to_vec()];
    for session in &reply.sessions {
        let result = match &session.result {
            None => "would be killed".to_owned(),
            Some(KillResult::Killed) => "killed".to_owned(),
            Some(KillResult::Ended) => "ended before".to_owned(),
            Some(KillResult::Failed(why)) => plain(why),
        };
        rows.push(vec![
            plain(session.session_id.as_str()),
            plain(session.principal.as_str()),
            plain(session.client.as_deref().unwrap_or("-")),
            session.open_legs.to_string(),
            result,
            session.uid.to_string(),
        ]);
    }
    let mut text = if reply.sessions.is_empty() { String::new() } else { table(&rows, &[3]) };
    text.push_str(&match (reply.matched, reply.dry_run) {
        (0, _) => "no active session fits\n".to_owned(),
        (matched, true) => format!("{matched} would be killed; without --dry-run they are\n"),
        (matched, false) => {
            format!("{} of {matched} killed: {} open requests cut\n", reply.killed, reply.legs_cut)
        }
    });
    if reply.truncated {
        text.push_str("there may be more: call it again\n");
    }
    text.push_str(&report::not_everywhere(&reply.not_reached));
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Kill {
        #[command(flatten)]
        arguments: KillArgs,
    }

    fn read(words: &[&str]) -> Result<KillArgs, clap::Error> {
        Kill::try_parse_from(["kill"].iter().chain(words)).map(|kill| kill.arguments)
    }

    #[test]
    fn a_kill_says_only_what_was_asked_for() {
        let request = |flags: &[&str]| {
            let words: Vec<&str> = ["id"].iter().chain(flags).copied().collect();
            json!(kill_body(&read(&words).unwrap()))
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
    fn flags_become_the_selector() {
        let request = |words: &[&str]| json!(selector(&read(words).unwrap()));
        assert_eq!(request(&["--agent", "a1"]), json!({"agent": "a1"}));
        assert_eq!(
            request(&["--principal", "key:ci", "--idle-over", "10m", "--dry-run", "--permanent"]),
            json!({"principal": "key:ci", "idle_over": "10m", "dry_run": true, "block": {"mode": "permanent"}})
        );
        for words in [&[][..], &["id", "--group", "a"], &["id", "--dry-run"], &["--group", "a", "--force"]] {
            assert!(read(words).is_err(), "{words:?}");
        }
        assert!(!read(&["--dry-run"]).unwrap().has_selector(), "it is told what is missing");
        assert!(read(&["--dry-run", "--agent", "a1"]).unwrap().has_selector());
    }
}
