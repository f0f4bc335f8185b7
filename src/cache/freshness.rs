//! How long an answer is fresh, and how old it is (RFC 9111, 4.2).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{AGE, DATE, EXPIRES, LAST_MODIFIED};
use http::{HeaderMap, HeaderName};
use httpdate::parse_http_date;

use super::directives::{Directives, Seconds};

/// The longest age that is told apart (RFC 9111, 1.2.2).
const MAX_AGE: u64 = 1 << 31;

/// What is kept of an answer's freshness. Times are seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// When the answer came, in milliseconds since 1970.
    pub(super) came: u64,
    /// How old it was then.
    pub(super) age: u64,
    /// Up to which age it is fresh.
    pub(super) lifetime: u64,
    /// It is never used without asking its backend.
    pub(super) no_cache: bool,
    /// It is not used once it is stale.
    pub(super) must_revalidate: bool,
    /// For how long it is used after that, while its backend fails.
    pub(super) stale_if_error: u64,
}

/// When an answer was asked for and came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) asked: SystemTime,
    pub(super) came: SystemTime,
}

impl Freshness {
    /// Reads the freshness of an answer; `None` if it says nothing of its lifetime and `default_ttl` is `None`.
    pub(super) fn of(
        headers: &HeaderMap,
        directives: &Directives,
        times: Times,
        default_ttl: Option<u64>,
    ) -> Option<Self> {
        let date = date(headers, &DATE);
        let lifetime = lifetime(headers, directives, date.unwrap_or(times.came))
            .or_else(|| Some(heuristic(headers, date.unwrap_or(times.came), default_ttl?)))?;
        let apparent =
            date.and_then(|date| times.came.duration_since(date).ok()).map_or(0, |age| age.as_secs());
        let delay = times.came.duration_since(times.asked).map_or(0, |delay| delay.as_secs());
        Some(Self {
            came: millis(times.came),
            age: apparent.max(age_field(headers) + delay).min(MAX_AGE),
            lifetime,
            no_cache: directives.no_cache,
            must_revalidate: directives.must_revalidate
                || directives.proxy_revalidate
                || directives.s_maxage != Seconds::Absent,
            stale_if_error: directives.stale_if_error.value().unwrap_or(0),
        })
    }

    /// Returns the age at `now`.
    pub fn age_at(&self, now: SystemTime) -> u64 {
        (self.age + millis(now).saturating_sub(self.came) / 1000).min(MAX_AGE)
    }

    /// Returns for how many seconds it is still fresh; negative once it is stale.
    pub fn ttl_at(&self, now: SystemTime) -> i64 {
        let signed = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
        signed(self.lifetime) - signed(self.age_at(now))
    }

    /// Returns when it becomes stale.
    pub fn stale_from(&self) -> SystemTime {
        let came = UNIX_EPOCH + Duration::from_millis(self.came);
        match self.lifetime.checked_sub(self.age) {
            Some(left) => came + Duration::from_secs(left),
            None => came.checked_sub(Duration::from_secs(self.age - self.lifetime)).unwrap_or(UNIX_EPOCH),
        }
    }

    /// Returns when the answer came.
    pub fn came(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.came)
    }

    /// Returns for how many seconds it may stand in for a backend that fails, once it is stale.
    pub fn stale_if_error(&self) -> u64 {
        if self.must_revalidate || self.no_cache { 0 } else { self.stale_if_error }
    }

    /// Returns for how long an answer is worth keeping: while it is fresh, may stand in, or can be validated.
    pub(super) fn kept_for(&self, has_validator: bool) -> Duration {
        let after = self.stale_if_error().max(if has_validator { KEPT_STALE } else { 0 });
        Duration::from_secs(self.lifetime.saturating_sub(self.age).saturating_add(after))
    }
}

/// Seconds for which a stale answer is kept in Redis that its backend may confirm: a day.
const KEPT_STALE: u64 = 24 * 3600;

/// Returns the lifetime that the answer states (RFC 9111, 4.2.1). One that is not valid is over.
fn lifetime(headers: &HeaderMap, directives: &Directives, date: SystemTime) -> Option<u64> {
    for stated in [directives.s_maxage, directives.max_age] {
        match stated {
            Seconds::Absent => {}
            Seconds::Of(seconds) => return Some(seconds),
            Seconds::Invalid => return Some(0),
        }
    }
    headers.get(EXPIRES)?;
    let expires = self::date(headers, &EXPIRES);
    Some(expires.and_then(|expires| expires.duration_since(date).ok()).map_or(0, |left| left.as_secs()))
}

/// Returns the lifetime of an answer that states none: `default_ttl`, and less if it was changed a short time ago.
fn heuristic(headers: &HeaderMap, date: SystemTime, default_ttl: u64) -> u64 {
    let changed = self::date(headers, &LAST_MODIFIED);
    let tenth = changed.map(|changed| date.duration_since(changed).map_or(0, |since| since.as_secs() / 10));
    tenth.unwrap_or(default_ttl).min(default_ttl)
}

/// Returns the age that caches before this one state; 0 if that is absent, and the oldest one if it is not valid.
fn age_field(headers: &HeaderMap) -> u64 {
    let mut lines = headers.get_all(AGE).iter();
    let Some(first) = lines.next() else { return 0 };
    let digits = first.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let age = digits.filter(|_| lines.next().is_none()).and_then(|digits| digits.parse().ok());
    age.unwrap_or(MAX_AGE).min(MAX_AGE)
}

/// Returns a date; `None` if the field is absent, repeated with other values, or not valid.
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.any(|other| other != value) {
        return None;
    }
    parse_http_date(value.to_str().ok()?).ok()
}

/// Milliseconds since 1970.
pub(super) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
