//! Writes session events to the log, the metrics, the history and the OTLP exporter.

use std::sync::Arc;

use tracing::{error, info, warn};

use crate::control::api::events::FeedEvent;
use crate::history::Archive;
use crate::notify::notifier::Notifier;
use crate::session::{BY_BUDGET, BY_POLICY, Event, KillOrder, Listener, ServedLeg};
use crate::telemetry::log::Log;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::otlp::export::Exporter;
use crate::telemetry::settings::Level;

/// The `message` of a log line with a session record (CDR).
const RECORD: &str = "session_record";
/// The `message` of a log line with a finding of a rule.
const FINDING: &str = "policy_finding";

/// The session manager's listener.
pub(super) struct EventSink {
    log: Arc<Log>,
    metrics: Arc<Metrics>,
    history: Option<Arc<Archive>>,
    exporter: Option<Arc<Exporter>>,
    notifier: Arc<Notifier>,
}

impl EventSink {
    /// A listener that writes to these.
    pub(super) fn new(
        log: &Arc<Log>,
        metrics: &Arc<Metrics>,
        history: Option<&Arc<Archive>>,
        exporter: Option<&Arc<Exporter>>,
        notifier: &Arc<Notifier>,
    ) -> Self {
        Self {
            log: Arc::clone(log),
            metrics: Arc::clone(metrics),
            history: history.cloned(),
            exporter: exporter.cloned(),
            notifier: Arc::clone(notifier),
        }
    }
}

impl Listener for EventSink {
    fn on_event(&self, event: &Event) {
        tell(&self.log, &self.metrics, event);
        if let Some(history) = &self.history {
            history.record(event);
        }
        if let (Some(exporter), Event::Ended(record)) = (&self.exporter, event) {
            exporter.session(record.clone());
        }
        let told = FeedEvent::from(event);
        if self.notifier.wants(told.name())
            && let Ok(data) = serde_json::to_value(&told)
        {
            self.notifier.tell(told.name(), &data);
        }
    }

    fn is_behind(&self) -> bool {
        self.history.as_ref().is_some_and(|history| history.is_behind())
    }

    fn wants_legs(&self) -> bool {
        self.history.as_ref().is_some_and(|history| history.wants_legs())
    }

    fn on_leg(&self, leg: ServedLeg) {
        if let Some(history) = &self.history {
            history.record_leg(leg);
        }
    }

    fn on_lifted_elsewhere(&self, order: &Arc<KillOrder>) {
        if let Some(history) = &self.history {
            history.record_lift(order);
        }
    }

    fn on_replaced_elsewhere(&self, order: &Arc<KillOrder>) {
        if let Some(history) = &self.history {
            history.record_replacement(order);
        }
    }
}

fn tell(log: &Log, metrics: &Metrics, event: &Event) {
    match event {
        Event::Started(session) => metrics.session_started(session.kind.name()),
        Event::Ended(record) => {
            metrics.session_ended(record.state.name(), record.kind.name());
            log.log_event(Level::Info, RECORD, record.as_ref());
        }
        Event::Killed { order, legs_cut } => {
            metrics.session_killed(match &*order.by {
                by if by.starts_with(BY_BUDGET) => "budget",
                by if by.starts_with(BY_POLICY) => "policy",
                _ => "control",
            });
            match &order.agent {
                Some(agent) => {
                    info!(session_id = %order.session_id, %agent, by = %order.by, legs_cut, "agent killed");
                }
                None => info!(session_id = %order.session_id, by = %order.by, legs_cut, "session killed"),
            }
        }
        Event::Finding(finding) => log.log_event(Level::Info, FINDING, finding.as_ref()),
        Event::ApprovalRequested(asked) => {
            let (id, tool) = (&asked.id, asked.call.tool.as_deref());
            info!(session_id = asked.call.session_id().map(tracing::field::display), approval = id, rule = %asked.call.rule, tool, "a call is held");
        }
        Event::ApprovalDecided(decided) => {
            if let Some(last) = decided.decisions.last() {
                let (id, decision) = (&decided.id, last.decision);
                info!(
                    session_id = decided.call.session_id().map(tracing::field::display),
                    approval = id,
                    decision = decision.name(),
                    by = last.by,
                    "a held call is decided"
                );
            }
        }
        Event::SoftLimit { budget, name } => {
            warn!(budget, name, "a budget has passed its soft limit");
        }
        Event::StoreLost { why } => {
            metrics.store_lost();
            error!(why, "redis does not answer: this instance goes on by itself, known kills stay refused");
        }
        Event::StoreBack => {
            info!("redis answers: sessions and kills are shared");
        }
        Event::Resumed { order, by } => match &order.agent {
            Some(agent) => info!(session_id = %order.session_id, %agent, by, "agent resumed"),
            None => info!(session_id = %order.session_id, by, "session resumed"),
        },
    }
}
