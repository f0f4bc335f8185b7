//! A webhook: which events it is sent, and a message to it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use ureq::unversioned::transport::DefaultConnector;

use super::addresses::PublicOnly;
use super::client;
use super::facts::EventFacts;
use super::ocsf;
use super::settings::Format;
use super::signature::Secrets;
use crate::policy::expr::{Expression, Truth};
use crate::policy::rule::Severity;

/// How long an attempt may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A webhook, compiled.
#[derive(Debug)]
pub(super) struct Webhook {
    pub(super) name: Arc<str>,
    pub(super) url: String,
    /// Empty for all.
    pub(super) events: Vec<String>,
    pub(super) when: Option<Expression>,
    pub(super) severity: Severity,
    pub(super) secrets: Secrets,
    pub(super) allow_private: bool,
    pub(super) format: Format,
}

/// A message, the same in each attempt.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// `webhook-id`: tells a repeated message from another one.
    pub(super) id: String,
    pub(super) body: Arc<[u8]>,
}

impl Message {
    /// A message about an event; `None` for one that has no such form.
    pub(super) fn new(kind: &str, data: &Value, format: Format, now: Timestamp) -> Option<Self> {
        let id = format!("msg_{}", uuid::Uuid::now_v7().simple());
        let body = match format {
            Format::Elida => json!({"type": kind, "timestamp": now.to_string(), "data": data}),
            Format::Ocsf => ocsf::event(kind, data, now.as_millisecond(), &id)?,
        };
        Some(Self { id, body: body.to_string().into_bytes().into() })
    }
}

/// How an attempt ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It was accepted.
    Delivered,
    /// This message was refused; others may be accepted.
    Refused(String),
    /// Nothing can be delivered now. Tells how long to wait, if the receiver says so.
    Away(String, Option<Duration>),
    /// The receiver wants nothing more (410).
    Gone,
}

impl Webhook {
    /// Whether events of this kind are sent.
    pub(super) fn wants_kind(&self, kind: &str) -> bool {
        let fits = |wanted: &String| match wanted.strip_suffix('*') {
            Some(start) => kind.starts_with(start),
            None => wanted == kind,
        };
        self.events.is_empty() || self.events.iter().any(fits)
    }

    /// Whether this event is sent. One that does not tell what `when` asks for is.
    pub(super) fn wants(&self, kind: &str, data: &Value, now: Timestamp) -> bool {
        let is_severe = || {
            let severity = data.get("severity").cloned().and_then(|text| serde_json::from_value(text).ok());
            severity.is_none_or(|severity: Severity| severity >= self.severity)
        };
        self.wants_kind(kind)
            && is_severe()
            && self.when.as_ref().is_none_or(|when| when.truth(&EventFacts { data, now }) != Truth::No)
    }

    /// Creates the client that sends to it.
    pub(super) fn client(&self) -> ureq::Agent {
        let config = client::config(&self.url, TIMEOUT);
        match self.allow_private {
            true => config.into(),
            false => {
                let connector = DefaultConnector::default();
                ureq::Agent::with_parts(config, connector, PublicOnly::default())
            }
        }
    }

    /// Sends a message; it is signed anew with the time of the attempt.
    pub(super) fn send(&self, client: &ureq::Agent, message: &Message, now: Timestamp) -> Sent {
        let timestamp = now.as_second();
        let signature = self.secrets.sign(&message.id, timestamp, &message.body);
        let request = client
            .post(&self.url)
            .header("content-type", "application/json")
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", timestamp.to_string())
            .header("webhook-signature", signature);
        match request.send(&message.body[..]) {
            Err(fault) => Sent::Away(fault.to_string(), None),
            Ok(answer) => {
                let wait = answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
                let wait = wait.and_then(|value| value.parse().ok()).map(Duration::from_secs);
                match answer.status().as_u16() {
                    200..=299 => Sent::Delivered,
                    410 => Sent::Gone,
                    status @ (408 | 425 | 429 | 500..) => Sent::Away(format!("it answers {status}"), wait),
                    status @ 300..=399 => {
                        Sent::Refused(format!("it answers {status}, and redirects are not followed"))
                    }
                    status => Sent::Refused(format!("it answers {status}")),
                }
            }
        }
    }
}
