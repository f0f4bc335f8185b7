//! Answers of the control API as text for people.

use serde_json::Value;

use super::table::{bytes, plain, span, table};

/// A table of sessions (`GET /control/sessions`).
pub(super) fn sessions(answer: &Value) -> String {
    let list = items(answer, "sessions");
    let mut text = match list.is_empty() {
        true => "no sessions\n".to_owned(),
        false => table(&session_rows(list), &NUMBERS),
    };
    let total = answer["total"].as_u64().unwrap_or_default();
    let shown = list.len() as u64;
    if total > shown {
        text.push_str(&format!("{shown} of {total} sessions; more with --limit\n"));
    }
    if answer["truncated"] == true && answer["next_cursor"].is_null() {
        text.push_str("Redis does not answer: ended sessions and those of other instances are missing\n");
    }
    text
}

/// The columns of [`session_rows`] that are aligned right.
pub(super) const NUMBERS: [usize; 6] = [5, 6, 7, 8, 9, 10];

/// A heading and one row for each session.
pub(super) fn session_rows(list: &[Value]) -> Vec<Vec<String>> {
    let heading =
        ["ID", "STATE", "CLIENT", "BACKEND", "MODEL", "REQUESTS", "OPEN", "IN", "OUT", "IDLE", "AGE"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    rows.extend(list.iter().map(session));
    rows
}

fn session(session: &Value) -> Vec<String> {
    let identity = &session["identity"];
    let client = match (identity["client"].as_str(), identity["client_version"].as_str()) {
        (Some(name), Some(version)) => format!("{name}/{version}"),
        (name, _) => name.unwrap_or("-").to_owned(),
    };
    let number = |key: &str| session[key].as_u64().unwrap_or_default();
    vec![
        word(&session["id"]),
        word(&session["state"]),
        plain(&client),
        names(&session["backends"]),
        names(&session["models"]),
        number("request_count").to_string(),
        number("open_legs").to_string(),
        bytes(number("bytes_in")),
        bytes(number("bytes_out")),
        span(number("idle_ms")),
        span(number("duration_ms")),
    ]
}

/// A session and the tree of its agents (`GET /control/sessions/{id}`).
pub(super) fn session_detail(answer: &Value) -> String {
    let list = std::slice::from_ref(answer);
    let mut text = table(&session_rows(list), &NUMBERS);
    let heading = ["AGENT", "STATE", "REQUESTS", "OPEN", "INPUT", "OUTPUT", "LAST SEEN"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    rows.extend(items(answer, "agents").iter().map(agent));
    text.push('\n');
    text.push_str(&table(&rows, &[2, 3, 4, 5]));
    text
}

/// Levels of agents that are shown apart; deeper ones would leave no room for their names.
const LEVELS: usize = 16;

fn agent(agent: &Value) -> Vec<String> {
    let depth = agent["depth"].as_u64().and_then(|depth| usize::try_from(depth).ok()).unwrap_or_default();
    let usage = &agent["usage"];
    vec![
        "  ".repeat(depth.min(LEVELS)) + &word(&agent["id"]),
        word(&agent["state"]),
        word(&agent["requests"]),
        word(&agent["open_legs"]),
        word(&usage["input_tokens"]),
        word(&usage["output_tokens"]),
        time(&agent["last_seen"]),
    ]
}

/// A table of kill orders (`GET /control/kills`).
pub(super) fn kills(answer: &Value) -> String {
    let list = items(answer, "kills");
    if list.is_empty() {
        return "no kill orders in force\n".into();
    }
    let mut rows =
        vec![["SESSION", "AGENT", "SCOPE", "REASON", "BY", "AT", "UNTIL"].map(String::from).to_vec()];
    for kill in list {
        let until = match kill["mode"].as_str() {
            Some("permanent") => "for ever".into(),
            Some("until_resumed") => "resumed".into(),
            _ => time(&kill["until"]),
        };
        let cells = ["session_id", "agent", "scope", "reason", "by"].iter().map(|key| word(&kill[*key]));
        rows.push(cells.chain([time(&kill["at"]), until]).collect());
    }
    table(&rows, &[])
}

/// Requests with their bodies (`GET /control/history/{id}/captures`).
pub(super) fn captures(answer: &Value) -> String {
    let list = items(answer, "captures");
    if list.is_empty() {
        return "no bodies are kept of it (capture.mode says of which requests)\n".into();
    }
    let mut text = String::new();
    for capture in list {
        let cells = ["method", "path", "status", "outcome", "backend", "model", "request_id", "uid"];
        let cells: Vec<String> = cells.iter().map(|key| word(&capture[*key])).collect();
        text.push_str(&format!("{} {}\n", time(&capture["at"]), cells.join(" ")));
        body(">", &capture["request"], &mut text);
        body("<", &capture["response"], &mut text);
    }
    if let Some(cursor) = answer["next_cursor"].as_str() {
        text.push_str(&format!("more with --cursor {}\n", plain(cursor)));
    }
    text
}

/// One body below a line that says what it is.
fn body(mark: &str, body: &Value, text: &mut String) {
    let size = bytes(body["bytes"].as_u64().unwrap_or_default());
    let cut = if body["truncated"] == true { ", truncated" } else { "" };
    let omitted = body["omitted"].as_str().map(|why| format!(", not kept: {}", plain(why)));
    let omitted = omitted.unwrap_or_default();
    text.push_str(&format!("{mark} {} {size}{cut}{omitted}\n", word(&body["content_type"])));
    for line in body["body"].as_str().unwrap_or_default().lines() {
        text.push_str(&format!("  {}\n", plain(line)));
    }
}

/// Every number of the totals with the path to it (`GET /control/stats`).
pub(super) fn stats(answer: &Value) -> String {
    let mut rows = Vec::new();
    flatten(String::new(), answer, &mut rows);
    table(&rows, &[1])
}

/// What a kill did.
pub(super) fn killed(answer: &Value) -> String {
    let legs = answer["legs_cut"].as_u64().unwrap_or_default();
    let plural = if legs == 1 { "" } else { "s" };
    let session = word(&answer["session_id"]);
    let what = match answer["agent"].as_str() {
        Some(agent) => {
            let below = match items(answer, "descendants").len() {
                0 => String::new(),
                below => format!(" and {below} below it"),
            };
            format!("agent {}{below} of {session} killed", plain(agent))
        }
        None => format!("{session} {}", word(&answer["state"])),
    };
    format!("{what}: {legs} open request{plural} cut\n")
}

/// What a resume did.
pub(super) fn resumed(target: &str, answer: &Value) -> String {
    let id = answer["session_id"].as_str().unwrap_or(target);
    let whom = match answer["order"]["agent"].as_str() {
        Some(agent) => format!("agent {} of {}", plain(agent), plain(id)),
        None => plain(id),
    };
    format!("{whom} resumed: its next request is let in\n")
}

fn items<'a>(answer: &'a Value, key: &str) -> &'a [Value] {
    answer[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A text, or `-` for none.
fn word(value: &Value) -> String {
    match value {
        Value::String(text) if !text.is_empty() => plain(text),
        Value::Null | Value::String(_) => "-".into(),
        other => plain(&other.to_string()),
    }
}

/// A point in time to the second: `2026-11-20T08:00:00Z`.
fn time(value: &Value) -> String {
    let text = word(value);
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text,
    }
}

/// The names in a map of names and counts.
fn names(value: &Value) -> String {
    let names: Vec<&str> = value.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    if names.is_empty() { "-".into() } else { plain(&names.join(",")) }
}

fn flatten(path: String, value: &Value, rows: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(path, value, rows);
            }
        }
        other => rows.push(vec![plain(&path), word(other)]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sessions_are_one_line_each() {
        let answer = json!({"sessions": [
            {"id": "bd060396", "state": "active",
             "identity": {"client": "claude-code", "client_version": "2.1.197"},
             "backends": {"anthropic": 12}, "models": {"claude-sonnet-4-6": 12}, "request_count": 12,
             "open_legs": 1, "bytes_in": 4500, "bytes_out": 128000, "idle_ms": 120, "duration_ms": 45000},
            {"id": "x\u{1b}", "state": "killed", "identity": {"client": null}, "backends": {}, "models": {},
             "request_count": 0, "open_legs": 0, "bytes_in": 0, "bytes_out": 0, "idle_ms": 3_600_000,
             "duration_ms": 7_200_000}
        ], "next_cursor": "n", "total": 7});
        assert_eq!(
            sessions(&answer),
            "ID        STATE   CLIENT               BACKEND    MODEL              REQUESTS  OPEN       IN        OUT   IDLE    AGE\n\
             bd060396  active  claude-code/2.1.197  anthropic  claude-sonnet-4-6        12     1  4.4 KiB  125.0 KiB     0s    45s\n\
             x\u{fffd}        killed  -                    -          -                         0     0      0 B        0 B  1h 0m  2h 0m\n\
             2 of 7 sessions; more with --limit\n"
        );
        assert_eq!(sessions(&json!({"sessions": [], "total": 0})), "no sessions\n");
        let alone = json!({"sessions": [], "next_cursor": null, "total": null, "truncated": true});
        assert_eq!(
            sessions(&alone),
            "no sessions\nRedis does not answer: ended sessions and those of other instances are missing\n"
        );
    }

    #[test]
    fn kill_orders_and_totals_are_told() {
        let answer = json!({"kills": [
            {"session_id": "a", "agent": "a1", "scope": "", "reason": "runaway", "by": "cli", "at": "2026-11-20T08:00:00.11177356Z",
             "mode": "duration", "until": "2026-11-21T08:00:00Z"},
            {"session_id": "b", "scope": "s", "reason": "", "by": "cli", "at": "2026-11-20T08:00:00Z",
             "mode": "permanent", "until": null}
        ]});
        assert_eq!(
            kills(&answer),
            "SESSION  AGENT  SCOPE  REASON   BY   AT                    UNTIL\n\
             a        a1     -      runaway  cli  2026-11-20T08:00:00Z  2026-11-21T08:00:00Z\n\
             b        -      s      -        cli  2026-11-20T08:00:00Z  for ever\n"
        );
        assert_eq!(kills(&json!({"kills": []})), "no kill orders in force\n");
        assert_eq!(
            stats(&json!({"sessions": {"active": 3, "killed": 12}, "uptime_s": 9})),
            "sessions.active   3\nsessions.killed  12\nuptime_s          9\n"
        );
        assert_eq!(
            killed(&json!({"session_id": "a", "state": "killed", "legs_cut": 1})),
            "a killed: 1 open request cut\n"
        );
        assert_eq!(resumed("a", &json!({})), "a resumed: its next request is let in\n");
        let order = json!({"session_id": "a", "state": "active", "agent": "a1", "descendants": ["a2"], "legs_cut": 2});
        assert_eq!(killed(&order), "agent a1 and 1 below it of a killed: 2 open requests cut\n");
        assert_eq!(
            resumed("a", &json!({"session_id": "a", "order": {"agent": "a1"}})),
            "agent a1 of a resumed: its next request is let in\n"
        );
    }

    #[test]
    fn agents_stand_below_those_that_started_them() {
        let agent = |id: &str, depth: u64, state: &str| {
            json!({"id": id, "depth": depth, "state": state, "requests": 2, "open_legs": 1,
                   "usage": {"input_tokens": 7, "output_tokens": 5}, "last_seen": "2026-11-20T08:00:00.5Z"})
        };
        let answer = json!({"id": "s", "state": "active", "identity": {}, "backends": {}, "models": {},
            "agents": [agent("main", 0, "active"), agent("a\u{1b}", 1, "killed"), agent("b", 2, "killed")]});
        assert_eq!(
            session_detail(&answer).split_once("\n\n").unwrap().1,
            "AGENT  STATE   REQUESTS  OPEN  INPUT  OUTPUT  LAST SEEN\n\
             main   active         2     1      7       5  2026-11-20T08:00:00Z\n\x20 \
             a\u{fffd}   killed         2     1      7       5  2026-11-20T08:00:00Z\n\x20   \
             b  killed         2     1      7       5  2026-11-20T08:00:00Z\n"
        );
    }
}
