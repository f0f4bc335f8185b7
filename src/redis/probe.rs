//! Tries once whether the configured Redis can be used, without starting the gateway.

use std::time::Duration;

use fred::types::InfoKind;

use super::connect::{Link, LinkError};
use super::keys::Keys;
use super::rights;
use super::settings::Settings;
use super::signals::Signals;

/// How long to wait for the first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(3);
/// Interval between two attempts.
const STEP: Duration = Duration::from_millis(20);

pub(super) async fn reach(link: &Link) -> Result<(), LinkError> {
    link.connect();
    let answered = tokio::time::timeout(FIRST_ANSWER, async {
        while link.ping().await.is_err() {
            tokio::time::sleep(STEP).await;
        }
    });
    answered.await.map_err(|_| LinkError::Away(link.fault().unwrap_or_else(|| "no answer".to_owned())))
}

/// What the probe found.
#[derive(Debug)]
pub struct ProbeResult {
    /// The server's version.
    pub version: String,
    /// The eviction policy of a server that evicts keys when its memory is full; `None` if none does.
    pub evicts: Option<String>,
}

/// Connects, checks every right, and subscribes.
///
/// # Errors Redis does not answer, or the user lacks a right.
pub async fn probe(settings: &Settings) -> Result<ProbeResult, LinkError> {
    let (link, keys) = (Link::new(settings)?, Keys::new(settings));
    reach(&link).await?;
    rights::check(&link, &keys).await?;
    Signals::subscribe(&link, &keys).await?;
    let servers = link.info(InfoKind::Server).await?;
    let version = servers.iter().find_map(|info| field(info, "redis_version")).unwrap_or_default();
    let memory = link.info(InfoKind::Memory).await?;
    let policies = memory.iter().filter_map(|info| field(info, "maxmemory_policy"));
    let evicts = policies.into_iter().find(|policy| policy != "noeviction");
    link.close().await;
    Ok(ProbeResult { version, evicts })
}

fn field(info: &str, name: &str) -> Option<String> {
    let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned());
    info.lines().find_map(value)
}
