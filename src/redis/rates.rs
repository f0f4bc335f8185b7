//! Rates of limits in Redis, which the instances of a fleet share. All are in one slot of a cluster, so that a request can take of
//! all its rates in one step.

use std::sync::Arc;

use super::budgets::{Mode, first_arguments};
use super::call::Script;
use super::connect::{Link, LinkError};
use super::keys::Keys;

/// One rate of a call. Amounts are below 2^53, because Lua has doubles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateEntry {
    /// Its name.
    pub name: String,
    /// The counter of this instance; its number is never used again.
    pub writer: u64,
    /// Units that flow off in a period.
    pub count: u64,
    /// The most units at once.
    pub burst: u64,
    /// The period, in milliseconds.
    pub period: u64,
    /// What the counter has taken in all. Less than before if something was given back.
    pub own: i64,
    /// How much of that was reported.
    pub saved: i64,
    /// The level as this instance knows it, for a store that has lost its own.
    pub level: u64,
    /// What the instance keeps of its grant.
    pub keep: u64,
    /// What the request takes.
    pub cost: u64,
    /// The longest wait, in milliseconds.
    pub ahead: u64,
    /// The most that is granted for the next requests.
    pub most: u64,
}

/// What has become of one rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenRate {
    /// The level, with what was taken.
    pub level: u64,
    /// What the instance may take without asking.
    pub grant: u64,
    /// How long the request has to wait, in milliseconds.
    pub wait: u64,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateOutcome {
    /// All units were taken; how many instances there are.
    Taken(u64, Vec<TakenRate>),
    /// There is no room: the position of the rate, and the milliseconds until there is.
    Refused(usize, u64),
    /// The store was wiped and does not know all levels yet.
    Rebuilding,
}

/// The rates in Redis.
#[derive(Debug)]
pub struct RateStore {
    link: Arc<Link>,
    keys: Keys,
    instance: String,
    take: Script,
}

impl RateStore {
    /// The rates behind `link`, for this instance; its name is never used again.
    pub fn new(link: Arc<Link>, keys: Keys, instance: String) -> Self {
        Self { link, keys, instance, take: Script::new(include_str!("take_rates.lua")) }
    }

    /// Whether Redis can be asked.
    pub fn is_up(&self) -> bool {
        self.link.is_up()
    }

    /// Stores what the instance has taken, and takes more in [`Mode::Ask`]. `number` grows with each call. Returns whether the
    /// store has forgotten this instance since its last call, too.
    ///
    /// # Errors
    /// Redis is unavailable; it may have carried out the call.
    pub async fn call(
        &self,
        number: u64,
        mode: Mode,
        is_registered: bool,
        entries: &[RateEntry],
    ) -> Result<(RateOutcome, bool), LinkError> {
        let holdings = self.keys.rate_holdings();
        let keys = vec![self.keys.rate_instances(), format!("{holdings}{}", self.instance)];
        let prefixes = (self.keys.rates(), holdings);
        let mut arguments = first_arguments(&self.instance, number, mode, is_registered, prefixes);
        for entry in entries {
            let RateEntry {
                writer, count, burst, period, own, saved, level, keep, cost, ahead, most, ..
            } = entry;
            arguments.extend([entry.name.clone(), format!("{}.{writer}", self.instance)]);
            arguments.extend([count, burst, period].map(u64::to_string));
            arguments.extend([own, saved].map(i64::to_string));
            arguments.extend([level, keep, cost, ahead, most].map(u64::to_string));
        }
        let answer: Vec<String> = self.link.run(&self.take, keys, arguments).await?;
        read(&answer, entries.len())
            .map(|(outcome, known)| (outcome, is_registered && !known))
            .ok_or_else(|| LinkError::Away("a call for rates came late".into()))
    }
}

/// Reads the answer to a call for `count` rates, and whether the instance was known; `None` if it came late.
fn read(answer: &[String], count: usize) -> Option<(RateOutcome, bool)> {
    let number = |place: usize| answer.get(place)?.parse::<u64>().ok();
    match answer.first()?.as_str() {
        "taken" => {
            let rate = |place: usize| {
                let at = 3 + 3 * place;
                Some(TakenRate { level: number(at)?, grant: number(at + 1)?, wait: number(at + 2)? })
            };
            let rates = (0..count).map(rate).collect::<Option<_>>()?;
            Some((RateOutcome::Taken(number(2)?, rates), number(1)? == 1))
        }
        "refused" => {
            let place = usize::try_from(number(1)?.checked_sub(1)?).ok()?;
            Some((RateOutcome::Refused(place, number(2)?), number(3) == Some(1)))
        }
        "rebuilding" => Some((RateOutcome::Rebuilding, number(1) == Some(1))),
        _ => None,
    }
}
