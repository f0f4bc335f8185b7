//! Time ranges of queries and exports.

use jiff::Timestamp;

/// A range of session end times; `None` means open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeRange {
    /// Inclusive.
    pub from: Option<Timestamp>,
    /// Exclusive.
    pub to: Option<Timestamp>,
}

impl TimeRange {
    /// Both bounds in milliseconds since the Unix epoch.
    pub(in crate::history) fn bounds(&self) -> (i64, i64) {
        (
            self.from.map_or(i64::MIN, Timestamp::as_millisecond),
            self.to.map_or(i64::MAX, Timestamp::as_millisecond),
        )
    }
}

/// Parses an RFC 3339 timestamp such as `2026-11-20T10:00:00Z`, or a duration before `now` such as `24h`. Returns `None`
/// if it is neither.
pub fn parse_time(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Ok(time) = text.parse() {
        return Some(time);
    }
    let ago = humantime::parse_duration(text).ok()?;
    now.checked_sub(jiff::SignedDuration::try_from(ago).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let now: Timestamp = "2026-11-20T10:00:00Z".parse().unwrap();
        assert_eq!(parse_time("24h", now), "2026-11-19T10:00:00Z".parse().ok());
        assert_eq!(parse_time("2026-01-02T03:04:05+02:00", now), "2026-01-02T01:04:05Z".parse().ok());
        for text in ["", "yesterday", "-1h", "2026-13-01T00:00:00Z", "99999999999y"] {
            assert_eq!(parse_time(text, now), None, "{text}");
        }
    }
}
