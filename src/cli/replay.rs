//! `elida policy replay`: what rules would have said to the requests and answers that the history has stored.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::policy::rules_of;
use super::report::word;
use super::table::table;
use super::{FileArgs, check, print, sources};
use crate::config::Flags;
use crate::history::read::stored_captures::stored_captures;
use crate::history::read::time_range::parse_time;
use crate::policy::rule::{Action, Mode};
use crate::policy::ruleset::RuleSet;
use crate::policy::trial::{GivenAnswer, GivenRequest, Trial};
use crate::proxy::trial::try_on;

/// Arguments of `elida policy replay`; it reads the history file, on the gateway's host and as its user.
#[derive(Args, Debug)]
pub(super) struct ReplayArgs {
    /// Captures of this time or later: 2026-11-20T10:00:00Z, or an age such as 7d
    #[arg(long, value_name = "TIME", default_value = "7d")]
    since: String,
    /// YAML with `policy`; the rules of the configuration, if absent
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    file: FileArgs,
}

/// A capture, as far as rules ask.
#[derive(Deserialize)]
struct Stored {
    at: Timestamp,
    session_id: String,
    uid: String,
    method: String,
    path: String,
    backend: Option<String>,
    status: Option<u16>,
    outcome: String,
    request: StoredBody,
    response: StoredBody,
}

#[derive(Deserialize)]
struct StoredBody {
    content_type: Option<String>,
    truncated: bool,
    body: Option<String>,
}

/// The record of its session.
#[derive(Default, Deserialize)]
struct Ended {
    principal: String,
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    client: Option<String>,
}

/// What was replayed.
#[derive(Debug, Default, Serialize)]
struct Replay {
    /// Requests that were judged, and those that could not be.
    requests: u64,
    skipped: u64,
    /// Of the former, those whose body was not stored whole.
    truncated: u64,
    /// Requests that passed, and would now be held, refused or end their session.
    would_stop: u64,
    rules: BTreeMap<String, RuleHits>,
}

/// How often a rule holds.
#[derive(Debug, Default, Serialize)]
struct RuleHits {
    action: Option<Action>,
    hits: u64,
    sessions: BTreeSet<String>,
    principals: BTreeSet<String>,
    /// Requests that passed, and that it would now hold, refuse or kill for.
    would_stop: u64,
}

/// Runs the command.
///
/// # Errors
/// The rules have faults, or there is no history.
pub(super) fn replay(arguments: ReplayArgs) -> anyhow::Result<()> {
    let ReplayArgs { since, rules, json, file } = arguments;
    let sources = sources(file, Flags::default());
    let config = sources.load().map_err(|faults| anyhow!(check::fault_lines(&faults, sources.file())))?;
    let rules = match rules {
        None => config.rules,
        Some(path) => rules_of(&path)?,
    };
    let Some(history) = config.history.file(&config.data_dir) else {
        bail!("there is no history: history.enabled is false")
    };
    let from = parse_time(&since, Timestamp::now());
    let from = from.with_context(|| format!("--since: '{since}' is no time and no age; write 7d"))?;
    let mut replay = Replay::default();
    let mut counts: HashMap<String, (u64, Timestamp)> = HashMap::new();
    stored_captures(&history, from, &mut |capture, record| {
        replay.judge(&rules, capture, record, &mut counts);
    })
    .with_context(|| format!("{} cannot be read", history.display()))?;
    match json {
        true => print(&format!("{}\n", serde_json::to_string_pretty(&replay)?)),
        false => print(&replay.shown()),
    }
    Ok(())
}

impl Replay {
    fn judge(
        &mut self,
        rules: &RuleSet,
        capture: &str,
        record: Option<&str>,
        counts: &mut HashMap<String, (u64, Timestamp)>,
    ) {
        let Ok(capture) = serde_json::from_str::<Stored>(capture) else {
            self.skipped += 1;
            return;
        };
        let ended: Option<Ended> = record.and_then(|record| serde_json::from_str(record).ok());
        let (requests, begun) = counts.entry(capture.uid.clone()).or_insert((0, capture.at));
        *requests += 1;
        let age = capture.at.duration_since(*begun).as_secs();
        let Ok(report) = try_on(rules, &trial(&capture, ended.as_ref(), *requests, age)) else {
            self.skipped += 1;
            return;
        };
        self.requests += 1;
        self.truncated += u64::from(capture.request.truncated || capture.response.truncated);
        let passed = capture.outcome == "ok" && capture.status.is_some_and(|status| status < 400);
        self.would_stop += u64::from(passed && report.action >= Some(Action::Hold));
        for rule in report.rules.iter().filter(|rule| rule.holds) {
            let hits = self.rules.entry(rule.rule.clone()).or_default();
            hits.action = Some(rule.action);
            hits.hits += 1;
            hits.sessions.insert(capture.session_id.clone());
            hits.principals.extend(ended.as_ref().map(|ended| ended.principal.clone()));
            let stops = rule.action >= Action::Hold && rule.mode == Mode::Enforce;
            hits.would_stop += u64::from(passed && stops);
        }
    }

    fn shown(&self) -> String {
        let heading = ["RULE", "ACTION", "HITS", "SESSIONS", "PRINCIPALS", "WOULD STOP"];
        let mut rows = vec![heading.map(String::from).to_vec()];
        rows.extend(self.rules.iter().map(|(rule, hits)| {
            vec![
                word(rule),
                hits.action.map_or("-", Action::name).to_owned(),
                hits.hits.to_string(),
                hits.sessions.len().to_string(),
                hits.principals.len().to_string(),
                hits.would_stop.to_string(),
            ]
        }));
        let Self { requests, skipped, truncated, would_stop, .. } = self;
        let mut text =
            if rows.len() > 1 { table(&rows, &[2, 3, 4, 5]) } else { "no rule holds\n".to_owned() };
        text += &format!(
            "\n{requests} requests, of which {would_stop} passed and would be held or refused now\n"
        );
        if *truncated > 0 {
            text +=
                &format!("{truncated} were not stored whole (capture.max_body): their end was not judged\n");
        }
        if *skipped > 0 {
            text += &format!("{skipped} could not be judged\n");
        }
        text
    }
}

/// What is tried: the request and its answer, with the clock and the caller of then.
fn trial(capture: &Stored, ended: Option<&Ended>, requests: u64, age: i64) -> Trial {
    let utc = capture.at.to_zoned(TimeZone::UTC);
    let mut facts: BTreeMap<String, Value> = [
        ("session.id", json!(capture.session_id)),
        ("session.requests", json!(requests)),
        ("session.age_s", json!(age)),
        ("time.hour", json!(utc.hour())),
        ("time.weekday", json!(utc.weekday().to_sunday_zero_offset())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let mut unknown = Vec::new();
    let mut put = |name: &str, value: Option<Value>| match value {
        Some(value) => drop(facts.insert(name.to_owned(), value)),
        None => unknown.push(name.to_owned()),
    };
    put("request.backend", capture.backend.as_ref().map(|backend| json!(backend)));
    put("principal.id", ended.map(|ended| json!(ended.principal)));
    put("principal.kind", ended.map(|ended| json!(ended.principal.split(':').next())));
    if let Some(ended) = ended {
        put("principal.groups", Some(json!(ended.groups)));
        for (name, value) in [("principal.tenant", &ended.tenant), ("client.name", &ended.client)] {
            if let Some(value) = value {
                put(name, Some(json!(value)));
            }
        }
    }
    let body = |stored: &StoredBody| stored.body.clone().map_or(Value::Null, Value::String);
    let fields = |stored: &StoredBody| {
        stored.content_type.iter().map(|media| ("content-type".to_owned(), media.clone())).collect()
    };
    let answer = GivenAnswer {
        status: capture.status,
        headers: fields(&capture.response),
        body: body(&capture.response),
    };
    Trial {
        facts,
        unknown,
        request: Some(GivenRequest {
            method: Some(capture.method.clone()),
            path: capture.path.clone(),
            headers: fields(&capture.request),
            body: body(&capture.request),
        }),
        answer: Some(answer),
        ..Trial::default()
    }
}
