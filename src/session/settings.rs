//! The part of `session:` in the configuration about lifetimes, limits and kills.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::redis;
use crate::session::views::kill_order::BlockMode;
use crate::settings::fault::Faults;
use crate::settings::units::DurationText;

/// How long a killed id stays refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Block {
    /// What ends the block.
    pub mode: BlockMode,
    /// Duration of the block with mode `duration`.
    pub duration: DurationText,
}

impl Default for Block {
    fn default() -> Self {
        Self { mode: BlockMode::Duration, duration: DurationText::secs(24 * 3600) }
    }
}

/// `session.starts_per_address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "SessionStarts")]
pub struct StartRate {
    /// New sessions of one client address per second in the long run; 0 is no limit.
    pub per_second: u32,
    /// New sessions of one client address at once.
    pub burst: u32,
}

impl Default for StartRate {
    fn default() -> Self {
        Self { per_second: 50, burst: 5000 }
    }
}

/// Where sessions are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// In this process: one instance.
    #[default]
    Memory,
    /// In Redis: any number of instances.
    Redis,
}

impl StoreKind {
    /// The name in the configuration and in health answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis => "redis",
        }
    }
}

/// The keys of `session:`, except those of the identity chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Session")]
pub struct SessionConfig {
    /// Where sessions are stored. Needs a restart.
    pub store: StoreKind,
    /// A session times out after this time without a byte.
    pub idle_timeout: DurationText,
    /// A session times out at this age, active or not; 0 is no limit.
    pub max_duration: DurationText,
    /// A session is completed this long after its last request ended; 0 is never.
    pub completed_after: DurationText,
    /// How long ended sessions are listed.
    pub retention: DurationText,
    /// Active sessions of all principals; above it the longest idle session without an open request ends.
    pub max_active: usize,
    /// Active sessions of one principal; above it the longest idle of its own sessions ends.
    pub max_active_per_principal: usize,
    /// How fast one client address may start sessions; an IPv6 /64 counts as one address.
    pub starts_per_address: StartRate,
    /// The block of a kill that does not specify one.
    pub kill_block: Block,
    /// The Redis of `store: redis`. Needs a restart, except for `flush_interval` and `on_unavailable`.
    pub redis: redis::RedisConfig,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            store: StoreKind::Memory,
            idle_timeout: DurationText::secs(30 * 60),
            max_duration: DurationText::secs(24 * 3600),
            completed_after: DurationText::secs(0),
            retention: DurationText::secs(24 * 3600),
            max_active: 100_000,
            max_active_per_principal: 10_000,
            starts_per_address: StartRate::default(),
            kill_block: Block::default(),
            redis: redis::RedisConfig::default(),
        }
    }
}

/// The compiled settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub(in crate::session) idle_timeout: Duration,
    pub(in crate::session) max_duration: Option<Duration>,
    pub(in crate::session) completed_after: Option<Duration>,
    pub(in crate::session) retention: Duration,
    pub(in crate::session) max_active: usize,
    pub(in crate::session) max_active_per_principal: usize,
    pub(in crate::session) starts_per_address: StartRate,
    pub(in crate::session) kill_block: Block,
    redis: Option<redis::Settings>,
}

impl Settings {
    /// Where sessions are stored.
    pub fn store(&self) -> StoreKind {
        if self.redis.is_some() { StoreKind::Redis } else { StoreKind::Memory }
    }

    /// The Redis of `store: redis`; `None` with `store: memory`.
    pub fn redis(&self) -> Option<&redis::Settings> {
        self.redis.as_ref()
    }
}

impl SessionConfig {
    /// Compiles the configuration and adds every fault to `faults`. `None` if there was one.
    pub fn compile(self, faults: &mut Faults) -> Option<Settings> {
        let mut whole = true;
        let mut demand = |holds: bool, key: &str, message: &str, hint: &str| {
            if !holds {
                whole = false;
                faults.add(format!("session.{key}"), message, hint);
            }
        };
        demand(
            self.idle_timeout.limit().is_some(),
            "idle_timeout",
            "is 0: no session would ever time out",
            "write a length of time, like 30m",
        );
        for (key, count) in
            [("max_active", self.max_active), ("max_active_per_principal", self.max_active_per_principal)]
        {
            demand(count > 0, key, "is 0: every request would be refused", "write 1 or more");
        }
        demand(
            self.starts_per_address.burst > 0 || self.starts_per_address.per_second == 0,
            "starts_per_address.burst",
            "is 0: no address could start a session",
            "write 1 or more, or per_second: 0 for no limit",
        );
        demand(
            self.kill_block.is_whole(),
            "kill_block.duration",
            "is 0 with mode duration: a kill would block nothing",
            "write a length of time, like 24h, or mode: until_resumed",
        );
        if self.max_duration.limit().is_some_and(|limit| self.idle_timeout.0 > limit) {
            let message = format!("{} is longer than max_duration, so it never counts", self.idle_timeout);
            faults.warn("session.idle_timeout", message, format!("write less than {}", self.max_duration));
        }
        let redis = self.redis.compile(faults);
        whole &= redis.is_some();
        whole.then_some(Settings {
            idle_timeout: self.idle_timeout.0,
            max_duration: self.max_duration.limit(),
            completed_after: self.completed_after.limit(),
            retention: self.retention.0,
            max_active: self.max_active,
            max_active_per_principal: self.max_active_per_principal,
            starts_per_address: self.starts_per_address,
            kill_block: self.kill_block,
            redis: redis.filter(|_| self.store == StoreKind::Redis),
        })
    }
}

impl Block {
    /// False for a block that would expire at once.
    pub fn is_whole(&self) -> bool {
        self.mode != BlockMode::Duration || self.duration.limit().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_written_is_the_default() {
        let written: SessionConfig = serde_yaml::from_str("{}").unwrap();
        assert_eq!(written, SessionConfig::default());
        let mut faults = Faults::default();
        let settings = written.compile(&mut faults).unwrap();
        assert!(faults.is_empty());
        assert_eq!(settings.max_duration, Some(Duration::from_secs(86_400)));
        assert_eq!(settings.completed_after, None);
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let written: SessionConfig = serde_yaml::from_str(
            "{idle_timeout: 0, max_active: 0, kill_block: {mode: duration, duration: 0}}",
        )
        .unwrap();
        let mut faults = Faults::default();
        assert_eq!(written.compile(&mut faults), None);
        let paths: Vec<&str> = faults.iter().map(|fault| fault.path.as_str()).collect();
        assert_eq!(paths, ["session.idle_timeout", "session.max_active", "session.kill_block.duration"]);
        assert!(serde_yaml::from_str::<SessionConfig>("idle: 3m").is_err());
    }
}
