//! The threads that send webhooks: one for each, so that a receiver that is slow delays no other.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use parking_lot::{Condvar, Mutex};
use serde_json::Value;
use tracing::warn;

use super::ocsf;
use super::output::Output;
use super::queue::Queue;
use super::settings::{OcsfTarget, Receivers};
use super::webhook::{Message, Sent, Webhook};
use crate::telemetry::metrics::Metrics;

/// The longest sleep of a thread that waits for messages.
const NAP: Duration = Duration::from_secs(60);

/// Passes events on to webhooks, and writes those of OCSF.
pub struct Notifier {
    lanes: ArcSwap<Vec<Arc<Lane>>>,
    /// Where OCSF events are written, and how that was configured.
    output: ArcSwap<(OcsfTarget, Option<Output>)>,
    metrics: Arc<Metrics>,
}

/// A webhook with its queue and its thread.
struct Lane {
    name: Arc<str>,
    state: Mutex<State>,
    changed: Condvar,
    metrics: Arc<Metrics>,
}

struct State {
    webhook: Arc<Webhook>,
    /// Changes with each reload: the thread makes a new client.
    version: u64,
    queue: Queue,
    /// A message is being sent.
    sending: bool,
    /// The receiver wants nothing more, until the next reload.
    gone: bool,
    /// A reload has removed it.
    closed: bool,
}

impl Notifier {
    /// Starts the threads of these webhooks.
    pub fn new(receivers: &Receivers, metrics: Arc<Metrics>) -> Arc<Self> {
        let notifier = Arc::new(Self {
            lanes: ArcSwap::default(),
            output: ArcSwap::from_pointee((OcsfTarget::default(), None)),
            metrics,
        });
        notifier.reconfigure(receivers);
        notifier
    }

    /// Applies a reload. What waits for a webhook that keeps its name is sent to its new address; the rest is lost.
    pub fn reconfigure(&self, receivers: &Receivers) {
        if self.output.load().0 != receivers.ocsf {
            let output = Output::start(&receivers.ocsf, &self.metrics);
            self.output.store(Arc::new((receivers.ocsf.clone(), output)));
        }
        let before = self.lanes.load_full();
        let mut lanes = Vec::new();
        for webhook in &receivers.webhooks {
            match before.iter().find(|lane| lane.name == webhook.name) {
                Some(lane) => {
                    let mut state = lane.state.lock();
                    state.webhook = Arc::clone(webhook);
                    state.version += 1;
                    state.gone = false;
                    state.queue.answered();
                    lane.changed.notify_all();
                    lanes.push(Arc::clone(lane));
                }
                None => lanes.extend(Lane::start(webhook, &self.metrics)),
            }
        }
        for lane in before.iter().filter(|lane| !lanes.iter().any(|kept| Arc::ptr_eq(kept, lane))) {
            lane.close();
        }
        self.lanes.store(Arc::new(lanes));
    }

    /// Whether any webhook is sent events of this kind.
    pub fn wants(&self, kind: &str) -> bool {
        self.output.load().1.is_some()
            || self.lanes.load().iter().any(|lane| lane.state.lock().webhook.wants_kind(kind))
    }

    /// Queues an event for those webhooks that are sent it; never waits.
    pub fn tell(&self, kind: &str, data: &Value) {
        let now = Timestamp::now();
        if let (_, Some(output)) = &**self.output.load() {
            let id = uuid::Uuid::now_v7().to_string();
            if let Some(event) = ocsf::event(kind, data, now.as_millisecond(), &id) {
                output.push(event.to_string());
            }
        }
        for lane in self.lanes.load().iter() {
            lane.tell(kind, data, now);
        }
    }

    /// Waits until what is due has been sent, for at most `limit` in total, and counts the rest as lost.
    pub fn finish(&self, limit: Duration) {
        let end = Instant::now() + limit;
        for lane in self.lanes.load().iter() {
            let mut state = lane.state.lock();
            while (state.sending || state.queue.is_due(Instant::now()))
                && !lane.changed.wait_until(&mut state, end).timed_out()
            {}
            drop(state);
            lane.close();
        }
    }
}

impl Lane {
    fn start(webhook: &Arc<Webhook>, metrics: &Arc<Metrics>) -> Option<Arc<Self>> {
        let lane = Arc::new(Self {
            name: Arc::clone(&webhook.name),
            state: Mutex::new(State {
                webhook: Arc::clone(webhook),
                version: 0,
                queue: Queue::default(),
                sending: false,
                gone: false,
                closed: false,
            }),
            changed: Condvar::new(),
            metrics: Arc::clone(metrics),
        });
        let sender = Arc::clone(&lane);
        match thread::Builder::new().name("webhook".into()).spawn(move || sender.run()) {
            Ok(_) => Some(lane),
            Err(fault) => {
                warn!(webhook = &*lane.name, %fault, "a webhook has no thread, and is not sent");
                None
            }
        }
    }

    fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let lost = state.queue.len();
        if lost > 0 {
            warn!(webhook = &*self.name, lost, "messages to a webhook were not delivered before its end");
            self.metrics.webhook_sent(&self.name, "lost", lost);
        }
        state.queue = Queue::default();
        self.metrics.webhook_waiting(&self.name, 0);
        self.changed.notify_all();
    }

    fn tell(&self, kind: &str, data: &Value, now: Timestamp) {
        let mut state = self.state.lock();
        if state.gone || !state.webhook.wants(kind, data, now) {
            return;
        }
        let Some(message) = Message::new(kind, data, state.webhook.format, now) else { return };
        if state.queue.push(message, Instant::now()) {
            self.metrics.webhook_waiting(&self.name, state.queue.len());
            self.changed.notify_all();
        } else {
            self.metrics.webhook_sent(&self.name, "lost", 1);
        }
    }

    /// Sends what is due, one message after another.
    fn run(&self) {
        let mut client: Option<(u64, ureq::Agent)> = None;
        let mut state = self.state.lock();
        while !state.closed {
            let waiting = match state.queue.take(Instant::now()) {
                Ok(waiting) => waiting,
                Err(due) => {
                    let due = due.unwrap_or_else(|| Instant::now() + NAP);
                    self.changed.wait_until(&mut state, due);
                    continue;
                }
            };
            let (webhook, version) = (Arc::clone(&state.webhook), state.version);
            state.sending = true;
            drop(state);
            let (_, agent) = match client.take() {
                Some(kept) if kept.0 == version => client.insert(kept),
                _ => client.insert((version, webhook.client())),
            };
            let sent = webhook.send(agent, &waiting.message, Timestamp::now());
            state = self.state.lock();
            state.sending = false;
            self.sent(&mut state, waiting, sent);
            self.metrics.webhook_waiting(&self.name, state.queue.len());
            self.changed.notify_all();
        }
    }

    fn sent(&self, state: &mut State, waiting: super::queue::Waiting, sent: Sent) {
        let (why, now) = match sent {
            Sent::Delivered => {
                state.queue.answered();
                return self.metrics.webhook_sent(&self.name, "delivered", 1);
            }
            Sent::Gone => {
                warn!(webhook = &*self.name, "a webhook answers 410: nothing is sent to it until a reload");
                self.metrics.webhook_sent(&self.name, "lost", state.queue.len() + 1);
                (state.gone, state.queue) = (true, Queue::default());
                return;
            }
            Sent::Refused(why) => {
                state.queue.answered();
                (why, Instant::now())
            }
            Sent::Away(why, wait) => {
                let now = Instant::now();
                state.queue.pause(now, wait);
                (why, now)
            }
        };
        self.metrics.webhook_sent(&self.name, "failed", 1);
        if state.closed || !state.queue.again(waiting, now) {
            warn!(webhook = &*self.name, why, "a message to a webhook is given up");
            self.metrics.webhook_sent(&self.name, "lost", 1);
        } else {
            tracing::debug!(webhook = &*self.name, why, "a message to a webhook is sent again later");
        }
    }
}
