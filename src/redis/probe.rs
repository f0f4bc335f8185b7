//! Whether the configured Redis can be used, tried once, without running anything.

use std::time::Duration;

use fred::types::InfoKind;

use super::connect::{Link, LinkError};
use super::keys::Keys;
use super::rights;
use super::settings::Settings;
use super::signals::Signals;

/// The first answer may take this long.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks.
const STEP: Duration = Duration::from_millis(20);

pub(super) async fn reach(link: &Link) -> Result<(), LinkError> {
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

/// Connects, makes sure of every right, subscribes.
///
/// # Errors
/// Redis does not answer, or this user lacks a right.
pub async fn probe(settings: &Settings) -> Result<Found, LinkError> {
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
    Ok(Found { version, evicts })
}

fn field(info: &str, name: &str) -> Option<String> {
    let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned());
    info.lines().find_map(value)
}
