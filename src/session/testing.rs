//! Fixtures for tests of sessions.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::clock::Clock;
use crate::ids::{AgentId, PrincipalId, RequestId, Scope, SessionId, SessionKey};
use crate::session::core::cut::Cut;
use crate::session::core::event::Event;
use crate::session::core::manager::Manager;
use crate::session::core::request::{LegStart, SessionRequest};
use crate::session::settings::{SessionConfig, Settings};
use crate::session::store::MemoryStore;
use crate::session::views::record::Record;
use crate::session::views::request_line::LegKind;
use crate::session::views::state::Identity;
use crate::settings::fault::Faults;

/// A request of a principal.
pub(crate) fn arrival_of(principal: &str, id: &str) -> SessionRequest {
    SessionRequest {
        key: SessionKey { scope: Scope::new(principal), id: SessionId::new(id) },
        identity: Identity {
            source: "header:x-session-id".into(),
            client: Some("curl".into()),
            client_version: Some("8.5.0".to_owned()),
            ..Identity::default()
        },
        principal: PrincipalId::new(principal),
        membership: None,
        accounts: Box::default(),
        client_addr: [10, 0, 0, 5].into(),
        counted_from: None,
        idle_gap: None,
    }
}

/// A request of `cred:ada`.
pub(crate) fn arrival(id: &str) -> SessionRequest {
    arrival_of("cred:ada", id)
}

/// A request of an agent; an empty name means the main agent, an empty parent is not sent.
pub(crate) fn agent_arrival(id: &str, agent: &str, parent: &str) -> SessionRequest {
    let name = |name: &str| (!name.is_empty()).then(|| AgentId::new(name));
    let mut arrival = arrival(id);
    (arrival.identity.agent_id, arrival.identity.parent_agent_id) = (name(agent), name(parent));
    arrival
}

/// The start of a leg.
pub(crate) fn leg_start() -> LegStart {
    LegStart {
        kind: LegKind::Request,
        method: "POST".into(),
        path: "/v1/messages".to_owned(),
        request_id: RequestId::new("r-1"),
        cut: Cut::new(),
        validity: Arc::default(),
    }
}

/// Settings from YAML.
pub(crate) fn settings(yaml: &str) -> Settings {
    let written: SessionConfig = serde_yaml::from_str(yaml).unwrap();
    written.compile(&mut Faults::default()).unwrap()
}

/// A manager with a manual clock and the events it has published.
pub(crate) struct TestManager {
    pub(crate) manager: Arc<Manager>,
    pub(crate) clock: Clock,
    pub(crate) events: Arc<Mutex<Vec<Event>>>,
}

impl TestManager {
    pub(crate) fn new(yaml: &str) -> Self {
        let (clock, events) = (Clock::manual(), Arc::<Mutex<Vec<Event>>>::default());
        let heard = events.clone();
        let listener = Arc::new(move |event: &Event| heard.lock().push(event.clone()));
        let store = Arc::new(MemoryStore::default());
        Self { manager: Manager::new(settings(yaml), clock.clone(), store, listener), clock, events }
    }

    pub(crate) fn records(&self) -> Vec<Arc<Record>> {
        let events = self.events.lock();
        let record =
            |event: &Event| if let Event::Ended(record) = event { Some(record.clone()) } else { None };
        events.iter().filter_map(record).collect()
    }

    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.events.lock().iter().map(Event::name).collect()
    }
}
