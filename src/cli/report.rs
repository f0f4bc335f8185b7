//! Answers of the control API as text for people.

use std::collections::BTreeMap;
use std::fmt::Display;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::table::{bytes, plain, span, table};
use crate::control::api::budgets::{BudgetList, OverrideList};
use crate::control::api::history::{CapturePage, CapturedBody};
use crate::control::api::kills::{KillList, KillReply};
use crate::control::api::sessions::SessionPage;
use crate::limits::amount::CostUnit;
use crate::session::{AgentView, BlockMode, Resumed, SessionView, Stats};

/// Formats a table of sessions (`GET /control/sessions`).
pub(super) fn sessions(page: &SessionPage) -> String {
    let shown = page.sessions.len();
    let mut text = match shown {
        0 => "no sessions\n".to_owned(),
        _ => table(&session_rows(&page.sessions), &NUMBERS),
    };
    if let Some(total) = page.total.filter(|total| *total > shown) {
        text.push_str(&format!("{shown} of {total} sessions; more with --limit\n"));
    }
    if page.truncated && page.next_cursor.is_none() {
        text.push_str("Redis does not answer: ended sessions and those of other instances are missing\n");
    }
    text
}

/// The columns of [`session_rows`] that are aligned right.
pub(super) const NUMBERS: [usize; 6] = [6, 7, 8, 9, 10, 11];

/// Returns a heading and one row for each session.
pub(super) fn session_rows(sessions: &[SessionView]) -> Vec<Vec<String>> {
    let heading = [
        "ID",
        "STATE",
        "PRINCIPAL",
        "CLIENT",
        "BACKEND",
        "MODEL",
        "REQUESTS",
        "OPEN",
        "IN",
        "OUT",
        "IDLE",
        "AGE",
        "UID",
    ];
    let mut rows = vec![heading.map(String::from).to_vec()];
    rows.extend(sessions.iter().map(session_row));
    rows
}

fn session_row(session: &SessionView) -> Vec<String> {
    let identity = &session.identity;
    let client = match (&identity.client, &identity.client_version) {
        (Some(name), Some(version)) => format!("{name}/{version}"),
        (Some(name), None) => name.to_string(),
        (None, _) => String::new(),
    };
    vec![
        word(session.id.as_str()),
        session.state.name().to_owned(),
        word(session.principal.id.as_str()),
        word(&client),
        names(&session.backends),
        names(&session.models),
        session.request_count.to_string(),
        session.open_legs.to_string(),
        bytes(session.bytes_in),
        bytes(session.bytes_out),
        span(session.idle_ms),
        span(session.duration_ms),
        session.uid.to_string(),
    ]
}

/// Formats a session and the tree of its agents (`GET /control/sessions/{id}`).
pub(super) fn session_detail(session: &SessionView) -> String {
    let mut text = table(&session_rows(std::slice::from_ref(session)), &NUMBERS);
    let heading = ["AGENT", "STATE", "REQUESTS", "OPEN", "INPUT", "OUTPUT", "LAST SEEN"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    rows.extend(session.agents.iter().flatten().map(agent_row));
    text.push('\n');
    text.push_str(&table(&rows, &[2, 3, 4, 5]));
    text
}

/// Levels of agents with an indentation of their own; deeper ones would leave no room for their names.
const LEVELS: usize = 16;

fn agent_row(agent: &AgentView) -> Vec<String> {
    vec![
        "  ".repeat(agent.depth.min(LEVELS)) + &word(agent.id.as_str()),
        agent.state.name().to_owned(),
        agent.requests.to_string(),
        agent.open_legs.to_string(),
        agent.usage.input_tokens.to_string(),
        agent.usage.output_tokens.to_string(),
        time(agent.last_seen),
    ]
}

/// Formats a table of kill orders (`GET /control/kills`).
pub(super) fn kills(list: &KillList) -> String {
    if list.kills.is_empty() {
        return "no kill orders in force\n".into();
    }
    let mut rows =
        vec![["SESSION", "AGENT", "SCOPE", "REASON", "BY", "AT", "UNTIL"].map(String::from).to_vec()];
    for kill in &list.kills {
        let until = match (kill.mode, kill.until) {
            (BlockMode::Permanent, _) => "permanent".into(),
            (BlockMode::UntilResumed, _) => "resumed".into(),
            (BlockMode::Duration, until) => until.map_or_else(|| word(""), time),
        };
        rows.push(vec![
            word(kill.session_id.as_str()),
            optional(kill.agent.as_ref()),
            word(kill.scope.as_str()),
            word(&kill.reason),
            word(&kill.by),
            time(kill.at),
            until,
        ]);
    }
    table(&rows, &[])
}

/// Formats the accounts of budgets (`GET /control/budgets`).
pub(super) fn budgets(list: &BudgetList) -> String {
    if list.budgets.is_empty() {
        return "nothing was spent of any budget\n".into();
    }
    let heading = ["BUDGET", "NAME", "PERIOD", "SINCE", "UNIT", "LIMIT", "SPENT", "HELD", "LEFT"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    for account in &list.budgets {
        let amount = |amount: f64| match account.unit {
            CostUnit::Usd => format!("{amount:.4}"),
            CostUnit::Tokens => format!("{amount}"),
        };
        rows.push(vec![
            word(&account.budget),
            word(&account.name),
            word(&account.period),
            account.starts_at.map_or_else(|| word(""), time),
            if account.unit == CostUnit::Usd { "USD" } else { "tokens" }.into(),
            amount(account.limit),
            amount(account.spent),
            amount(account.held),
            amount(account.left),
        ]);
    }
    let mut text = table(&rows, &[5, 6, 7, 8]);
    if list.truncated {
        text.push_str("there are more: GET /control/budgets?budget=…&account=… finds them\n");
    }
    text
}

/// Formats the overrides of a budget (`GET /control/budgets/{name}/override`).
pub(super) fn overrides(list: &OverrideList) -> String {
    if list.overrides.is_empty() {
        return "nothing is added to the limit of this budget\n".into();
    }
    let mut rows = vec![["ID", "ADDED", "ACCOUNT", "UNTIL", "BY", "AT"].map(String::from).to_vec()];
    for one in &list.overrides {
        rows.push(vec![
            word(&one.id),
            one.add.to_string(),
            optional(one.account.as_ref()),
            time(one.until),
            word(&one.by),
            time(one.made),
        ]);
    }
    table(&rows, &[])
}

/// Formats requests with their bodies (`GET /control/history/{id}/captures`).
pub(super) fn captures(page: &CapturePage) -> String {
    if page.captures.is_empty() {
        return "no bodies of this session were captured (see capture.mode)\n".into();
    }
    let mut text = String::new();
    for capture in &page.captures {
        let cells = [
            word(&capture.method),
            word(&capture.path),
            optional(capture.status),
            word(&capture.outcome),
            optional(capture.backend.as_ref()),
            optional(capture.model.as_ref()),
            word(capture.request_id.as_str()),
            capture.uid.to_string(),
        ];
        text.push_str(&format!("{} {}\n", time(capture.at), cells.join(" ")));
        body(">", &capture.request, &mut text);
        body("<", &capture.response, &mut text);
    }
    if let Some(cursor) = &page.next_cursor {
        text.push_str(&format!("more with --cursor {}\n", plain(cursor)));
    }
    text
}

/// Writes one body below a line that describes it.
fn body(mark: &str, body: &CapturedBody, text: &mut String) {
    let size = bytes(body.bytes);
    let cut = if body.truncated { ", truncated" } else { "" };
    let omitted = body.omitted.as_deref().map(|why| format!(", not kept: {}", plain(why)));
    let omitted = omitted.unwrap_or_default();
    text.push_str(&format!("{mark} {} {size}{cut}{omitted}\n", optional(body.content_type.as_ref())));
    for line in body.body.as_deref().unwrap_or_default().lines() {
        text.push_str(&format!("  {}\n", plain(line)));
    }
}

/// Formats every number of the totals with the path to it (`GET /control/stats`).
pub(super) fn stats(stats: &Stats) -> String {
    let mut rows = Vec::new();
    flatten(String::new(), &json!(stats), &mut rows);
    table(&rows, &[1])
}

/// Formats the answer to a kill.
pub(super) fn killed(KillReply { killed, .. }: &KillReply) -> String {
    let legs = killed.legs_cut;
    let plural = if legs == 1 { "" } else { "s" };
    let session = word(killed.session_id.as_str());
    let what = match &killed.agent {
        Some(agent) => {
            let below = match killed.descendants.len() {
                0 => String::new(),
                below => format!(" and {below} below it"),
            };
            format!("agent {}{below} of {session} killed", plain(agent.as_str()))
        }
        None => format!("{session} {}", killed.state),
    };
    format!("{what}: {legs} open request{plural} cut\n{}", not_everywhere(&killed.not_reached))
}

/// Says which instances and stores have not received an order yet, one line for each.
pub(super) fn not_everywhere(not_reached: &[String]) -> String {
    not_reached.iter().map(|what| format!("not everywhere yet: {}\n", plain(what))).collect()
}

/// Formats the answer to a resume.
pub(super) fn resumed(resumed: &Resumed) -> String {
    let id = plain(resumed.session_id.as_str());
    let whom = match &resumed.order.agent {
        Some(agent) => format!("agent {} of {id}", plain(agent.as_str())),
        None => id,
    };
    format!("{whom} resumed: its next request is accepted\n{}", not_everywhere(&resumed.not_reached))
}

/// Returns a text, or `-` for an empty one.
pub(super) fn word(text: &str) -> String {
    if text.is_empty() { "-".into() } else { plain(text) }
}

/// Returns a value as text, or `-` for none.
pub(super) fn optional(value: Option<impl Display>) -> String {
    value.map_or_else(|| word(""), |value| word(&value.to_string()))
}

/// Returns a time to the second: `2026-11-20T08:00:00Z`.
pub(super) fn time(at: Timestamp) -> String {
    let text = at.to_string();
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text,
    }
}

/// Returns the names in a map of names and counts.
fn names<K: Display>(counts: &BTreeMap<K, u64>) -> String {
    let names: Vec<String> = counts.keys().map(ToString::to_string).collect();
    word(&names.join(","))
}

fn flatten(path: String, value: &Value, rows: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(path, value, rows);
            }
        }
        other => rows.push(vec![plain(&path), plain(&other.to_string())]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::{read, session, uid};
    use crate::protocol::facts::usage::Usage;
    use crate::session::SessionState;

    /// A page of sessions that says only what a test is about.
    fn page(mut page: Value) -> SessionPage {
        let sessions: Vec<Value> = page["sessions"].as_array_mut().unwrap().drain(..).collect();
        let sessions = sessions.into_iter().map(session).collect();
        let base = [("truncated", json!(false)), ("next_cursor", Value::Null)];
        SessionPage { sessions, ..read(&base, page) }
    }

    fn reply(reply: Value) -> KillReply {
        let base = [
            ("uid", json!(uid("a"))),
            ("killed_at", json!("2026-11-20T08:00:00Z")),
            ("by", json!("cli")),
            ("blocked_until", Value::Null),
            ("instances_notified", json!(1)),
            ("reason", json!("")),
        ];
        read(&base, reply)
    }

    #[test]
    fn sessions_are_one_line_each() {
        let answer = page(json!({"sessions": [
            {"id": "bd060396", "state": "active",
             "identity": {"client": "claude-code", "client_version": "2.1.197"},
             "backends": {"anthropic": 12}, "models": {"claude-sonnet-4-6": 12}, "request_count": 12,
             "open_legs": 1, "bytes_in": 4500, "bytes_out": 128000, "idle_ms": 120, "duration_ms": 45000},
            {"id": "x\u{1b}", "state": "killed", "identity": {"client": null}, "backends": {}, "models": {},
             "request_count": 0, "open_legs": 0, "bytes_in": 0, "bytes_out": 0, "idle_ms": 3_600_000,
             "duration_ms": 7_200_000}
        ], "next_cursor": "n", "total": 7}));
        assert_eq!(
            sessions(&answer),
            "ID        STATE   PRINCIPAL       CLIENT               BACKEND    MODEL              REQUESTS  OPEN       IN        OUT   IDLE    AGE  UID\n\
             bd060396  active  anon:127.0.0.1  claude-code/2.1.197  anthropic  claude-sonnet-4-6        12     1  4.4 KiB  125.0 KiB     0s    45s  s_00000000000000006264303630333936\n\
             x\u{fffd}        killed  anon:127.0.0.1  -                    -          -                         0     0      0 B        0 B  1h 0m  2h 0m  s_0000000000000000000000000000781b\n\
             2 of 7 sessions; more with --limit\n"
        );
        assert_eq!(sessions(&page(json!({"sessions": [], "total": 0}))), "no sessions\n");
        let alone = page(json!({"sessions": [], "next_cursor": null, "total": null, "truncated": true}));
        assert_eq!(
            sessions(&alone),
            "no sessions\nRedis does not answer: ended sessions and those of other instances are missing\n"
        );
    }

    #[test]
    fn kill_orders_and_totals_are_told() {
        let answer: KillList = read(
            &[],
            json!({"kills": [
                {"uid": uid("a"), "session_id": "a", "agent": "a1", "scope": "", "reason": "runaway", "by": "cli", "at": "2026-11-20T08:00:00.11177356Z",
                 "mode": "duration", "until": "2026-11-21T08:00:00Z"},
                {"uid": uid("b"), "session_id": "b", "scope": "s", "reason": "", "by": "cli", "at": "2026-11-20T08:00:00Z",
                 "mode": "permanent", "until": null}
            ]}),
        );
        assert_eq!(
            kills(&answer),
            "SESSION  AGENT  SCOPE  REASON   BY   AT                    UNTIL\n\
             a        a1     -      runaway  cli  2026-11-20T08:00:00Z  2026-11-21T08:00:00Z\n\
             b        -      s      -        cli  2026-11-20T08:00:00Z  permanent\n"
        );
        assert_eq!(kills(&read(&[], json!({"kills": []}))), "no kill orders in force\n");
        assert_eq!(
            stats(&Stats {
                active: 3,
                by_state: [(SessionState::Killed, 12)].into(),
                kills: 9,
                ..Stats::default()
            }),
            "active            3\nby_state.killed  12\nbytes_in          0\nbytes_out         0\nerrors            0\n\
             kills             9\nkills_in_force    0\nopen_legs         0\nrequests          0\n"
        );
        assert_eq!(
            killed(&reply(json!({"session_id": "a", "state": "killed", "legs_cut": 1}))),
            "a killed: 1 open request cut\n"
        );
        let lifted = |order: Value| read(&[], json!({"session_id": "a", "order": order}));
        let order = json!({"session_id": "a", "scope": "", "uid": uid("a"), "reason": "", "by": "cli",
            "at": "2026-11-20T08:00:00Z", "mode": "permanent", "until": null});
        assert_eq!(resumed(&lifted(order.clone())), "a resumed: its next request is accepted\n");
        let mut of_agent = order;
        of_agent["agent"] = json!("a1");
        assert_eq!(resumed(&lifted(of_agent)), "agent a1 of a resumed: its next request is accepted\n");
        let order = json!({"session_id": "a", "state": "active", "agent": "a1", "descendants": ["a2"], "legs_cut": 2});
        assert_eq!(killed(&reply(order)), "agent a1 and 1 below it of a killed: 2 open requests cut\n");
    }

    #[test]
    fn agents_stand_below_those_that_started_them() {
        let agent = |id: &str, depth: u64, state: &str| {
            json!({"id": id, "depth": depth, "state": state, "requests": 2, "open_legs": 1,
                   "parent": null, "first_seen": "2026-11-20T08:00:00Z",
                   "usage": Usage { input_tokens: 7, output_tokens: 5, ..Usage::default() },
                   "last_seen": "2026-11-20T08:00:00.5Z"})
        };
        let answer = session(
            json!({"id": "s", "agents": [agent("main", 0, "active"), agent("a\u{1b}", 1, "killed"), agent("b", 2, "killed")]}),
        );
        assert_eq!(
            session_detail(&answer).split_once("\n\n").unwrap().1,
            "AGENT  STATE   REQUESTS  OPEN  INPUT  OUTPUT  LAST SEEN\n\
             main   active         2     1      7       5  2026-11-20T08:00:00Z\n\x20 \
             a\u{fffd}   killed         2     1      7       5  2026-11-20T08:00:00Z\n\x20   \
             b  killed         2     1      7       5  2026-11-20T08:00:00Z\n"
        );
    }
}
