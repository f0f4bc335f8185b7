//! The JSON of a session that instances share: a version, what the control API shows, and what only the record
//! needs. The shares of several instances add up to one session.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{BackendName, Scope, SessionKey, Uid};
use crate::session::views::agent_view::AgentView;
use crate::session::views::kill_order::KillOrder;
use crate::session::views::record::{Record, RecordDetail};
use crate::session::views::request_line::LAST_REQUESTS;
use crate::session::views::session_view::SessionView;
use crate::session::views::state::{EndReason, SessionState};

/// The version that is written, and the only one that is read, because a newer version may mean anything.
const VERSION: u32 = 1;

/// A session, or one instance's share of it. Scripts use the first keys and the last two.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::session) struct ShareDocument {
    v: u32,
    state: SessionState,
    uid: Uid,
    scope: Scope,
    session: SessionView,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    more: Option<RecordDetail>,
    incarnation: u32,
    previous_id: Option<Uid>,
}

/// When and why an incarnation ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::session) struct EndNote {
    v: u32,
    pub(in crate::session) reason: EndReason,
    pub(in crate::session) at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::session) order: Option<Arc<KillOrder>>,
}

impl EndNote {
    pub(in crate::session) fn new(reason: EndReason, at: Timestamp, order: Option<Arc<KillOrder>>) -> Self {
        Self { v: VERSION, reason, at, order }
    }

    pub(in crate::session) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().filter(|note: &Self| note.v == VERSION)
    }

    pub(in crate::session) fn write(&self) -> String {
        written(self)
    }
}

impl ShareDocument {
    /// The document of a session, or with `more` of a share.
    pub(in crate::session) fn new(session: SessionView, more: Option<RecordDetail>) -> Self {
        Self {
            v: VERSION,
            state: session.state,
            uid: session.uid,
            scope: session.key.scope.clone(),
            incarnation: session.incarnation,
            previous_id: session.previous_id,
            session,
            more,
        }
    }

    /// Parses a document; `None` if it is invalid or of another version.
    pub(in crate::session) fn read(text: &str) -> Option<Self> {
        let mut doc: Self = serde_json::from_str(text).ok().filter(|doc: &Self| doc.v == VERSION)?;
        doc.session.key = SessionKey { scope: doc.scope.clone(), id: doc.session.id.clone() };
        (doc.session.incarnation, doc.session.previous_id) = (doc.incarnation, doc.previous_id);
        doc.session.uid = doc.uid;
        Some(doc)
    }

    pub(in crate::session) fn write(&self) -> String {
        written(self)
    }

    /// The text up to the two keys that the script adds.
    pub(in crate::session) fn open_text(&self) -> String {
        let mut text = self.write();
        // The last occurrence is the key, because quotes within strings are escaped.
        text.truncate(text.rfind(",\"incarnation\":").unwrap_or(text.len()));
        text
    }

    /// The document of the session that this one is a share of.
    pub(in crate::session) fn of_session(&self) -> Self {
        Self { session: self.session.brief(), more: None, ..self.clone() }
    }

    pub(in crate::session) fn key(&self) -> &SessionKey {
        &self.session.key
    }

    pub(in crate::session) fn uid(&self) -> Uid {
        self.uid
    }

    pub(in crate::session) fn session(self) -> SessionView {
        self.session
    }
}

fn written(value: &impl Serialize) -> String {
    // Fails only for maps whose keys are not strings; there are none.
    serde_json::to_string(value).unwrap_or_default()
}

/// The sum of all shares of an incarnation.
#[derive(Clone, Debug)]
pub(in crate::session) struct MergedShares {
    pub(in crate::session) session: SessionView,
    more: RecordDetail,
    end: Option<EndNote>,
}

impl MergedShares {
    /// Adds up the fields of an incarnation's hash; unreadable shares are skipped. `None` if there is no share.
    pub(in crate::session) fn of(fields: impl IntoIterator<Item = (String, String)>) -> Option<Self> {
        let (mut whole, mut end): (Option<Self>, _) = (None, None);
        for (field, text) in fields {
            if field == "end" {
                end = EndNote::read(&text);
            } else if field.starts_with("o:") || field.starts_with("c:") {
                let Some(ShareDocument { mut session, more, .. }) = ShareDocument::read(&text) else {
                    continue;
                };
                if field.starts_with("c:") {
                    session.legs = Some(Vec::new());
                    session.open_legs = 0;
                }
                let more = more.unwrap_or_default();
                match &mut whole {
                    Some(whole) => whole.add(session, more),
                    None => whole = Some(Self { session, more, end: None }),
                }
            }
        }
        let mut whole = whole?;
        whole.finish(end);
        Some(whole)
    }

    fn add(&mut self, other: SessionView, more: RecordDetail) {
        let mine = &mut self.session;
        mine.last_activity = mine.last_activity.max(other.last_activity);
        mine.request_count += other.request_count;
        mine.error_count += other.error_count;
        mine.open_legs += other.open_legs;
        mine.bytes_in += other.bytes_in;
        mine.bytes_out += other.bytes_out;
        mine.usage += other.usage;
        mine.tools.add_all(&other.tools);
        for (backend, requests) in other.backends {
            *mine.backends.entry(backend).or_default() += requests;
        }
        for (model, requests) in other.models {
            *mine.models.entry(model).or_default() += requests;
        }
        mine.legs.get_or_insert_default().extend(other.legs.unwrap_or_default());
        let requests = mine.requests.get_or_insert_default();
        requests.extend(other.requests.unwrap_or_default());
        requests.sort_by_key(|line| std::cmp::Reverse(line.started_at));
        requests.truncate(LAST_REQUESTS);
        for agent in other.agents.unwrap_or_default() {
            let agents = mine.agents.get_or_insert_default();
            match agents.iter_mut().find(|known| known.id == agent.id) {
                Some(known) => known.add(&agent),
                None => agents.push(agent),
            }
        }
        self.more.add(more);
    }

    fn finish(&mut self, end: Option<EndNote>) {
        let session = &mut self.session;
        session.state = SessionState::Active;
        let until = match &end {
            Some(end) => {
                (session.state, session.ended_at, session.end_reason) =
                    (end.reason.state(), Some(end.at), Some(end.reason));
                session.kill.clone_from(&end.order);
                session.idle_ms = 0;
                end.at
            }
            None => {
                (session.ended_at, session.end_reason, session.kill) = (None, None, None);
                let now = Timestamp::now();
                session.idle_ms = between(session.last_activity, now);
                now
            }
        };
        session.duration_ms = between(session.started_at, until);
        self.end = end;
    }

    /// Turns this into an incarnation of its own that follows the one of its shares.
    pub(in crate::session) fn make_separate(&mut self) {
        self.session.previous_id = Some(self.session.uid);
        self.session.uid = Uid::fresh();
    }

    /// When and why it ended; `None` while it is active.
    pub(in crate::session) fn end(&self) -> Option<EndNote> {
        self.end.clone()
    }

    /// The record of an incarnation that has ended; `None` while it is active.
    pub(in crate::session) fn record(
        &self,
        backend_url: impl FnOnce(&BackendName) -> Arc<str>,
    ) -> Option<Record> {
        Record::new(self.session.clone(), self.more.clone(), backend_url)
    }
}

impl AgentView {
    /// Adds the totals of the same agent on another instance.
    fn add(&mut self, other: &Self) {
        if other.state == SessionState::Killed {
            self.state = SessionState::Killed;
        }
        self.first_seen = self.first_seen.min(other.first_seen);
        self.last_seen = self.last_seen.max(other.last_seen);
        self.requests += other.requests;
        self.open_legs += other.open_legs;
        self.usage += other.usage;
    }
}

impl RecordDetail {
    fn add(&mut self, other: Self) {
        for used in other.models {
            match self.models.iter_mut().find(|known| known.model == used.model) {
                Some(known) => {
                    known.requests += used.requests;
                    known.usage += used.usage;
                }
                None => self.models.push(used),
            }
        }
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
        self.ttfb.merge(&other.ttfb);
        self.failovers += other.failovers;
        for agent in other.agents {
            if !self.agents.contains(&agent) {
                self.agents.push(agent);
            }
        }
        for order in other.agent_kills {
            if !self.agent_kills.iter().any(|known| known.agent == order.agent && known.at >= order.at) {
                self.agent_kills.retain(|known| known.agent != order.agent);
                self.agent_kills.push(order);
            }
        }
    }
}

/// Milliseconds between two times; 0 if clocks of two machines disagree.
fn between(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.duration_since(from).as_millis()).unwrap_or(0)
}
