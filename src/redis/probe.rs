//! Whether the configured Redis can be used, tried once, without running anything.

use std::time::Duration;

use fred::types::InfoKind;

use super::call::{Call, Script};
use super::connect::{Link, LinkError};
use super::keys::Keys;
use super::settings::Settings;
use super::signals::Signals;

/// The first answer may take this long.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks.
const STEP: Duration = Duration::from_millis(20);

/// The value of the key that makes principals of credentials: this one, unless another instance was
/// first.
///
/// # Errors
/// Redis does not answer.
pub async fn agree(settings: &Settings, proposal: String) -> Result<String, LinkError> {
    let (link, key) = (Link::new(settings)?, Keys::new(settings).principals());
    reach(&link).await?;
    let calls = vec![Call::new("SETNX", [key.clone(), proposal]), Call::new("GET", [key])];
    let agreed = link.calls(calls).await?.pop();
    link.close().await;
    let agreed = agreed.transpose()?.and_then(|value| value.as_string());
    agreed.ok_or_else(|| LinkError::Refused("the principals' key is gone again".to_owned()))
}

async fn reach(link: &Link) -> Result<(), LinkError> {
    link.connect();
    let answered = tokio::time::timeout(PATIENCE, async {
        while link.ping().await.is_err() {
            tokio::time::sleep(STEP).await;
        }
    });
    answered.await.map_err(|_| LinkError::Away(link.fault().unwrap_or_else(|| "no answer".to_owned())))
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// The server's version.
    pub version: String,
    /// A policy for a full memory by which keys are forgotten then; of any server of a cluster.
    pub evicts: Option<String>,
}

/// Connects, runs a script, subscribes.
///
/// # Errors
/// Redis does not answer, or this user may not do one of the three.
pub async fn probe(settings: &Settings) -> Result<Found, LinkError> {
    let (link, keys) = (Link::new(settings)?, Keys::new(settings));
    reach(&link).await?;
    let (script, key) = (Script::new("return redis.call('EXISTS', KEYS[1])"), keys.sessions());
    link.run::<i64>(&script, vec![key], Vec::new()).await?;
    Signals::subscribe(&link, &keys).await?;
    let servers = link.info(InfoKind::Server).await?;
    let version = servers.iter().find_map(|info| field(info, "redis_version")).unwrap_or_default();
    let memory = link.info(InfoKind::Memory).await?;
    let policies = memory.iter().filter_map(|info| field(info, "maxmemory_policy"));
    let evicts = policies.into_iter().find(|policy| policy != "noeviction");
    link.close().await;
    Ok(Found { version, evicts })
}

fn field(info: &str, name: &str) -> Option<String> {
    let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned());
    info.lines().find_map(value)
}
