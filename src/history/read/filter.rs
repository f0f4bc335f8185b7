//! Which records a query asks for, and how it groups them.

use super::time_range::TimeRange;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The longest search text, in characters; the rest is ignored.
const MAX_SEARCH_CHARS: usize = 256;

/// The groups of the caller of a record, as an SQL table.
const GROUPS: &str = "json_each(iif(json_valid(body), body, '{}'), '$.groups')";

/// Selects records. A `None` field matches every record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordFilter {
    /// When the session ended.
    pub range: TimeRange,
    /// `completed`, `killed` or `timed_out`.
    pub state: Option<String>,
    /// The caller.
    pub principal: Option<String>,
    /// The tenant of the caller.
    pub tenant: Option<String>,
    /// A group of the caller.
    pub group: Option<String>,
    /// The client program, with or without its version.
    pub client: Option<String>,
    /// The backend that served most of its requests.
    pub backend: Option<String>,
    /// A model that the session used.
    pub model: Option<String>,
    /// Text to find in the id, uid, principal or client; case is ignored.
    pub q: Option<String>,
    /// The tenants of the callers; all if empty.
    pub tenants: Vec<String>,
}

impl RecordFilter {
    /// Returns a SQL condition on the table `records`, and its parameters.
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
        and("tenant = ?", 1, &self.tenant);
        and(&format!("EXISTS (SELECT 1 FROM {GROUPS} WHERE value = ?)"), 1, &self.group);
        and("(client = ? OR substr(client, 1, instr(client, '/') - 1) = ?)", 2, &self.client);
        and("backend = ?", 1, &self.backend);
        and("seq IN (SELECT seq FROM usage WHERE model = ?)", 1, &self.model);
        let needle = self
            .q
            .as_deref()
            .map(|text| text.chars().take(MAX_SEARCH_CHARS).collect::<String>().to_lowercase());
        let searched = "instr(lower(session_id || ' ' || uid || ' ' || principal || ' ' || coalesce(client, '')), ?) > 0";
        and(searched, 1, &needle);
        if let Some(tenants) = of_tenants(&self.tenants) {
            sql.push_str(" AND ");
            sql.push_str(&tenants);
            values.extend(self.tenants.iter().cloned().map(rusqlite::types::Value::from));
        }
        (sql, values)
    }
}

/// Returns a SQL condition on the table `records`: the caller is of one of these tenants, which are its parameters; `None`
/// for all.
pub(in crate::history) fn of_tenants(tenants: &[String]) -> Option<String> {
    let places = vec!["?"; tenants.len()].join(", ");
    (!tenants.is_empty()).then(|| format!("tenant IN ({places})"))
}

/// The length of one interval of a time series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Interval {
    /// A minute.
    Minute,
    /// An hour.
    #[default]
    Hour,
    /// A day (UTC).
    Day,
}

impl Interval {
    pub(in crate::history) fn millis(self) -> i64 {
        match self {
            Self::Minute => 60_000,
            Self::Hour => 3_600_000,
            Self::Day => 86_400_000,
        }
    }
}

/// What usage is grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GroupBy {
    /// The caller.
    #[default]
    Principal,
    /// The tenant of the caller.
    Tenant,
    /// A group of the caller: who is in several is counted in each.
    Group,
    /// The model.
    Model,
    /// The client program and its version.
    Client,
    /// The backend that served most of the session's requests.
    Backend,
    /// The session.
    Session,
}

impl GroupBy {
    /// What is joined to `records` and `usage` for the column.
    pub(in crate::history) fn joined(self) -> String {
        match self {
            Self::Group => format!(" LEFT JOIN {GROUPS} AS member"),
            Self::Principal | Self::Tenant | Self::Model | Self::Client | Self::Backend | Self::Session => {
                String::new()
            }
        }
    }

    /// The column of `records` or `usage`.
    pub(in crate::history) fn column(self) -> &'static str {
        match self {
            Self::Principal => "principal",
            Self::Tenant => "tenant",
            Self::Group => "member.value",
            Self::Model => "model",
            Self::Client => "client",
            Self::Backend => "backend",
            Self::Session => "session_id",
        }
    }
}
