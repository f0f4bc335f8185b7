//! Which records are asked for: a time, and words that must agree.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The longest text that is searched for, in bytes.
const NEEDLE: usize = 256;

/// A span of time by the end of the sessions; an absent side is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Not before.
    pub from: Option<Timestamp>,
    /// Before.
    pub to: Option<Timestamp>,
}

impl Window {
    /// Both sides in milliseconds since 1970.
    pub(super) fn bounds(&self) -> (i64, i64) {
        (
            self.from.map_or(i64::MIN, Timestamp::as_millisecond),
            self.to.map_or(i64::MAX, Timestamp::as_millisecond),
        )
    }
}

/// A time as people write it: `2026-11-20T10:00:00Z` (RFC 3339), or `24h`, so long before `now`. `None` when
/// it is neither.
pub fn read_time(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Ok(time) = text.parse() {
        return Some(time);
    }
    let ago = humantime::parse_duration(text).ok()?;
    now.checked_sub(jiff::SignedDuration::try_from(ago).ok()?).ok()
}

/// What a record must agree with; an absent word asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// By the end of the session.
    pub window: Window,
    /// `completed`, `killed` or `timed_out`.
    pub state: Option<String>,
    /// Whose it was.
    pub principal: Option<String>,
    /// The program, with or without its version.
    pub client: Option<String>,
    /// The backend that served most of it.
    pub backend: Option<String>,
    /// A model that it used.
    pub model: Option<String>,
    /// A text in its id, uid, principal or client.
    pub q: Option<String>,
}

impl Wanted {
    /// The condition for `records`, and the values in it.
    pub(super) fn condition(&self) -> (String, Vec<rusqlite::types::Value>) {
        let (from, to) = self.window.bounds();
        let mut sql = "ended_ms >= ? AND ended_ms < ?".to_owned();
        let mut values: Vec<rusqlite::types::Value> = vec![from.into(), to.into()];
        let mut and = |part: &str, times: usize, value: &Option<String>| {
            let Some(value) = value else { return };
            sql.push_str(" AND ");
            sql.push_str(part);
            values.extend(std::iter::repeat_n(rusqlite::types::Value::from(value.clone()), times));
        };
        and("state = ?", 1, &self.state);
        and("principal = ?", 1, &self.principal);
        and("(client = ? OR substr(client, 1, instr(client, '/') - 1) = ?)", 2, &self.client);
        and("backend = ?", 1, &self.backend);
        and("seq IN (SELECT seq FROM usage WHERE model = ?)", 1, &self.model);
        let needle =
            self.q.as_deref().map(|text| text.chars().take(NEEDLE).collect::<String>().to_lowercase());
        let searched = "instr(lower(session_id || ' ' || uid || ' ' || principal || ' ' || coalesce(client, '')), ?) > 0";
        and(searched, 1, &needle);
        (sql, values)
    }
}

/// The length of one point of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// A minute.
    Minute,
    /// An hour.
    #[default]
    Hour,
    /// A day (UTC).
    Day,
}

impl Step {
    pub(super) fn millis(self) -> i64 {
        match self {
            Self::Minute => 60_000,
            Self::Hour => 3_600_000,
            Self::Day => 86_400_000,
        }
    }
}

/// What usage is summed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Who called.
    #[default]
    Principal,
    /// The model.
    Model,
    /// The program and its version.
    Client,
    /// The backend that served most of a session.
    Backend,
    /// The session.
    Session,
}

impl By {
    /// The column.
    pub(super) fn column(self) -> &'static str {
        match self {
            Self::Principal => "principal",
            Self::Model => "model",
            Self::Client => "client",
            Self::Backend => "backend",
            Self::Session => "session_id",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let now: Timestamp = "2026-11-20T10:00:00Z".parse().unwrap();
        assert_eq!(read_time("24h", now), "2026-11-19T10:00:00Z".parse().ok());
        assert_eq!(read_time("2026-01-02T03:04:05+02:00", now), "2026-01-02T01:04:05Z".parse().ok());
        for text in ["", "yesterday", "-1h", "2026-13-01T00:00:00Z", "99999999999y"] {
            assert_eq!(read_time(text, now), None, "{text}");
        }
    }
}
