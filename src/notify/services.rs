//! Asks the services of `policy.external`, in the form of OPA: `{"input": …}` and `{"result": …}`. Each has connections of its
//! own; an answer may be used again, and one that fails again and again is left alone for a while. Whoever asks waits
//! for an answer, and blocks no thread of the proxy meanwhile.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use tokio::time::timeout_at;
use tracing::warn;
use ureq::Agent;

use super::client;
use super::settings::Endpoint;
use super::signature::Secrets;
use super::unix_socket::{NoNames, UnixConnector};
use crate::policy::rule::Action;

/// The most questions at once.
const AT_ONCE: usize = 64;
/// The longest answer, in bytes.
const MAX_ANSWER: u64 = 64 << 10;
/// The longest reason that is taken from an answer, in bytes.
const MAX_REASON: usize = 500;
/// The most answers that are kept for use again.
const MAX_KEPT: usize = 4096;
/// So many failures in this time, and the service is left alone for as long.
const FAILURES: usize = 5;
const PERIOD: Duration = Duration::from_secs(10);

/// Where a service is asked, compiled.
#[derive(Clone, Debug)]
pub struct ServiceSettings {
    pub(super) name: Arc<str>,
    pub(super) endpoint: Endpoint,
    pub(super) timeout: Duration,
    pub(super) cache: Option<Duration>,
    pub(super) secrets: Option<Secrets>,
}

/// The services of one configuration.
#[derive(Debug)]
pub struct Services {
    services: Vec<Service>,
    permits: Arc<Semaphore>,
}

#[derive(Debug)]
struct Service {
    settings: Arc<ServiceSettings>,
    client: Agent,
    breaker: Mutex<Breaker>,
    kept: Mutex<HashMap<[u8; 32], (Instant, Reply)>>,
}

/// What a service says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reply {
    /// What is to happen; `None` if it may pass.
    pub action: Option<Action>,
    /// Why, for the client and the operators.
    pub reason: Option<String>,
    /// What is added to the score of the session.
    pub score: f64,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It did not come in time.
    Timeout,
    /// The service cannot be reached, or its answer is none.
    Error,
    /// The service has failed again and again, and was not asked.
    Breaker,
}

impl Failure {
    /// The value of the label `result`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Error => "error",
            Self::Breaker => "breaker",
        }
    }
}

/// Returns how many connections are open at most to so many services: those in use, and idle ones that are kept.
pub fn connections(services: usize) -> usize {
    if services == 0 { 0 } else { AT_ONCE + services * client::IDLE }
}

impl Services {
    /// Makes the clients; connections are made when something is asked.
    pub fn new(settings: &[Arc<ServiceSettings>]) -> Arc<Self> {
        let services = settings.iter().map(|settings| Service {
            settings: Arc::clone(settings),
            client: settings.client(),
            breaker: Mutex::default(),
            kept: Mutex::default(),
        });
        Arc::new(Self { services: services.collect(), permits: Arc::new(Semaphore::new(AT_ONCE)) })
    }

    /// Asks a service, by its position in the file. `input` is the question; answers to the same one may be used again,
    /// whatever `passing` says besides.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn ask(
        self: Arc<Self>,
        index: usize,
        input: Map<String, Value>,
        passing: Map<String, Value>,
    ) -> Result<Reply, Failure> {
        let service = self.services.get(index).ok_or(Failure::Error)?;
        let ServiceSettings { timeout, cache, .. } = *service.settings;
        let now = Instant::now();
        let key = cache.map(|_| key(&input));
        if let Some(reply) = key.and_then(|key| service.kept(&key, now)) {
            return Ok(reply);
        }
        if !service.breaker.lock().lets_through(now) {
            return Err(Failure::Breaker);
        }
        let asked = self.ask_now(index, merged(input, passing), now + timeout).await;
        if service.breaker.lock().note(asked.is_ok(), Instant::now()) {
            let name = &*service.settings.name;
            warn!(
                service = name,
                "a service of policy.external fails again and again: it is not asked for 10 s"
            );
        }
        let (reply, keeps) = asked?;
        if let (Some(key), Some(cache)) = (key, cache) {
            service.keep(key, keeps.map_or(cache, |keeps| keeps.min(cache)), &reply);
        }
        Ok(reply)
    }

    async fn ask_now(
        self: &Arc<Self>,
        index: usize,
        input: Value,
        until: Instant,
    ) -> Result<(Reply, Option<Duration>), Failure> {
        let deadline = until.into();
        let permit = timeout_at(deadline, Arc::clone(&self.permits).acquire_owned()).await;
        let permit = permit.map_err(|_| Failure::Timeout)?.map_err(|_| Failure::Error)?;
        let all = Arc::clone(self);
        let asking = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            all.services[index].send(&input, until)
        });
        // The thread ends by the client's own limit of time soon after.
        let asked = timeout_at(deadline, asking).await.map_err(|_| Failure::Timeout)?;
        asked.unwrap_or(Err(Failure::Error))
    }
}

/// Tells questions apart.
fn key(input: &Map<String, Value>) -> [u8; 32] {
    let text = serde_json::to_vec(input).unwrap_or_default();
    let mut key = [0; 32];
    key.copy_from_slice(digest(&SHA256, &text).as_ref());
    key
}

/// Joins two objects, and the objects in them.
fn merged(mut input: Map<String, Value>, passing: Map<String, Value>) -> Value {
    for (name, value) in passing {
        match (input.get_mut(&name), value) {
            (Some(Value::Object(known)), Value::Object(more)) => known.extend(more),
            (_, value) => drop(input.insert(name, value)),
        }
    }
    Value::Object(input)
}

impl ServiceSettings {
    fn client(&self) -> Agent {
        match &self.endpoint {
            Endpoint::Url(url) => client::config(url, self.timeout).into(),
            Endpoint::Unix(socket, _) => {
                let config = client::config("", self.timeout);
                Agent::with_parts(config, UnixConnector(PathBuf::from(socket)), NoNames)
            }
        }
    }

    fn url(&self) -> String {
        match &self.endpoint {
            Endpoint::Url(url) => url.clone(),
            Endpoint::Unix(_, path) => format!("http://localhost{path}"),
        }
    }
}

impl Service {
    fn kept(&self, key: &[u8; 32], now: Instant) -> Option<Reply> {
        let kept = self.kept.lock();
        kept.get(key).filter(|(until, _)| *until > now).map(|(_, reply)| reply.clone())
    }

    fn keep(&self, key: [u8; 32], time: Duration, reply: &Reply) {
        let now = Instant::now();
        let mut kept = self.kept.lock();
        if kept.len() >= MAX_KEPT {
            kept.retain(|_, (until, _)| *until > now);
        }
        if kept.len() < MAX_KEPT && !time.is_zero() {
            kept.insert(key, (now + time, reply.clone()));
        }
    }

    /// Sends a question, on a thread that may block.
    fn send(&self, input: &Value, until: Instant) -> Result<(Reply, Option<Duration>), Failure> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::Timeout);
        }
        let body = json!({ "input": input }).to_string().into_bytes();
        let mut request = self.client.post(self.settings.url()).header("content-type", "application/json");
        if let Some(secrets) = &self.settings.secrets {
            let id = input["decision_id"].as_str().unwrap_or_default();
            let timestamp = Timestamp::now().as_second();
            request = request
                .header("webhook-id", id)
                .header("webhook-timestamp", timestamp.to_string())
                .header("webhook-signature", secrets.sign(id, timestamp, &body));
        }
        let request = request.config().timeout_global(Some(left)).build();
        let failed = |fault: ureq::Error| match fault {
            ureq::Error::Timeout(_) => Failure::Timeout,
            _ => Failure::Error,
        };
        let mut answer = request.send(&body[..]).map_err(failed)?;
        if answer.status() != 200 {
            return Err(Failure::Error);
        }
        let text = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_vec().map_err(failed)?;
        read(&text).ok_or(Failure::Error)
    }
}

/// An answer in the form of OPA.
#[derive(Deserialize)]
struct Envelope {
    result: OpaResult,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OpaResult {
    /// It may pass or not.
    Plain(bool),
    Full {
        action: Answered,
        #[serde(default)]
        reason: Option<String>,
        #[serde(default)]
        score: f64,
        #[serde(default)]
        cache_s: Option<u32>,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answered {
    Allow,
    Flag,
    Hold,
    Block,
    Kill,
}

/// Reads an answer; `None` if it is none. One without a result is none: OPA answers so where no rule decides.
fn read(text: &[u8]) -> Option<(Reply, Option<Duration>)> {
    // Lists and maps are read as objects and words otherwise, but no service means that.
    let envelope: Value = serde_json::from_slice(text).ok()?;
    let result = envelope.as_object()?.get("result")?;
    let is_plain = result.is_boolean() || result.as_object()?.get("action")?.is_string();
    let Envelope { result } = if is_plain { serde_json::from_slice(text).ok()? } else { return None };
    let (action, reason, score, keeps) = match result {
        OpaResult::Plain(true) => (Answered::Allow, None, 0.0, None),
        OpaResult::Plain(false) => (Answered::Block, None, 0.0, None),
        OpaResult::Full { action, reason, score, cache_s } => (action, reason, score, cache_s),
    };
    if !(0.0..=1000.0).contains(&score) {
        return None;
    }
    let action = match action {
        Answered::Allow => None,
        Answered::Flag => Some(Action::Flag),
        Answered::Hold => Some(Action::Hold),
        Answered::Block => Some(Action::Block),
        Answered::Kill => Some(Action::Kill),
    };
    let reason = reason.filter(|reason| !reason.is_empty()).map(|mut reason| {
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        reason
    });
    Some((Reply { action, reason, score }, keeps.map(|seconds| Duration::from_secs(seconds.into()))))
}

/// Leaves a service alone that fails again and again.
#[derive(Debug, Default)]
struct Breaker {
    failures: Vec<Instant>,
    open_until: Option<Instant>,
}

impl Breaker {
    /// Whether the service may be asked. After a while one question tries whether it is back.
    fn lets_through(&mut self, now: Instant) -> bool {
        match self.open_until {
            Some(until) if now < until => false,
            Some(_) => {
                self.open_until = Some(now + PERIOD);
                true
            }
            None => true,
        }
    }

    /// Notes how a question ended. Returns whether the service is left alone from now on.
    fn note(&mut self, is_answered: bool, now: Instant) -> bool {
        if is_answered {
            *self = Self::default();
            return false;
        }
        self.failures.retain(|failed| now.duration_since(*failed) < PERIOD);
        self.failures.push(now);
        if self.failures.len() < FAILURES || self.open_until.is_some_and(|until| now < until) {
            return false;
        }
        self.open_until = Some(now + PERIOD);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_in_the_form_of_opa_are_read_and_others_are_none() {
        let action = |text: &str| read(text.as_bytes()).map(|(reply, _)| reply.action);
        assert_eq!(action(r#"{"result": true, "decision_id": "x"}"#), Some(None));
        assert_eq!(action(r#"{"result": false}"#), Some(Some(Action::Block)));
        assert_eq!(action(r#"{"result": {"action": "hold", "extra": 1}}"#), Some(Some(Action::Hold)));
        let text = r#"{"result": {"action": "flag", "reason": "new", "score": 4, "cache_s": 5}}"#;
        let reply = Reply { action: Some(Action::Flag), reason: Some("new".to_owned()), score: 4.0 };
        assert_eq!(read(text.as_bytes()), Some((reply, Some(Duration::from_secs(5)))));
        for none in [
            "",
            "{}",
            "true",
            r#"{"result": null}"#,
            r#"{"result": {"allow": true}}"#,
            "[true]",
            r#"[{"action": "allow"}]"#,
            r#"{"result": ["allow"]}"#,
            r#"{"result": {"action": {"allow": null}}}"#,
            r#"{"result": {"action": "permit"}}"#,
            r#"{"result": {"action": "allow", "score": -10}}"#,
        ] {
            assert_eq!(read(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn five_failures_in_ten_seconds_open_the_breaker_and_one_answer_closes_it() {
        let (mut breaker, begin) = (Breaker::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        // Far apart they are no reason.
        for seconds in [0, 11, 22, 33, 44] {
            assert!(breaker.lets_through(at(seconds)) && !breaker.note(false, at(seconds)));
        }
        let opened: Vec<bool> = (45..49).map(|seconds| breaker.note(false, at(seconds))).collect();
        assert_eq!(opened, [false, false, false, true]);
        assert!(!breaker.lets_through(at(57)));
        assert!(breaker.lets_through(at(58)) && !breaker.lets_through(at(58)), "one tries");
        breaker.note(true, at(59));
        assert!(breaker.lets_through(at(59)));
    }
}
