//! This instance's share of a session that other instances have as well.

use crate::clock::{Clock, Moment};
use crate::session::core::request::SessionRequest;
use crate::session::core::session::Session;
use crate::session::views::session_view::SessionView;

impl Session {
    /// This instance's share of an incarnation that it has opened or joined.
    pub(in crate::session) fn shared(
        session: &SessionView,
        share: u32,
        is_opener: bool,
        now: Moment,
        clock: &Clock,
    ) -> Self {
        let request = SessionRequest {
            key: session.key().clone(),
            identity: session.identity.clone(),
            principal: session.principal.id.clone(),
            membership: session.principal.membership(),
            accounts: Box::default(),
            client_addr: session.client_addr,
            counted_from: None,
            idle_gap: None,
        };
        Self {
            uid: session.uid,
            kind: session.kind,
            incarnation: session.incarnation,
            previous: session.previous_id,
            started: clock.moment(session.started_at).min(now),
            share,
            is_opener,
            ..Self::new(request, None, now)
        }
    }

    /// True if this instance opened the incarnation.
    pub(in crate::session) fn is_opener(&self) -> bool {
        self.is_opener
    }

    /// The number of this instance's share; 0 if the session is not shared.
    pub(in crate::session) fn share(&self) -> u32 {
        self.share
    }
}
