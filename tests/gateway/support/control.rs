//! The operator: a connection to the control service that records when each answer arrives.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Instant;

use serde_json::Value;

use super::call::{Call, RawClient};
use super::openapi::check_answer;
use super::wire::Message;

/// An answer larger than this is not held against the document: that would take long.
const CHECKED_MAX: usize = 256 << 10;

fn is_documented(method: &str, target: &str, answer: &Message) {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
        serde_json::from_str(include_str!("../../../docs/openapi.json")).expect("the OpenAPI document")
    });
    if answer.body.len() <= CHECKED_MAX {
        let checked = check_answer(&DOCUMENT, method, target, answer.status(), &answer.body);
        checked.unwrap_or_else(|fault| panic!("{fault}"));
    }
}

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
        let answer = Call::get(target).send_over(&mut self.wire, self.address).await;
        is_documented("GET", target, &answer);
        answer
    }

    /// Posts a JSON value; `Null` is an empty body.
    pub async fn post(&mut self, target: &str, value: &Value) -> Message {
        let call = Call::post(target);
        let call = if value.is_null() { call } else { call.json(value) };
        let answer = call.send_over(&mut self.wire, self.address).await;
        is_documented("POST", target, &answer);
        answer
    }

    pub async fn delete(&mut self, target: &str) -> Message {
        let answer = Call::new("DELETE", target).send_over(&mut self.wire, self.address).await;
        is_documented("DELETE", target, &answer);
        answer
    }

    /// Kills a session for the reason `runaway`.
    pub async fn kill(&mut self, id: &str) -> Killed {
        let sent = Instant::now();
        let target = format!("/control/sessions/{id}/kill");
        let answer = self.post(&target, &serde_json::json!({"reason": "runaway"})).await;
        Killed { sent, answered: answer.ended, status: answer.status(), body: answer.json() }
    }
}
