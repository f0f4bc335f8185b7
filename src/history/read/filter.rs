//! Which records a query asks for, and how it groups them.

use super::time_range::TimeRange;

/// The longest text that is searched for, in bytes.
const MAX_SEARCH_CHARS: usize = 256;

/// What a record must agree with; an absent word asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordFilter {
    /// By the end of the session.
    pub range: TimeRange,
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

impl RecordFilter {
    /// The condition for `records`, and the values in it.
    pub(in crate::history) fn condition(&self) -> (String, Vec<rusqlite::types::Value>) {
        let (from, to) = self.range.bounds();
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
        let needle = self
            .q
            .as_deref()
            .map(|text| text.chars().take(MAX_SEARCH_CHARS).collect::<String>().to_lowercase());
        let searched = "instr(lower(session_id || ' ' || uid || ' ' || principal || ' ' || coalesce(client, '')), ?) > 0";
        and(searched, 1, &needle);
        (sql, values)
    }
}

/// The length of one point of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day (UTC).
    Day,
}

impl Interval {
    /// Reads the word of the API.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "minute" => Some(Self::Minute),
            "hour" => Some(Self::Hour),
            "day" => Some(Self::Day),
            _ => None,
        }
    }

    pub(in crate::history) fn millis(self) -> i64 {
        match self {
            Self::Minute => 60_000,
            Self::Hour => 3_600_000,
            Self::Day => 86_400_000,
        }
    }
}

/// What usage is summed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// Who called.
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

impl GroupBy {
    /// Reads the word of the API.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "principal" => Some(Self::Principal),
            "model" => Some(Self::Model),
            "client" => Some(Self::Client),
            "backend" => Some(Self::Backend),
            "session" => Some(Self::Session),
            _ => None,
        }
    }

    /// The column.
    pub(in crate::history) fn column(self) -> &'static str {
        match self {
            Self::Principal => "principal",
            Self::Model => "model",
            Self::Client => "client",
            Self::Backend => "backend",
            Self::Session => "session_id",
        }
    }
}
