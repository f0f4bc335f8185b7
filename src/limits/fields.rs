//! The `RateLimit-Policy` and `RateLimit` header fields (draft-ietf-httpapi-ratelimit-headers-10).

use std::fmt::Write;
use std::sync::Arc;

use super::admission::{Admission, UsedUp};
use super::counters::Counter;
use super::limit::{Amounts, Limit, Unit, Written};

/// What the fields say of one rate, as far as it is always the same.
#[derive(Clone, Debug)]
pub(super) struct Item {
    unit: Unit,
    rate: Written,
    /// The item of `RateLimit-Policy`.
    policy: Box<str>,
    /// The name, in quotes.
    name: Box<str>,
}

impl Item {
    /// Returns those of a limit: one for each of its rates.
    pub(super) fn of(limit: &str, amounts: &Amounts) -> Box<[Self]> {
        let rates = [
            (Unit::Requests, amounts.requests),
            (Unit::Tokens, amounts.tokens),
            (Unit::SessionStarts, amounts.session_starts),
        ];
        rates.into_iter().filter_map(|(unit, rate)| Some(Self::new(limit, unit, rate?))).collect()
    }

    fn new(limit: &str, unit: Unit, rate: Written) -> Self {
        let name = quoted(limit, unit);
        let (_, text) = &rate;
        let unit_of_quota = suffix(unit).map(|suffix| format!(";qu=\"{suffix}\"")).unwrap_or_default();
        let policy = format!("{name};q={}{unit_of_quota};w={}", text.count, text.period.secs());
        Self { unit, rate, policy: policy.into(), name: name.into() }
    }

    /// Appends both items. Of what has refused the request nothing is left, even if this instance of a fleet has not heard of it.
    fn write(
        &self,
        counter: &Counter,
        now: u64,
        is_used_up: bool,
        (policy, state): (&mut String, &mut String),
    ) {
        let rate = &self.rate.0;
        let (room, empty_in) = {
            let mut levels = counter.lock();
            let bucket = match self.unit {
                Unit::Tokens => &mut levels.tokens,
                Unit::SessionStarts => &mut levels.session_starts,
                Unit::Requests | Unit::InFlight | Unit::Sessions => &mut levels.requests,
            };
            (if is_used_up { 0 } else { bucket.room(rate, now) }, bucket.empty_in(rate, now))
        };
        if !policy.is_empty() {
            policy.push_str(", ");
            state.push_str(", ");
        }
        policy.push_str(&self.policy);
        state.push_str(&self.name);
        // Writing to a text does not fail.
        let _ = write!(state, ";r={room};t={}", empty_in.div_ceil(1000));
    }
}

impl Admission {
    /// Returns the values of `RateLimit-Policy` and `RateLimit`: an item for each rate that counts the request. `None` if no
    /// rate does. `now` in milliseconds.
    ///
    /// `q` is the quota in `w` seconds, `qu` its unit unless that is requests; `r` is what is left of it, and `t` the
    /// seconds until all of it is there again.
    pub fn fields(&self, now: u64) -> Option<(String, String)> {
        let held = self.held.iter().map(|held| (&held.limit, &held.counter));
        let refused = self.refused.iter().map(|used_up| (&used_up.limit, &used_up.counter));
        let is_held =
            |(limit, _): &(&Arc<Limit>, _)| self.held.iter().any(|held| Arc::ptr_eq(&held.limit, limit));
        let counted = || held.clone().chain(refused.clone().filter(|one| !is_held(one)));
        let length = counted().flat_map(|(limit, _)| &limit.items).map(|item| item.policy.len() + 2).sum();
        if length == 0 {
            return None;
        }
        let (mut policy, mut state) = (String::with_capacity(length), String::with_capacity(length));
        for (limit, counter) in counted() {
            for item in &limit.items {
                let is_it =
                    |used_up: &UsedUp| Arc::ptr_eq(&used_up.limit, limit) && used_up.unit == item.unit;
                let is_used_up = self.refused.as_deref().is_some_and(is_it);
                item.write(counter, now, is_used_up, (&mut policy, &mut state));
            }
        }
        Some((policy, state))
    }
}

/// Returns what is counted, unless it is requests.
fn suffix(unit: Unit) -> Option<&'static str> {
    match unit {
        Unit::Tokens => Some("tokens"),
        Unit::SessionStarts => Some("sessions"),
        Unit::Requests | Unit::InFlight | Unit::Sessions => None,
    }
}

/// Returns the name of an item, a string of RFC 9651, 3.3.3. A limit may have several rates, so that those of other things
/// than requests say what they count.
fn quoted(name: &str, unit: Unit) -> String {
    let mut field = String::from('"');
    for character in name.chars().map(|character| if character.is_ascii_graphic() { character } else { ' ' })
    {
        if matches!(character, '"' | '\\') {
            field.push('\\');
        }
        field.push(character);
    }
    if let Some(suffix) = suffix(unit) {
        field.push(' ');
        field.push_str(suffix);
    }
    field.push('"');
    field
}
