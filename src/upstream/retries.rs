//! `backends.NAME.retries`: after which failures another backend is asked, and how often.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::fault::Faults;

/// The largest `attempts`: more backends would delay the error rather than avoid it.
const MAX_ATTEMPTS: u32 = 8;

/// `backends.NAME.retries`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "BackendRetries")]
pub struct BackendRetriesConfig {
    /// How many other backends may be asked after this one; 0 for none.
    pub attempts: u32,
    /// After which failures.
    pub on: Vec<Failure>,
}

/// How a backend failed before a byte of its response was sent to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Its name was not resolved, or no connection, or no TLS: it has seen nothing of the request.
    ConnectFailure,
    /// It answered with a status from 500 on.
    ServerError,
    /// It answered 429.
    RateLimited,
    /// It was silent for `server.timeouts.upstream_first_byte`; it may still be working.
    FirstByteTimeout,
    /// It broke the connection off; it may have done the work.
    Broken,
}

impl Failure {
    /// The word in the configuration and in the metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::ConnectFailure => "connect_failure",
            Self::ServerError => "server_error",
            Self::RateLimited => "rate_limited",
            Self::FirstByteTimeout => "first_byte_timeout",
            Self::Broken => "broken",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Default for BackendRetriesConfig {
    fn default() -> Self {
        Self { attempts: 1, on: vec![Failure::ConnectFailure, Failure::ServerError, Failure::RateLimited] }
    }
}

/// The compiled section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Retries {
    /// How many other backends may be asked.
    pub attempts: u32,
    /// Bit set of [`Failure`].
    on: u8,
}

impl Retries {
    /// Returns whether another backend is tried after this failure.
    pub fn follow(self, failure: Failure) -> bool {
        self.on & bit(failure) != 0
    }
}

fn bit(failure: Failure) -> u8 {
    1 << failure as u8
}

impl BackendRetriesConfig {
    /// Compiles the section of the backend `name`.
    pub fn compile(self, name: &str, faults: &mut Faults) -> Option<Retries> {
        if self.attempts > MAX_ATTEMPTS {
            let message =
                format!("{} attempts are more than the {MAX_ATTEMPTS} that can be made", self.attempts);
            faults.add(format!("backends.{name}.retries.attempts"), message, "write a smaller number");
            return None;
        }
        Some(Retries {
            attempts: self.attempts,
            on: self.on.into_iter().fold(0, |on, failure| on | bit(failure)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_failures_are_followed() {
        let written =
            BackendRetriesConfig { attempts: 2, on: vec![Failure::Broken, Failure::ConnectFailure] };
        let retries = written.compile("b", &mut Faults::default()).unwrap();
        let all = [
            Failure::ConnectFailure,
            Failure::ServerError,
            Failure::RateLimited,
            Failure::FirstByteTimeout,
            Failure::Broken,
        ];
        assert_eq!(all.map(|failure| retries.follow(failure)), [true, false, false, false, true]);
        for failure in all {
            assert_eq!(serde_json::to_value(failure).unwrap(), failure.name());
        }
    }

    #[test]
    fn endless_attempts_are_a_fault() {
        let mut faults = Faults::default();
        assert_eq!(
            BackendRetriesConfig { attempts: 99, ..BackendRetriesConfig::default() }
                .compile("b", &mut faults),
            None
        );
        assert!(
            faults.to_string().starts_with("backends.b.retries.attempts: 99 attempts are more"),
            "{faults}"
        );
    }
}
