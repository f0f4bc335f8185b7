//! What the `when` of a webhook may ask of an event: the facts of the session that it is about, as far as the event has them.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value as Json;

use crate::policy::facts::{Fact, Facts, Value};

/// The facts of an event, whose JSON is that of the event feed.
pub(super) struct EventFacts<'a> {
    pub(super) data: &'a Json,
    pub(super) now: Timestamp,
}

impl EventFacts<'_> {
    /// The first of these members that is there. Views nest what records have at the top.
    fn member(&self, paths: &[&str]) -> Option<&Json> {
        paths
            .iter()
            .filter_map(|path| self.data.pointer(path))
            .find(|value| !value.is_null() && !value.is_object())
    }

    fn text(&self, paths: &[&str]) -> Value<'_> {
        self.member(paths).and_then(Json::as_str).map_or(Value::Unknown, |text| Value::text(Some(text)))
    }

    fn number(&self, paths: &[&str]) -> Value<'_> {
        self.member(paths).and_then(Json::as_u64).map_or(Value::Unknown, Value::count)
    }

    fn member_of_map(&self, paths: &[&str], key: &str) -> Option<&str> {
        paths.iter().find_map(|path| self.data.pointer(path)?.get(key)?.as_str())
    }

    fn principal(&self) -> Option<&str> {
        let principal = self.member(&["/principal/id", "/principal"])?.as_str()?;
        Some(principal)
    }

    fn groups(&self) -> impl Iterator<Item = &str> {
        let groups =
            ["/principal/groups", "/groups"].iter().find_map(|path| self.data.pointer(path)?.as_array());
        groups.into_iter().flatten().filter_map(Json::as_str)
    }

    /// What a session view or a record leaves out is absent; any other event does not tell it.
    fn optional(&self, paths: &[&str]) -> Value<'_> {
        match self.text(paths) {
            Value::Unknown if self.principal().is_some() => Value::Absent,
            value => value,
        }
    }
}

impl Facts for EventFacts<'_> {
    fn get(&self, fact: Fact) -> Value<'_> {
        let utc = || self.now.to_zoned(TimeZone::UTC);
        match fact {
            Fact::PrincipalId => self.principal().map_or(Value::Unknown, |id| Value::text(Some(id))),
            Fact::PrincipalKind => {
                self.principal().map_or(Value::Unknown, |id| Value::text(id.split(':').next()))
            }
            Fact::PrincipalTenant => self.optional(&["/principal/tenant", "/tenant"]),
            Fact::ClientName => self.optional(&["/identity/client", "/client"]),
            Fact::ClientVersion => self.optional(&["/identity/client_version"]),
            Fact::ClientAddr => self.text(&["/client_addr"]),
            Fact::SessionId => self.text(&["/session_id", "/id"]),
            Fact::SessionAge => match self.number(&["/duration_ms"]) {
                Value::Int(millis) => Value::Int(millis / 1000),
                other => other,
            },
            Fact::SessionRequests => self.number(&["/request_count"]),
            Fact::SessionToolCalls => {
                self.data.pointer("/tools").and_then(Json::as_object).map_or(Value::Unknown, |tools| {
                    Value::count(tools.values().filter_map(Json::as_u64).sum())
                })
            }
            Fact::UsageInputTokens => self.number(&["/usage/input_tokens"]),
            Fact::UsageOutputTokens => self.number(&["/usage/output_tokens"]),
            Fact::UsageCost => {
                self.member(&["/usage/cost_usd"]).and_then(Json::as_f64).map_or(Value::Unknown, Value::Float)
            }
            Fact::TimeHour => Value::Int(utc().hour().into()),
            Fact::TimeWeekday => Value::Int(utc().weekday().to_sunday_zero_offset().into()),
            _ => Value::Unknown,
        }
    }

    fn entry(&self, fact: Fact, key: &str) -> Value<'_> {
        match (fact, self.member_of_map(&["/principal/labels", "/labels"], key)) {
            (Fact::PrincipalLabels, Some(text)) => Value::text(Some(text)),
            (Fact::PrincipalLabels, None) if self.principal().is_some() => Value::Absent,
            _ => Value::Unknown,
        }
    }

    fn has(&self, _: Fact, text: &str) -> bool {
        self.groups().any(|group| group == text)
    }

    fn count(&self, _: Fact) -> usize {
        self.groups().count()
    }
}
