//! The `RateLimit-Policy` and `RateLimit` header fields (draft-ietf-httpapi-ratelimit-headers-10).

use std::fmt::Write;
use std::sync::Arc;

use super::admission::Admission;
use super::counters::Counter;
use super::limit::{Limit, Unit, Written};

impl Admission {
    /// Returns the values of `RateLimit-Policy` and `RateLimit`: an item for each rate that counts the request. `None` if no
    /// rate does. `now` in milliseconds.
    ///
    /// `q` is the quota in `w` seconds, `qu` its unit unless that is requests; `r` is what is left of it, and `t` the
    /// seconds until all of it is there again.
    pub fn fields(&self, now: u64) -> Option<(String, String)> {
        let (mut policy, mut state) = (String::new(), String::new());
        let held = self.held.iter().map(|held| (&held.limit, &held.counter));
        let refused = self.refused.iter().map(|(limit, counter)| (limit, counter));
        let is_held =
            |(limit, _): &(&Arc<Limit>, _)| self.held.iter().any(|held| Arc::ptr_eq(&held.limit, limit));
        for (limit, counter) in held.chain(refused.filter(|one| !is_held(one))) {
            let amounts = &limit.amounts;
            for (unit, rate) in [
                (Unit::Requests, &amounts.requests),
                (Unit::Tokens, &amounts.tokens),
                (Unit::SessionStarts, &amounts.session_starts),
            ] {
                if let Some(rate) = rate {
                    item((limit, counter), unit, rate, now, (&mut policy, &mut state));
                }
            }
        }
        (!policy.is_empty()).then_some((policy, state))
    }
}

fn item(
    (limit, counter): (&Limit, &Counter),
    unit: Unit,
    (rate, text): &Written,
    now: u64,
    (policy, state): (&mut String, &mut String),
) {
    let (room, empty_in) = {
        let mut levels = counter.lock();
        let bucket = match unit {
            Unit::Tokens => &mut levels.tokens,
            Unit::SessionStarts => &mut levels.session_starts,
            Unit::Requests | Unit::InFlight | Unit::Sessions => &mut levels.requests,
        };
        (bucket.room(rate, now), bucket.empty_in(rate, now))
    };
    for field in [&mut *policy, &mut *state] {
        if !field.is_empty() {
            field.push_str(", ");
        }
        name(field, limit.name(), unit);
    }
    // Writing to a text does not fail.
    let _ = write!(policy, ";q={}", text.count);
    if let Some(suffix) = suffix(unit) {
        let _ = write!(policy, ";qu=\"{suffix}\"");
    }
    let _ = write!(policy, ";w={}", text.period.secs());
    let _ = write!(state, ";r={room};t={}", empty_in.div_ceil(1000));
}

/// Returns what is counted, unless it is requests.
fn suffix(unit: Unit) -> Option<&'static str> {
    match unit {
        Unit::Tokens => Some("tokens"),
        Unit::SessionStarts => Some("sessions"),
        Unit::Requests | Unit::InFlight | Unit::Sessions => None,
    }
}

/// Appends the name of an item, a string of RFC 9651, 3.3.3. A limit may have several rates, so that those of other things
/// than requests say what they count.
fn name(field: &mut String, name: &str, unit: Unit) {
    field.push('"');
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
}
