//! The key that makes principals of credentials, as all instances of a fleet share it.
//!
//! Beside the key stands since when a fleet has agreed on it. A running instance that was in agreement once
//! writes its key again when Redis has lost it, and in the place of one that a fleet agreed on later: such a one
//! was made by an instance that found Redis wiped. Nobody takes another key over while it runs.

use std::time::{Duration, Instant};

use super::call::{Call, Script};
use super::connect::{Link, LinkError};
use super::keys::Keys;
use super::probe::reach;
use super::settings::Settings;
use crate::settings::secret::Secret;

/// An instance that runs writes a lost key again within its beat of one second. One that starts waits this long for
/// it before it proposes its own.
const INCUMBENT: Duration = Duration::from_secs(3);
/// Between two looks.
const STEP: Duration = Duration::from_millis(50);
/// What an instance that starts asks on the channel of ends, to learn how many listen. No instance understands it.
const ANYBODY: &str = "principals?";

/// Compares the keys.
const CLAIM: &str = include_str!("claim_principals_key.lua");

/// A principals' key that an instance knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The key, in hex.
    pub key: Secret,
    /// Since when a fleet has agreed on it, in milliseconds since 1970; 0 when none did.
    pub since_ms: u64,
}

/// What came of comparing an instance's key with the one in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is the one in Redis.
    Same,
    /// Redis had none; it has this one now.
    Written,
    /// Redis had one that a fleet agreed on later; it has this one now.
    Replaced,
    /// Redis has another one.
    Other,
    /// Redis has none, and it was not to be written.
    Missing,
}

/// The answer to a claim.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// How the own key stands.
    pub standing: Standing,
    /// The key in Redis, and since when it has been agreed on.
    pub in_force: Claim,
    /// True while instances with different keys run, or did within the last day.
    pub is_mixed: bool,
}

/// What a claim does to the key in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// Only looks, and notes since when an equal key has been agreed on.
    Look,
    /// Writes the own key when there is none.
    Write,
    /// The claim of an instance that runs: it is noted when it lives by another key.
    Run {
        /// Whether a key that a fleet agreed on later is replaced.
        replaces: bool,
        /// Whether a missing key is written.
        writes: bool,
    },
}

/// Compares the own key with the one in Redis.
///
/// # Errors
/// Redis is away, or takes no writes when one is needed.
pub async fn claim(link: &Link, keys: &Keys, own: &Claim, means: Means) -> Result<Claimed, LinkError> {
    let (other, missing) = match means {
        Means::Look => ("look", "keep"),
        Means::Write => ("look", "write"),
        Means::Run { replaces, writes } => {
            (if replaces { "replace" } else { "note" }, if writes { "write" } else { "keep" })
        }
    };
    let arguments = vec![own.key.reveal().to_owned(), own.since_ms.to_string(), other.into(), missing.into()];
    let places = vec![keys.principals(), keys.agreed()];
    let (how, key, since, mixed): (String, String, String, u8) =
        link.run(&Script::new(CLAIM), places, arguments).await?;
    let standing = match how.as_str() {
        "same" => Standing::Same,
        "written" => Standing::Written,
        "replaced" => Standing::Replaced,
        "missing" => Standing::Missing,
        _ => Standing::Other,
    };
    let in_force = Claim { key: Secret::new(key), since_ms: since.parse().unwrap_or(0) };
    Ok(Claimed { standing, in_force, is_mixed: mixed == 1 })
}

/// How an instance that starts came to its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Agreed {
    /// This key is in force.
    InForce(Claim),
    /// This one is in force; the instance had another one that a fleet agreed on, and gives it up.
    GivenUp(Claim),
    /// Another key is in force, and orders or sessions exist: the instance keeps its own, elder one.
    Kept,
}

/// The key that an instance starts with: the one in Redis, else its own.
///
/// A missing key was perhaps lost a moment ago: while other instances run, this one waits until they have written it
/// again, 3 s at most.
///
/// # Errors
/// Redis does not answer.
pub async fn agree(settings: &Settings, own: &Claim) -> Result<Agreed, LinkError> {
    let (link, keys) = (Link::new(settings)?, Keys::new(settings));
    reach(&link).await?;
    let agreed = settled(&link, &keys, own).await;
    link.close().await;
    agreed
}

async fn settled(link: &Link, keys: &Keys, own: &Claim) -> Result<Agreed, LinkError> {
    let begun = Instant::now();
    let mut others = None;
    loop {
        let Claimed { standing, in_force, .. } = claim(link, keys, own, Means::Look).await?;
        let is_elder = own.since_ms > 0 && (in_force.since_ms == 0 || own.since_ms < in_force.since_ms);
        match standing {
            Standing::Same => return Ok(Agreed::InForce(in_force)),
            Standing::Other if own.since_ms == 0 => return Ok(Agreed::InForce(in_force)),
            Standing::Other if !is_elder => return Ok(Agreed::GivenUp(in_force)),
            // Somebody who runs may be about to set this right.
            _ => {}
        }
        let others = match others {
            Some(others) => others,
            None => *others.insert(anybody(link, keys).await?),
        };
        if others && begun.elapsed() < INCUMBENT {
            tokio::time::sleep(STEP).await;
            continue;
        }
        if standing == Standing::Missing {
            let claimed = claim(link, keys, own, Means::Write).await?;
            if matches!(claimed.standing, Standing::Written | Standing::Same) {
                return Ok(Agreed::InForce(claimed.in_force));
            }
            continue;
        }
        let is_used = others || holds_anything(link, keys).await?;
        return Ok(if is_used { Agreed::Kept } else { Agreed::GivenUp(in_force) });
    }
}

/// True when an instance listens.
async fn anybody(link: &Link, keys: &Keys) -> Result<bool, LinkError> {
    let channel = keys.end_channel();
    Ok(link.publish(channel.clone(), ANYBODY.to_owned(), &channel).await? > 0)
}

/// True when Redis knows of an order or an active session.
async fn holds_anything(link: &Link, keys: &Keys) -> Result<bool, LinkError> {
    let first = |set| {
        let range = ["-inf", "+inf", "LIMIT", "0", "1"].map(str::to_owned);
        Call::new("ZRANGEBYSCORE", [set].into_iter().chain(range))
    };
    let found = link.calls(vec![first(keys.kills()), first(keys.sessions())]).await?;
    Ok(found.into_iter().flatten().any(|found| !found.into_array().is_empty()))
}
