//! Instances with a real redis-server, without their sync loops: each step is taken by the test.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fred::types::InfoKind;
use parking_lot::Mutex;

use super::Replicator;
use super::share_schedule::{FlushScope, SYNC_INTERVAL};
use crate::clock::Clock;
use crate::ids::AgentId;
use crate::session::core::cut::CutReason;
use crate::session::core::event::Event;
use crate::session::core::kill::KillRequest;
use crate::session::core::leg::Leg;
use crate::session::core::manager::Manager;
use crate::session::core::request::SessionRequest;
use crate::session::store::redis::Ended;
use crate::session::store::redis::testing::Server;
use crate::session::testing::{agent_arrival, arrival_of, leg_start, settings};
use crate::session::views::kill_order::KillOrder;
use crate::session::views::state::EndReason;

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

/// An instance of a fleet.
struct Instance {
    manager: Arc<Manager>,
    replicator: Arc<Replicator>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Instance {
    async fn start(server: &Server, name: &str, clock: Clock, yaml: &str) -> Self {
        let replicator = Arc::new(Replicator::new(Arc::new(server.store(name).await), None));
        let events = Arc::<Mutex<Vec<Event>>>::default();
        let heard = events.clone();
        let listener = Arc::new(move |event: &Event| heard.lock().push(event.clone()));
        let manager = replicator.manager(settings(yaml), clock, listener);
        Self { manager, replicator, events }
    }

    async fn admit(&self, request: SessionRequest) -> Leg {
        self.manager.admit(request, leg_start()).await.unwrap()
    }

    /// Opens a session and writes its share.
    async fn open(&self, request: SessionRequest) -> Leg {
        let leg = self.admit(request).await;
        if self.replicator.is_up() {
            self.flush().await;
        }
        leg
    }

    async fn flush(&self) {
        self.replicator.flush(&self.manager, FlushScope::All).await.unwrap();
    }

    fn set_up(&self, is_up: bool) {
        let link = self.replicator.store.link();
        if is_up {
            link.up();
        } else {
            link.down();
        }
    }

    /// Kills a session of cred:ada that only this instance knows, while it is without Redis.
    async fn kill_alone(&self, request: SessionRequest) {
        self.set_up(false);
        let (id, agent) = (request.key.id.clone(), request.identity.agent_id.clone());
        self.admit(request).await;
        let order = KillRequest { reason: "runaway".to_owned(), agent, ..KillRequest::default() };
        self.manager.kill(id.as_str(), order).await.unwrap();
        self.set_up(true);
    }

    async fn resolve(&self, is_trusted: bool) -> bool {
        self.replicator.kill_unresolved_names(&self.manager, is_trusted).await.unwrap()
    }

    /// Waits until the names are due again, and searches for all of them once.
    async fn resolve_all(&self, is_trusted: bool) {
        tokio::time::sleep(SYNC_INTERVAL).await;
        while self.resolve(is_trusted).await {}
    }

    /// The kills of sessions in this scope.
    fn kills_of(&self, scope: &str) -> Vec<Arc<KillOrder>> {
        let events = self.events.lock();
        let killed = events.iter().filter_map(|event| match event {
            Event::Killed { order, .. } if order.scope.as_str() == scope => Some(order.clone()),
            _ => None,
        });
        killed.collect()
    }

    fn is_done(&self) -> bool {
        self.replicator.unresolved_names.lock().is_empty()
    }
}

#[tokio::test]
async fn very_many_names_are_resolved_a_part_at_a_time_and_none_is_lost() {
    const NAMES: usize = 600;
    let server = Server::start();
    let here = Instance::start(&server, "here", Clock::system(), "{}").await;
    let there = Instance::start(&server, "there", Clock::system(), "{}").await;
    for number in 0..NAMES {
        there.admit(arrival_of("cred:bob", &format!("s-{number}"))).await;
    }
    there.flush().await;
    for number in 0..NAMES {
        here.kill_alone(arrival_of("cred:ada", &format!("s-{number}"))).await;
    }
    let begun = Instant::now();
    assert!(here.resolve(false).await, "the rest waits for the next sync");
    eprintln!("{} names in {:?}", here.kills_of("cred:bob").len(), begun.elapsed());
    assert!((1..=256).contains(&here.kills_of("cred:bob").len()));
    // A store that is away for a moment loses no name.
    here.set_up(false);
    assert!(here.replicator.kill_unresolved_names(&here.manager, false).await.is_err());
    here.set_up(true);
    while here.resolve(false).await {}
    assert_eq!(here.kills_of("cred:bob").len(), NAMES);
    assert!(!here.is_done(), "instances that come back later write theirs");
    here.resolve_all(true).await;
    assert!(here.is_done());
    assert_eq!(here.kills_of("cred:bob").len(), NAMES);
}

#[tokio::test]
async fn a_name_with_very_many_sessions_is_resolved_a_page_at_a_time() {
    const SCOPES: usize = 400;
    let server = Server::start();
    let here = Instance::start(&server, "here", Clock::system(), "{}").await;
    let there = Instance::start(&server, "there", Clock::system(), "{}").await;
    for number in 0..SCOPES {
        there.admit(arrival_of(&format!("cred:{number}"), "s")).await;
    }
    there.flush().await;
    here.kill_alone(arrival_of("cred:ada", "s")).await;
    assert!(here.resolve(false).await, "the rest waits for the next sync");
    assert!(here.manager.kills().len() < SCOPES, "{}", here.manager.kills().len());
    while here.resolve(false).await {}
    assert_eq!(here.manager.kills().len(), SCOPES + 1);
}

#[tokio::test]
async fn an_agent_is_killed_once_and_what_is_resumed_stays_resumed() {
    let server = Server::start();
    let here = Instance::start(&server, "here", Clock::system(), "{}").await;
    let there = Instance::start(&server, "there", Clock::system(), "{}").await;
    let of_bob = || {
        let mut request = agent_arrival("s", "worker", "");
        (request.key, request.principal) =
            (arrival_of("cred:bob", "s").key, arrival_of("cred:bob", "s").principal);
        request
    };
    let leg = there.open(of_bob()).await;
    here.kill_alone(agent_arrival("s", "worker", "")).await;
    here.resolve(false).await;
    here.resolve_all(false).await;
    let given = here.kills_of("cred:bob");
    assert_eq!(given.len(), 1, "{given:?}");
    assert_eq!(given[0].agent, Some(AgentId::new("worker")));
    let uid = leg.session().uid().to_string();
    here.manager.resume(&uid, Some("worker"), "user:sec").await.unwrap();
    here.resolve_all(true).await;
    assert_eq!(here.kills_of("cred:bob").len(), 1, "resumed");
    assert!(here.is_done());
}

#[tokio::test]
async fn a_kill_that_was_lifted_meanwhile_kills_nobody_else() {
    let server = Server::start();
    let here = Instance::start(&server, "here", Clock::system(), "{}").await;
    let there = Instance::start(&server, "there", Clock::system(), "{}").await;
    there.open(arrival_of("cred:bob", "s")).await;
    here.kill_alone(arrival_of("cred:ada", "s")).await;
    here.set_up(false);
    here.manager.resume("s", None, "user:sec").await.unwrap();
    here.set_up(true);
    here.resolve(false).await;
    assert!(here.kills_of("cred:bob").is_empty() && here.is_done());
}

/// Longer than the unit of all clocks.
const TICK: Duration = Duration::from_millis(20);

#[tokio::test]
async fn a_clock_that_is_ahead_hides_nobody_and_who_came_after_the_kill_goes_on() {
    let server = Server::start();
    let here = Instance::start(&server, "here", Clock::system(), "{}").await;
    let clock = Clock::manual();
    clock.advance(HOUR);
    let ahead = Instance::start(&server, "ahead", clock, "{}").await;
    ahead.open(arrival_of("cred:bob", "s")).await;
    here.kill_alone(arrival_of("cred:ada", "s")).await;
    tokio::time::sleep(TICK).await;
    ahead.open(arrival_of("cred:eve", "s")).await;
    here.resolve(true).await;
    assert_eq!((here.kills_of("cred:bob").len(), here.kills_of("cred:eve").len()), (1, 0));
}

#[tokio::test]
async fn what_another_instance_opened_alone_is_told_by_its_age() {
    let server = Server::start();
    let here = Instance::start(&server, "here", Clock::system(), "{}").await;
    let there = Instance::start(&server, "there", Clock::system(), "{}").await;
    there.set_up(false);
    there.admit(arrival_of("cred:bob", "s")).await;
    tokio::time::sleep(TICK).await;
    here.kill_alone(arrival_of("cred:ada", "s")).await;
    tokio::time::sleep(TICK).await;
    there.admit(arrival_of("cred:eve", "s")).await;
    there.set_up(true);
    there.flush().await;
    here.resolve(true).await;
    assert_eq!((here.kills_of("cred:bob").len(), here.kills_of("cred:eve").len()), (1, 0));
}

#[tokio::test]
async fn what_begins_at_max_duration_is_the_next_incarnation() {
    let server = Server::start();
    for (yaml, reason) in [
        ("{idle_timeout: 1h, max_duration: 1m}", EndReason::MaxDuration),
        ("{idle_timeout: 1m}", EndReason::IdleTimeout),
    ] {
        let (clock, id) = (Clock::manual(), format!("{reason:?}"));
        let here = Instance::start(&server, "here", clock.clone(), yaml).await;
        let start = leg_start();
        let cut = start.cut.clone();
        let first = here.manager.admit(arrival_of("cred:ada", &id), start).await.unwrap();
        here.flush().await;
        clock.advance(MINUTE - Duration::from_millis(1));
        if reason == EndReason::MaxDuration {
            let same = here.admit(arrival_of("cred:ada", &id)).await;
            assert_eq!(same.session().uid(), first.session().uid());
        }
        clock.advance(Duration::from_millis(1));
        let next = here.admit(arrival_of("cred:ada", &id)).await;
        let session = next.session();
        assert_eq!(
            (session.incarnation(), session.previous()),
            (2, Some(first.session().uid())),
            "{reason:?}"
        );
        assert_eq!((cut.reason(), first.session().end_reason()), (Some(CutReason::TimedOut), Some(reason)));
        here.manager.reap().await;
        assert_eq!(session.end_reason(), None);
    }
}

#[tokio::test]
async fn a_clock_that_is_ahead_ends_no_session_that_others_use() {
    let server = Server::start();
    let here = Instance::start(&server, "here", Clock::system(), "idle_timeout: 30m").await;
    let clock = Clock::manual();
    clock.advance(HOUR);
    let ahead = Instance::start(&server, "ahead", clock, "idle_timeout: 30m").await;
    ahead.replicator.reload_orders(&ahead.manager, 0).await.unwrap();
    let first = here.open(arrival_of("cred:ada", "s")).await;
    let joined = ahead.open(arrival_of("cred:ada", "s")).await;
    assert_eq!(joined.session().uid(), first.session().uid());
    let (key, uid) = (first.session().key(), first.session().uid());
    let ended = ahead.replicator.end_in_store(
        &ahead.manager,
        key,
        uid,
        EndReason::IdleTimeout,
        Some(ahead.replicator.store_millis(&ahead.manager, ahead.manager.clock().now()) - 1_800_000),
    );
    assert!(matches!(ended.await.unwrap(), Ended::Busy(_)));
}

#[tokio::test]
async fn the_end_of_a_session_takes_three_scripts() {
    let server = Server::start();
    let here = Instance::start(&server, "here", Clock::manual(), "{}").await;
    let scripts = async || {
        let stats = here.replicator.store.link().info(InfoKind::CommandStats).await.unwrap().concat();
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")).unwrap_or("0,");
        line.split(',').next().unwrap().parse::<u64>().unwrap()
    };
    let mut taken = 0;
    // The first time Redis gets the texts of the scripts.
    for id in ["first", "second"] {
        drop(here.open(arrival_of("cred:ada", id)).await);
        here.manager.kill(id, KillRequest::default()).await.unwrap();
        let ended = here.manager.closing_sessions().collect(|session| Some(session.clone()));
        let before = scripts().await;
        here.replicator.close_all(&here.manager, ended).await;
        taken = scripts().await - before;
    }
    // Its end, its share, and the mark that its record is written.
    assert_eq!(taken, 3);
    let records = here.events.lock().iter().filter(|event| matches!(event, Event::Ended(_))).count();
    assert_eq!(records, 2);
}
