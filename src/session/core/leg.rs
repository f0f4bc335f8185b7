//! An open leg: the guard that counts it until it is settled or dropped.

use std::sync::Arc;

use super::manager::Manager;
use super::request::LegReport;
use super::session::Session;
use crate::ids::{BackendName, LegId};
use crate::protocol::offer::Offer;
use crate::protocol::usage::Usage;
use crate::session::views::kill_order::KillOrder;

/// An open leg. It counts until it is settled or dropped, whichever comes first; a future that is
/// dropped in mid-air therefore still leaves its session in order.
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

    /// The session it belongs to.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Its id in this process.
    pub fn id(&self) -> LegId {
        self.id
    }

    /// The order that cut it, against its agent or its session.
    pub fn kill_order(&self) -> Option<Arc<KillOrder>> {
        self.session.order_refusing(self.id, self.manager.clock.now())
    }

    /// Notes where the leg goes, for whoever looks at it while it is open.
    pub fn routed(&self, backend: &BackendName, model: Option<&str>) {
        self.session.routed(self.id, backend, model);
    }

    /// Notes what the request of the leg offers the model.
    pub fn offers(&self, offer: &Offer) {
        self.session.offers(self.id, offer);
    }

    /// Notes that another backend took the place of the one it went to.
    pub fn rerouted(&self, backend: &BackendName) {
        self.session.rerouted(self.id, backend);
    }

    /// Counts the tokens of an answer inside the leg, which goes on: a socket carries many.
    pub fn add_usage(&self, model: Option<&str>, usage: Usage) {
        self.session.add_usage(self.id, model, usage);
    }

    /// Closes the leg with its report; a second report changes nothing.
    pub fn settle(&mut self, report: LegReport) {
        self.close(Some(report));
    }

    /// Takes the leg out of its session as if it had never been there, with the bytes it brought: it has
    /// turned out to belong to another one.
    pub fn withdraw(mut self, bytes_in: u64) {
        self.open = false;
        self.manager.withdraw(&self.session, self.id, bytes_in);
    }

    fn close(&mut self, report: Option<LegReport>) {
        if std::mem::take(&mut self.open) {
            self.manager.close(&self.session, self.id, report);
        }
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        self.close(None);
    }
}
