//! The `RateLimit-Policy` and `RateLimit` header fields (draft-ietf-httpapi-ratelimit-headers-10).

use std::fmt::Write;
use std::sync::Arc;

use super::counters::Counter;
use super::limiter::{Admission, Limit, Unit, Written};

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
            for (unit, rate) in [(Unit::Requests, &limit.requests), (Unit::Tokens, &limit.tokens)] {
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
        let bucket = if unit == Unit::Tokens { &mut levels.tokens } else { &mut levels.requests };
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
    if unit == Unit::Tokens {
        policy.push_str(";qu=\"tokens\"");
    }
    let _ = write!(policy, ";w={}", text.period.secs());
    let _ = write!(state, ";r={room};t={}", empty_in.div_ceil(1000));
}

/// Appends the name of an item, a string of RFC 9651, 3.3.3. A limit may have two rates, so that of tokens says so.
fn name(field: &mut String, name: &str, unit: Unit) {
    field.push('"');
    for character in name.chars().map(|character| if character.is_ascii_graphic() { character } else { ' ' })
    {
        if matches!(character, '"' | '\\') {
            field.push('\\');
        }
        field.push(character);
    }
    if unit == Unit::Tokens {
        field.push_str(" tokens");
    }
    field.push('"');
}
