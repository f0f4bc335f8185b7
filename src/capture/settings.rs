//! The `capture:` section of the configuration.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::Uid;
use crate::policy::expr::{Expression, Truth};
use crate::policy::facts::{Fact, Phase};
use crate::settings::fault::Faults;
use crate::settings::units::ByteSize;
use crate::telemetry::otlp::settings::Ratio;

/// The largest `max_body`. One transaction of the history contains several captures.
const MAX_BODY: ByteSize = ByteSize::mib(1);

/// Which requests are captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "CaptureMode")]
pub enum Mode {
    /// None.
    #[default]
    Off,
    /// Requests that failed: the outcome is not `ok` (killed, timed out, refused, broken off), or the status is 500 or
    /// above.
    Flagged,
    /// All requests of some sessions.
    Sampled,
    /// All requests.
    All,
}

/// The `capture:` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Capture")]
pub struct CaptureConfig {
    /// Which requests are captured with their bodies.
    pub mode: Mode,
    /// A condition for requests that are captured, with the facts of `on: request`; it is asked when the request has been judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// With `sampled`: the share of sessions, 0 to 1. A session is captured as a whole or not at all.
    pub sample_rate: Ratio,
    /// How much of each body is stored, at most 1 MiB.
    pub max_body: ByteSize,
    /// How many requests of a session are captured: the first ones.
    pub max_per_session: u32,
    /// True: redact secrets in the stored copy. What passes is never changed.
    pub redact: bool,
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Off,
            when: None,
            sample_rate: Ratio::new(0.01),
            max_body: ByteSize::kib(64),
            max_per_session: 100,
            redact: true,
        }
    }
}

/// Compiled settings.
#[derive(Clone, Debug)]
pub struct Settings {
    mode: Mode,
    when: Option<Arc<Expression>>,
    rate: Ratio,
    /// The number of bytes stored of each body.
    pub max_body: usize,
    /// The number of requests captured per session.
    pub max_per_session: u32,
    /// Whether secrets are redacted.
    pub redact: bool,
}

impl Settings {
    /// Whether `capture.when` asks for a fact.
    pub fn asks_for(&self, fact: Fact) -> bool {
        self.when.as_ref().is_some_and(|when| when.asks_for(fact))
    }

    /// Returns true unless `capture.mode` is `off`.
    pub fn is_on(&self) -> bool {
        self.mode != Mode::Off
    }

    /// Returns true if a request with these facts may be captured. A condition that cannot be decided counts as yes.
    pub fn wants(&self, facts: impl FnOnce(&Expression) -> Truth) -> bool {
        self.when.as_deref().is_none_or(|when| facts(when) != Truth::No)
    }

    /// Returns true if a request of this session may turn out to be captured.
    pub fn may_keep(&self, session: Uid) -> bool {
        self.keeps(session, true)
    }

    /// Returns true if a finished request is captured. `is_flagged`: it failed.
    pub fn keeps(&self, session: Uid, is_flagged: bool) -> bool {
        match self.mode {
            Mode::Off => false,
            Mode::Flagged => is_flagged,
            Mode::Sampled => self.rate.takes(session.as_u128()),
            Mode::All => true,
        }
    }
}

impl CaptureConfig {
    /// Compiles the section. Returns `None` and adds to `faults` if it is invalid.
    pub fn compile(self, faults: &mut Faults) -> Option<Settings> {
        let mut good = true;
        let mut fault = |path: &str, message: String, hint: &str| {
            faults.add(path, message, hint);
            good = false;
        };
        if self.max_body.0 == 0 || self.max_body.0 > MAX_BODY.0 {
            let message = format!("{} of a body cannot be stored", self.max_body);
            fault("capture.max_body", message, "write a size up to 1MiB, or capture.mode: off");
        }
        if self.max_per_session == 0 {
            let message = "no request would be captured".to_owned();
            fault("capture.max_per_session", message, "write a number such as 100, or capture.mode: off");
        }
        if self.mode != Mode::Off && !self.redact {
            let hint =
                "write capture.redact: true, unless the history file is protected like the secrets in it";
            faults.warn("capture.redact", "bodies are stored with the secrets in them", hint);
        }
        let when = self.when.map(|source| {
            let compiled = Expression::condition(&source, Phase::Request).and_then(Expression::outside_rules);
            compiled.map_err(|fault| {
                faults.add_within("capture.when", &source, fault.at, fault.message, fault.hint);
            })
        });
        let when = when.transpose().ok()?;
        if when.is_some() && self.mode == Mode::Off {
            faults.warn("capture.when", "nothing is captured", "set capture.mode: all");
        }
        good.then_some(Settings {
            mode: self.mode,
            when: when.map(Arc::new),
            rate: self.sample_rate,
            max_body: self.max_body.as_len(),
            max_per_session: self.max_per_session,
            redact: self.redact,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(yaml: &str) -> (Option<Settings>, Faults) {
        let mut faults = Faults::default();
        let settings = serde_yaml::from_str::<CaptureConfig>(yaml).unwrap().compile(&mut faults);
        (settings, faults)
    }

    #[test]
    fn a_mode_says_which_requests_are_kept() {
        let keeps = |yaml: &str| {
            let settings = compiled(yaml).0.unwrap();
            let uid = Uid::fresh();
            (settings.may_keep(uid), settings.keeps(uid, false), settings.keeps(uid, true))
        };
        assert_eq!(keeps("mode: off"), (false, false, false));
        assert_eq!(keeps("mode: flagged"), (true, false, true));
        assert_eq!(keeps("{ mode: sampled, sample_rate: 0 }"), (false, false, false));
        assert_eq!(keeps("{ mode: sampled, sample_rate: 1 }"), (true, true, true));
        assert_eq!(keeps("mode: all"), (true, true, true));
    }

    #[test]
    fn what_keeps_nothing_or_too_much_is_a_fault() {
        for (yaml, path) in [
            ("max_body: 0B", "capture.max_body"),
            ("max_body: 2MiB", "capture.max_body"),
            ("max_per_session: 0", "capture.max_per_session"),
        ] {
            let (settings, faults) = compiled(yaml);
            assert!(settings.is_none() && faults.iter().any(|fault| fault.path == path), "{yaml}");
        }
        let (settings, faults) = compiled("{ mode: all, redact: false }");
        assert!(settings.is_some() && faults.warnings().len() == 1);
        assert!(compiled("{ mode: all }").1.warnings().is_empty());
    }
}
