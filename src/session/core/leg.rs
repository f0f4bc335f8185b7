//! An open leg: the guard that counts it until it is settled or dropped.

use std::sync::Arc;

use super::manager::Manager;
use super::session::Session;
use crate::ids::{AgentId, BackendName, LegId};
use crate::protocol::facts::tools_offered::ToolsOffered;
use crate::protocol::facts::usage::Usage;
use crate::session::views::kill_order::KillOrder;
use crate::summary::RequestSummary;

/// An open leg. It counts until it is settled or dropped, whichever comes first, so that a cancelled future leaves
/// its session consistent.
#[derive(Debug)]
pub struct Leg {
    session: Arc<Session>,
    manager: Arc<Manager>,
    id: LegId,
    open: bool,
}

impl Leg {
    pub(in crate::session) fn new(session: Arc<Session>, manager: Arc<Manager>, id: LegId) -> Self {
        Self { session, manager, id, open: true }
    }

    /// The session of the leg.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The id of the leg; unique in this process.
    pub fn id(&self) -> LegId {
        self.id
    }

    /// The order that cut it, against its agent or its session.
    pub fn kill_order(&self) -> Option<Arc<KillOrder>> {
        self.session.order_refusing(self.id, self.manager.clock.now())
    }

    /// The agent of the leg; `None` for the main one.
    pub fn agent(&self) -> Option<AgentId> {
        self.session.agent_of(self.id)
    }

    /// How many agents lie above that of the leg.
    pub fn agent_depth(&self) -> u64 {
        self.session.agent_depth(self.id)
    }

    /// Records where the request is sent, for views of the open leg.
    pub fn routed(&self, backend: &BackendName, model: Option<&str>) {
        self.session.routed(self.id, backend, model);
    }

    /// Records which tools the request offers.
    pub fn offers(&self, offer: &ToolsOffered) {
        self.session.offers(self.id, offer);
    }

    /// Records that the request failed over to another backend.
    pub fn rerouted(&self, backend: &BackendName) {
        self.session.rerouted(self.id, backend);
    }

    /// Adds token counts while the leg stays open: a socket carries many responses.
    pub fn add_usage(&self, model: Option<&str>, usage: Usage) {
        self.session.add_usage(self.id, model, usage);
    }

    /// Closes the leg with the summary of its request. A second one changes nothing. The byte totals of the session are
    /// counted as bytes pass (`Session::add_bytes_in`, `Session::add_bytes_out`).
    pub fn settle(&mut self, summary: &RequestSummary) {
        self.close(Some(summary));
    }

    /// Gives the places of its session in `limits` to the session that the leg moves to, if it is the only one so far.
    pub fn pass_places_on(&self) {
        self.session.pass_places_on();
    }

    /// Removes the leg, and the bytes it counted, as if it had never been opened: it turned out to belong to
    /// another session.
    pub fn withdraw(mut self, bytes_in: u64) {
        self.open = false;
        self.manager.withdraw(&self.session, self.id, bytes_in);
    }

    fn close(&mut self, summary: Option<&RequestSummary>) {
        if std::mem::take(&mut self.open) {
            self.manager.close(&self.session, self.id, summary);
        }
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        self.close(None);
    }
}
