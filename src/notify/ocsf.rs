//! Events in the form of the Open Cybersecurity Schema Framework 1.8 (<https://schema.ocsf.io/1.8.0>): Detection Finding (2004)
//! for what rules find and for kills, Authentication (3002) for log-ins, Entity Management (3004) for other changes by operators.

use serde_json::{Map, Value, json};

/// The version of the schema.
const VERSION: &str = "1.8.0";

/// Returns an event in this form; `None` for one that has none. `data` is that of the event feed, or a line of the audit log
/// under the name [`super::AUDIT`].
pub(super) fn event(kind: &str, data: &Value, now_ms: i64, id: &str) -> Option<Value> {
    match kind {
        "policy.finding" => Some(finding(data, now_ms, id)),
        "session.killed" | "agent.killed" => Some(kill(data, now_ms, id)),
        super::AUDIT => Some(change(data, now_ms, id)),
        _ => None,
    }
}

/// What all events have.
fn base(
    class: u64,
    activity: u64,
    severity: u64,
    time: i64,
    id: &str,
    profiles: &[&str],
) -> Map<String, Value> {
    let base = json!({
        "category_uid": class / 1000,
        "class_uid": class,
        "activity_id": activity,
        "type_uid": class * 100 + activity,
        "severity_id": severity,
        "time": time,
        "metadata": {
            "version": VERSION,
            "uid": id,
            "product": {"name": "ELIDA", "vendor_name": "ELIDA", "version": env!("CARGO_PKG_VERSION")},
            "profiles": profiles,
        },
    });
    match base {
        Value::Object(base) => base,
        _ => Map::new(),
    }
}

fn text<'a>(data: &'a Value, path: &str) -> Option<&'a str> {
    data.pointer(path).and_then(Value::as_str)
}

/// Milliseconds since 1970 of the time at this path.
fn time(data: &Value, path: &str, now_ms: i64) -> i64 {
    let at = text(data, path).and_then(|at| at.parse::<jiff::Timestamp>().ok());
    at.map_or(now_ms, jiff::Timestamp::as_millisecond)
}

fn severity_id(name: &str) -> u64 {
    match name {
        "info" => 1,
        "low" => 2,
        "medium" => 3,
        "high" => 4,
        "critical" => 5,
        _ => 0,
    }
}

/// A finding of a rule. 1 is "Create".
fn finding(data: &Value, now_ms: i64, id: &str) -> Value {
    let rule = text(data, "/rule").unwrap_or_default();
    let severity = text(data, "/severity").unwrap_or_default();
    let acts =
        text(data, "/mode") == Some("enforce") && !matches!(text(data, "/action"), None | Some("flag"));
    let time = time(data, "/at", now_ms);
    let mut event = base(2004, 1, severity_id(severity), time, id, &["security_control"]);
    let mut extend = |name: &str, value: Value| drop(event.insert(name.to_owned(), value));
    extend("finding_info", info(id, format!("Rule {rule} holds"), rule, "rule", time, text(data, "/owasp")));
    // Denied and blocked, or observed and detected.
    extend("action_id", json!(if acts { 2 } else { 3 }));
    extend("disposition_id", json!(if acts { 2 } else { 15 }));
    extend("is_alert", json!(severity_id(severity) >= 3));
    extend("status_id", json!(1));
    extend("evidences", json!([evidence(data, text(data, "/principal"), text(data, "/tenant"))]));
    extend("resources", resources(text(data, "/session_id"), text(data, "/agent")));
    Value::Object(event)
}

/// A kill order is a finding that an operator, a budget or a rule has made.
fn kill(data: &Value, now_ms: i64, id: &str) -> Value {
    let by = text(data, "/by").unwrap_or_default();
    let time = time(data, "/at", now_ms);
    let mut event = base(2004, 1, 4, time, id, &["security_control"]);
    let mut extend = |name: &str, value: Value| drop(event.insert(name.to_owned(), value));
    extend("finding_info", info(id, "A session is killed".to_owned(), by, "kill", time, None));
    extend("message", json!(text(data, "/reason")));
    extend("action_id", json!(2));
    extend("disposition_id", json!(2));
    extend("is_alert", json!(true));
    extend("status_id", json!(1));
    let scope = text(data, "/scope").filter(|scope| !scope.is_empty());
    extend("evidences", json!([evidence(data, scope, None)]));
    extend("resources", resources(text(data, "/session_id"), text(data, "/agent")));
    Value::Object(event)
}

fn info(id: &str, title: String, by: &str, kind: &str, time: i64, owasp: Option<&str>) -> Value {
    let mut types = vec![kind];
    types.extend(owasp);
    json!({
        "uid": id,
        "title": title,
        "created_time": time,
        "types": types,
        // 1 is a rule.
        "analytic": {"name": by, "uid": by, "type_id": 1},
    })
}

fn evidence(data: &Value, principal: Option<&str>, tenant: Option<&str>) -> Value {
    let mut evidence = json!({"data": data});
    if let Some(principal) = principal {
        evidence["actor"] = json!({"user": {"uid": principal, "name": principal}});
        if let Some(tenant) = tenant {
            evidence["actor"]["user"]["org"] = json!({"uid": tenant, "name": tenant});
        }
    }
    evidence
}

fn resources(session: Option<&str>, agent: Option<&str>) -> Value {
    let named = [("AI session", session), ("AI agent", agent)];
    let named =
        named.into_iter().filter_map(|(kind, uid)| Some(json!({"type": kind, "uid": uid?, "name": uid?})));
    named.collect()
}

/// A line of the audit log.
fn change(data: &Value, now_ms: i64, id: &str) -> Value {
    let action = text(data, "/action").unwrap_or_default();
    let status = data["status"].as_u64().unwrap_or_default();
    let has_worked = status < 400;
    let operator = text(data, "/operator/id").unwrap_or_default();
    let time = time(data, "/at", now_ms);
    let severity = if has_worked { 1 } else { 3 };
    let log_in = match action {
        "logIn" => Some(1),
        "logOut" => Some(2),
        _ => None,
    };
    let mut event = match log_in {
        Some(activity) => base(3002, activity, severity, time, id, &[]),
        None => base(3004, activity(action), severity, time, id, &[]),
    };
    let mut extend = |name: &str, value: Value| drop(event.insert(name.to_owned(), value));
    extend("status_id", json!(if has_worked { 1 } else { 2 }));
    extend("status_code", json!(status.to_string()));
    if let Some(code) = text(data, "/code") {
        extend("status_detail", json!(code));
    }
    if let Some(address) = text(data, "/operator/address") {
        extend("src_endpoint", json!({"ip": address}));
    }
    let user = json!({"uid": operator, "name": operator});
    if log_in.is_some() {
        extend("user", user);
        extend("service", json!({"name": "ELIDA control API"}));
        return Value::Object(event);
    }
    extend("actor", json!({"user": user}));
    let target = text(data, "/target").unwrap_or_default();
    extend("entity", json!({"name": target, "uid": target, "type": action}));
    if let Some(reason) = text(data, "/reason") {
        extend("comment", json!(reason));
    }
    Value::Object(event)
}

/// The activity of a change: 1 to 4 are create, read, update and delete.
fn activity(action: &str) -> u64 {
    let starts = |words: &[&str]| words.iter().any(|word| action.starts_with(word));
    match () {
        () if starts(&["create", "add", "invite", "register"]) => 1,
        () if starts(&["list", "get", "export", "read"]) => 2,
        () if starts(&["remove", "revoke", "delete"]) => 4,
        () => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What version 1.8.0 of the schema says of the classes and objects that are used here, and of their attributes: those that
    /// are required, and those that are written. From github.com/ocsf/ocsf-schema, commit 3dcb905d ("v1.8.0 prep").
    const PUBLISHED: &str = include_str!("ocsf_schema.json");

    /// Checks an object against the published schema.
    fn check(object: &Value, name: &str, published: &Value, profiles: &[&str]) {
        let known = &published[name]["attributes"];
        let members = object.as_object().unwrap_or_else(|| panic!("{name} is no object: {object}"));
        for (attribute, value) in members {
            let rule = &known[attribute];
            assert!(rule.is_object(), "{name} has no attribute {attribute}");
            if let Some(profile) = rule["profile"].as_str() {
                assert!(profiles.contains(&profile), "{name}.{attribute} is of the profile {profile}");
            }
            let one = std::slice::from_ref(value);
            let values = if rule["array"] == true { value.as_array().expect("an array") } else { one };
            for value in values {
                let is_right = match rule["type"].as_str().expect("a type") {
                    "json_t" => true,
                    "boolean_t" => value.is_boolean(),
                    "integer_t" | "long_t" | "timestamp_t" => value.is_i64(),
                    kind if kind.ends_with("_t") => value.is_string(),
                    object => {
                        check(value, object, published, profiles);
                        true
                    }
                };
                assert!(is_right, "{name}.{attribute}: {value}");
                if let Some(all) = rule["enum"].as_array() {
                    assert!(all.contains(value), "{name}.{attribute}: {value} is not of {all:?}");
                }
            }
        }
        for (attribute, rule) in known.as_object().expect("attributes") {
            assert!(rule["required"] != true || members.contains_key(attribute), "{name} lacks {attribute}");
        }
        if let Some(one) = published[name]["constraints"]["at_least_one"].as_array() {
            let has = |attribute: &Value| members.contains_key(attribute.as_str().expect("a name"));
            assert!(one.iter().any(has), "{name} has none of {one:?}");
        }
    }

    fn checked(kind: &str, data: &Value) -> Value {
        let event = event(kind, data, 1_763_632_845_000, "id-1").expect("an event");
        let published: Value = serde_json::from_str(PUBLISHED).expect("the schema");
        let class = event["class_uid"].as_u64().expect("a class");
        let name = match class {
            2004 => "detection_finding",
            3002 => "authentication",
            3004 => "entity_management",
            other => panic!("{other}"),
        };
        let profiles = event["metadata"]["profiles"].as_array().expect("profiles");
        let profiles: Vec<&str> = profiles.iter().filter_map(Value::as_str).collect();
        for profile in &profiles {
            let known = published[name]["profiles"].as_array().expect("profiles");
            assert!(known.contains(&json!(profile)), "{name} has no profile {profile}");
        }
        check(&event, name, &published, &profiles);
        assert_eq!(event["metadata"]["version"], VERSION);
        assert_eq!(event["type_uid"].as_u64(), Some(class * 100 + event["activity_id"].as_u64().unwrap()));
        assert_eq!(event["category_uid"].as_u64(), Some(class / 1000));
        event
    }

    #[test]
    fn each_event_has_what_its_class_requires() {
        let data = json!({"at": "2026-11-20T10:00:45Z", "session_id": "s", "agent": "a1", "principal": "key:ci",
            "tenant": "acme", "rule": "no-prod", "phase": "tool_call", "action": "block", "mode": "enforce",
            "severity": "high", "owasp": "LLM06", "count": 1});
        let found = checked("policy.finding", &data);
        assert_eq!(
            (&found["class_uid"], &found["severity_id"], &found["disposition_id"]),
            (&json!(2004), &json!(4), &json!(2))
        );
        assert_eq!(found["metadata"]["profiles"], json!(["security_control"]));
        assert_eq!(found["evidences"][0]["actor"]["user"]["org"]["uid"], "acme");
        assert_eq!(found["time"], 1_795_168_845_000_i64);
        let mut audited = data;
        audited["mode"] = json!("audit");
        assert_eq!(checked("policy.finding", &audited)["disposition_id"], 15);
        let order = json!({"session_id": "s", "scope": "key:ci", "by": "key:ada", "reason": "runaway",
            "at": "2026-11-20T10:00:45Z", "legs_cut": 1});
        assert_eq!(checked("session.killed", &order)["message"], "runaway");
        let line = |action: &str, status: u64| {
            json!({"at": "2026-11-20T10:00:45Z", "operator": {"id": "key:ada", "address": "10.0.0.1"},
                "action": action, "target": "/control/keys/ci", "status": status})
        };
        for (action, status, class, activity) in [
            ("createKey", 201, 3004, 1),
            ("exportRecords", 200, 3004, 2),
            ("killSession", 200, 3004, 3),
            ("revokeKey", 403, 3004, 4),
            ("logIn", 200, 3002, 1),
            ("logIn", 401, 3002, 1),
            ("logOut", 200, 3002, 2),
        ] {
            let event = checked(super::super::AUDIT, &line(action, status));
            assert_eq!(
                (&event["class_uid"], &event["activity_id"]),
                (&json!(class), &json!(activity)),
                "{action}"
            );
            assert_eq!(event["status_id"], if status < 400 { 1 } else { 2 }, "{action}");
        }
        assert_eq!(event("session.started", &json!({}), 0, "x"), None);
    }
}
