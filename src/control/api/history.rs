//! Records of ended sessions, their requests, events, captures and sums.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::params::{Cursor, Limit, Time};
use crate::history::read::export::Format;
use crate::history::read::filter::{GroupBy, Interval, RecordFilter};
use crate::history::read::reader::EventLine;
use crate::history::read::sums::{Point, UsageLine, UsagePoint};
use crate::history::read::time_range::TimeRange;
use crate::identity::roles::Reach;
use crate::ids::{BackendName, RequestId, SessionId, Uid};

/// Items on a page of the history: 100, at most 1000.
pub type HistoryLimit = Limit<100, 1000>;
/// Captures on a page: 20, at most 100, since each may hold two bodies.
pub type CaptureLimit = Limit<20, 100>;

/// Defines a query that selects records, with further parameters.
macro_rules! record_query {
    ($(#[$doc:meta])* $query:ident { $($(#[$more:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $query {
            /// Sessions that ended at this time or later: a time, or an age such as `24h`.
            pub from: Option<Time>,
            /// Sessions that ended before this time.
            pub to: Option<Time>,
            /// Sessions that ended in this state.
            pub state: Option<FinalState>,
            /// Sessions of this principal, exactly.
            pub principal: Option<String>,
            /// Sessions of principals of this tenant.
            pub tenant: Option<String>,
            /// Sessions of principals in this group.
            pub group: Option<String>,
            /// Sessions of this client program, with or without its version.
            pub client: Option<String>,
            /// Sessions most of whose requests this backend served.
            pub backend: Option<String>,
            /// Sessions that used this model.
            pub model: Option<String>,
            /// A part of the id, uid, principal or client; case is ignored.
            pub q: Option<String>,
            $($(#[$more])* pub $field: $type,)*
        }

        impl $query {
            /// Returns the filter of the history, for the records within reach.
            pub fn filter(&self, reach: &Reach) -> RecordFilter {
                RecordFilter {
                    range: range(self.from, self.to),
                    state: self.state.map(|state| state.name().to_owned()),
                    principal: self.principal.clone(),
                    tenant: self.tenant.clone(),
                    group: self.group.clone(),
                    client: self.client.clone(),
                    backend: self.backend.clone(),
                    model: self.model.clone(),
                    q: self.q.clone(),
                    tenants: reach.tenants(),
                }
            }
        }
    };
}

record_query! {
    /// Query of `GET /control/history`.
    HistoryQuery {
        /// Records on this page.
        limit: HistoryLimit,
        /// `next_cursor` of the page before.
        cursor: Option<Cursor>,
    }
}

record_query! {
    /// Query of `GET /control/history/series`.
    SeriesQuery {
        /// The length of one point; days are days in UTC.
        step: Interval,
    }
}

record_query! {
    /// Query of `GET /control/usage`.
    UsageQuery {
        /// What requests, tokens and cost are summed by.
        by: GroupBy,
    }
}

record_query! {
    /// Query of `GET /control/usage/series`.
    UsageSeriesQuery {
        /// What requests, tokens and cost are summed by.
        by: GroupBy,
        /// The length of one interval; days are days in UTC.
        step: Interval,
    }
}

/// Query of `GET /control/history/events`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EventsQuery {
    /// Events of this type, such as `session_killed`.
    pub r#type: Option<String>,
    /// Events at this time or later: a time, or an age such as `24h`.
    pub from: Option<Time>,
    /// Events before this time.
    pub to: Option<Time>,
    /// Events on this page.
    pub limit: HistoryLimit,
    /// `next_cursor` of the page before.
    pub cursor: Option<Cursor>,
}

impl EventsQuery {
    /// Returns the time range.
    pub fn range(&self) -> TimeRange {
        range(self.from, self.to)
    }
}

/// Query of `GET /control/records/{id}/requests`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RequestsQuery {
    /// Requests on this page.
    pub limit: HistoryLimit,
    /// `next_cursor` of the page before.
    pub cursor: Option<Cursor>,
}

/// Query of `GET /control/history/{id}/captures`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CapturesQuery {
    /// Captures on this page; fewer where the page would be large.
    pub limit: CaptureLimit,
    /// `next_cursor` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<Cursor>,
}

/// Query of `GET /control/records/export`. It takes no filter: the hash chain must have no gap.
/// The command line passes times on as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(bound = "T: JsonSchema + Default + Serialize")]
pub struct ExportQuery<T = Time> {
    /// What to export.
    pub of: ExportKind,
    /// The file format.
    pub format: Format,
    /// Sessions or requests that ended at this time or later: a time, or an age such as `24h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<T>,
    /// Sessions or requests that ended before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<T>,
}

impl ExportQuery {
    /// Returns the time range.
    pub fn range(&self) -> TimeRange {
        range(self.from, self.to)
    }
}

fn range(from: Option<Time>, to: Option<Time>) -> TimeRange {
    TimeRange { from: from.map(|Time(time)| time), to: to.map(|Time(time)| time) }
}

/// State in which a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinalState {
    /// It ended by itself.
    Completed,
    /// A kill order ended it.
    Killed,
    /// It was idle or alive for too long.
    TimedOut,
}

impl FinalState {
    fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Killed => "killed",
            Self::TimedOut => "timed_out",
        }
    }
}

/// What an export holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExportKind {
    /// Records of ended sessions, in the order of the hash chain.
    #[default]
    Records,
    /// Requests, in the order in which they ended.
    Requests,
}

/// Answer of `GET /control/history/events`: events, newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EventPage {
    /// The events.
    pub events: Vec<EventLine>,
    /// Cursor of the next page; null on the last one.
    pub next_cursor: Option<String>,
}

/// Answer of `GET /control/history/series`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Series {
    /// Sums over the sessions that ended in each step, in order; steps without any are left out.
    pub points: Vec<Point>,
    /// Whether older steps were left out: at most the newest 10,000 are returned. `to` leads to older ones.
    pub truncated: bool,
}

/// Answer of `GET /control/usage`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct UsageReport {
    /// One line per name, the most expensive first; at most 1000.
    pub usage: Vec<UsageLine>,
}

/// Answer of `GET /control/usage/series`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct UsageSeries {
    /// One line per name and interval, the oldest first; intervals without usage are left out.
    pub points: Vec<UsagePoint>,
    /// Whether older lines were left out: at most the newest 10,000 are returned. `to` leads to older ones.
    pub truncated: bool,
}

/// Answer of `GET /control/history/{id}/captures`: captures, newest first. The routes pass the stored JSON on as it is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "CapturePage")]
pub struct CapturePage<C = Capture> {
    /// The captures.
    pub captures: Vec<C>,
    /// Cursor of the next page; null on the last one.
    pub next_cursor: Option<String>,
}

/// A request with its bodies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Capture {
    /// When it ended.
    pub at: Timestamp,
    /// The request's id.
    pub request_id: RequestId,
    /// The session id.
    pub session_id: SessionId,
    /// The incarnation of the session.
    pub uid: Uid,
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The backend that served it.
    pub backend: Option<BackendName>,
    /// The model.
    pub model: Option<String>,
    /// The status sent to the client.
    pub status: Option<u16>,
    /// How it ended, such as `ok` or `session_killed`.
    pub outcome: String,
    /// Milliseconds from the end of the head to the first attempt at a backend; absent when none was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<u64>,
    /// Whether `capture.redact` was on.
    pub redacted: bool,
    /// The request body as the client sent it.
    pub request: CapturedBody,
    /// The response body as it was sent to the client.
    pub response: CapturedBody,
}

/// A captured body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CapturedBody {
    /// The media type, as the message declares it.
    pub content_type: Option<String>,
    /// The content coding in which it passed; the body is stored decoded.
    pub content_encoding: Option<String>,
    /// Bytes of the whole body as it passed.
    pub bytes: u64,
    /// Whether the end is missing.
    pub truncated: bool,
    /// The text; null when it was not kept.
    pub body: Option<String>,
    /// Why there is no text: `binary` or `content_encoding`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub omitted: Option<String>,
}
