//! Events of the live feed (`GET /control/events`).

use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::approvals::ApprovalView;
use crate::ids::{SessionId, Uid};
use crate::session::{Event, FindingEvent, KillOrder, Record, SessionView};

/// Data of one event.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum FeedEvent<'a> {
    /// A session started.
    Started(&'a SessionView),
    /// A session ended.
    Ended(&'a Record),
    /// A session or an agent was killed.
    Killed(KilledEvent),
    /// A kill order was lifted.
    Resumed(ResumedEvent),
    /// A rule holds.
    Finding(&'a FindingEvent),
    /// A held call asks for an approval.
    ApprovalRequested(Box<ApprovalView>),
    /// An operator has answered.
    ApprovalDecided(Box<ApprovalView>),
    /// The soft limit of a budget is passed.
    SoftLimit(SoftLimitEvent),
    /// The reader was too slow and missed events.
    Lagged(LaggedEvent),
    /// This instance lost Redis.
    StoreLost(StoreLostEvent),
    /// This instance reached Redis again.
    StoreBack(StoreBackEvent),
}

/// Data of `session.killed` and `agent.killed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KilledEvent {
    /// The kill order.
    #[serde(flatten)]
    pub order: Arc<KillOrder>,
    /// Open legs that were cut.
    pub legs_cut: usize,
}

/// Data of `session.resumed` and `agent.resumed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResumedEvent {
    /// The session id that is no longer refused.
    pub session_id: SessionId,
    /// The incarnation the order was made against.
    pub uid: Uid,
    /// Who lifted it.
    pub by: String,
    /// The order that is no longer in force.
    pub order: Arc<KillOrder>,
}

/// Data of `lagged`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LaggedEvent {
    /// Number of events the reader missed.
    pub missed: u64,
}

/// Data of `budget.soft_limit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SoftLimitEvent {
    /// The budget.
    pub budget: String,
    /// The name that its `by` gives.
    pub name: String,
}

/// Data of `store.lost`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoreLostEvent {
    /// What happened.
    pub why: String,
}

/// Data of `store.back`: no members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoreBackEvent {}

/// Returns the schema of an event's data.
pub(in crate::control) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// Every name in the feed with the schema of its data.
pub(in crate::control) const EVENTS: &[(&str, SchemaOf)] = &[
    ("session.started", SchemaGenerator::subschema_for::<SessionView>),
    ("session.ended", SchemaGenerator::subschema_for::<Record>),
    ("session.killed", SchemaGenerator::subschema_for::<KilledEvent>),
    ("session.resumed", SchemaGenerator::subschema_for::<ResumedEvent>),
    ("agent.killed", SchemaGenerator::subschema_for::<KilledEvent>),
    ("agent.resumed", SchemaGenerator::subschema_for::<ResumedEvent>),
    ("policy.finding", SchemaGenerator::subschema_for::<FindingEvent>),
    ("approval.requested", SchemaGenerator::subschema_for::<ApprovalView>),
    ("approval.decided", SchemaGenerator::subschema_for::<ApprovalView>),
    ("budget.soft_limit", SchemaGenerator::subschema_for::<SoftLimitEvent>),
    ("lagged", SchemaGenerator::subschema_for::<LaggedEvent>),
    ("store.lost", SchemaGenerator::subschema_for::<StoreLostEvent>),
    ("store.back", SchemaGenerator::subschema_for::<StoreBackEvent>),
];

/// Returns the names of the events that are sent to webhooks.
pub fn names() -> Vec<&'static str> {
    let told = EVENTS.iter().map(|(name, _)| *name).filter(|name| *name != "lagged");
    told.chain([crate::notify::AUDIT]).collect()
}

impl<'a> From<&'a Event> for FeedEvent<'a> {
    fn from(event: &'a Event) -> Self {
        match event {
            Event::Started(session) => Self::Started(session),
            Event::Ended(record) => Self::Ended(record),
            Event::Killed { order, legs_cut } => {
                Self::Killed(KilledEvent { order: Arc::clone(order), legs_cut: *legs_cut })
            }
            Event::Resumed { order, by } => Self::Resumed(ResumedEvent {
                session_id: order.session_id.clone(),
                uid: order.uid,
                by: by.clone(),
                order: Arc::clone(order),
            }),
            Event::Finding(finding) => Self::Finding(finding),
            Event::ApprovalRequested(asked) => {
                Self::ApprovalRequested(Box::new(ApprovalView::from(&**asked).without_arguments()))
            }
            Event::ApprovalDecided(decided) => {
                Self::ApprovalDecided(Box::new(ApprovalView::from(&**decided).without_arguments()))
            }
            Event::SoftLimit { budget, name } => {
                Self::SoftLimit(SoftLimitEvent { budget: budget.clone(), name: name.clone() })
            }
            Event::StoreLost { why } => Self::StoreLost(StoreLostEvent { why: why.clone() }),
            Event::StoreBack => Self::StoreBack(StoreBackEvent {}),
        }
    }
}

impl FeedEvent<'_> {
    /// The name of the event in the feed.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Started(_) => "session.started",
            Self::Ended(_) => "session.ended",
            Self::Killed(killed) if killed.order.agent.is_some() => "agent.killed",
            Self::Killed(_) => "session.killed",
            Self::Resumed(resumed) if resumed.order.agent.is_some() => "agent.resumed",
            Self::Resumed(_) => "session.resumed",
            Self::Finding(_) => "policy.finding",
            Self::ApprovalRequested(_) => "approval.requested",
            Self::ApprovalDecided(_) => "approval.decided",
            Self::SoftLimit(_) => "budget.soft_limit",
            Self::Lagged(_) => "lagged",
            Self::StoreLost(_) => "store.lost",
            Self::StoreBack(_) => "store.back",
        }
    }
}
