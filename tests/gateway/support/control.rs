//! The operator: a connection to the control service that records when each answer arrives.

use std::net::SocketAddr;
use std::time::Instant;

use serde_json::Value;

use super::call::{Call, RawClient};
use super::wire::Message;

/// The answer to a kill.
#[derive(Debug)]
pub struct Killed {
    /// When it was sent.
    pub sent: Instant,
    /// When its answer was read.
    pub answered: Instant,
    pub status: u16,
    pub body: Value,
}

/// A persistent connection, opened before the test starts its clock.
pub struct Control {
    wire: RawClient,
    address: SocketAddr,
}

impl Control {
    pub async fn connect(address: SocketAddr) -> Self {
        Self { wire: RawClient::connect(address).await, address }
    }

    pub async fn get(&mut self, target: &str) -> Message {
        Call::get(target).send_over(&mut self.wire, self.address).await
    }

    /// Posts a JSON value; `Null` is an empty body.
    pub async fn post(&mut self, target: &str, value: &Value) -> Message {
        let call = Call::post(target);
        let call = if value.is_null() { call } else { call.json(value) };
        call.send_over(&mut self.wire, self.address).await
    }

    /// Kills a session for the reason `runaway`.
    pub async fn kill(&mut self, id: &str) -> Killed {
        let sent = Instant::now();
        let target = format!("/control/sessions/{id}/kill");
        let answer = self.post(&target, &serde_json::json!({"reason": "runaway"})).await;
        Killed { sent, answered: answer.ended, status: answer.status(), body: answer.json() }
    }
}
