//! Parses `Cache-Control` (RFC 9111, 5.2).

use http::HeaderMap;
use http::header::{CACHE_CONTROL, PRAGMA};

/// The largest number of seconds that is told apart (RFC 9111, 1.2.2).
const MAX_SECONDS: u64 = 1 << 31;

/// A directive that takes a number of seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Seconds {
    /// It is absent.
    #[default]
    Absent,
    /// It has this value.
    Of(u64),
    /// It has no valid value, or two different ones.
    Invalid,
}

impl Seconds {
    fn read(&mut self, value: Option<&str>) {
        let read = value.filter(|value| !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()));
        let read = match read {
            // What does not fit is more than the largest number, too.
            Some(digits) => Self::Of(digits.parse().unwrap_or(MAX_SECONDS).min(MAX_SECONDS)),
            None => Self::Invalid,
        };
        *self = if *self == Self::Absent || *self == read { read } else { Self::Invalid };
    }

    /// Returns the value; `None` if it is absent or not valid.
    pub(super) fn value(self) -> Option<u64> {
        if let Self::Of(seconds) = self { Some(seconds) } else { None }
    }
}

/// The directives of a message, as far as they matter to a shared cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Directives {
    pub(super) no_store: bool,
    pub(super) no_cache: bool,
    pub(super) private: bool,
    pub(super) public: bool,
    pub(super) must_revalidate: bool,
    pub(super) proxy_revalidate: bool,
    pub(super) must_understand: bool,
    pub(super) only_if_cached: bool,
    pub(super) max_age: Seconds,
    pub(super) s_maxage: Seconds,
    pub(super) min_fresh: Seconds,
    pub(super) max_stale: Option<Seconds>,
    pub(super) stale_if_error: Seconds,
}

impl Directives {
    /// The directives of a response.
    pub(super) fn of_response(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        for line in headers.get_all(CACHE_CONTROL) {
            each(line.as_bytes(), |name, value| directives.add(name, value));
        }
        directives
    }

    /// The directives of a request. `Pragma: no-cache` counts where there is no `Cache-Control` (RFC 9111, 5.4).
    pub(super) fn of_request(headers: &HeaderMap) -> Self {
        let mut directives = Self::of_response(headers);
        if !headers.contains_key(CACHE_CONTROL) {
            for line in headers.get_all(PRAGMA) {
                each(line.as_bytes(), |name, _| directives.no_cache |= name.eq_ignore_ascii_case("no-cache"));
            }
        }
        directives
    }

    fn add(&mut self, name: &str, value: Option<&str>) {
        match name.to_ascii_lowercase().as_str() {
            "no-store" => self.no_store = true,
            // Of one that names fields, all of the answer is taken to be meant.
            "no-cache" => self.no_cache = true,
            "private" => self.private = true,
            "public" => self.public = true,
            "must-revalidate" => self.must_revalidate = true,
            "proxy-revalidate" => self.proxy_revalidate = true,
            "must-understand" => self.must_understand = true,
            "only-if-cached" => self.only_if_cached = true,
            "max-age" => self.max_age.read(value),
            "s-maxage" => self.s_maxage.read(value),
            "min-fresh" => self.min_fresh.read(value),
            "max-stale" => {
                let seconds = self.max_stale.get_or_insert_default();
                if value.is_some() {
                    seconds.read(value);
                }
            }
            "stale-if-error" => self.stale_if_error.read(value),
            _ => {}
        }
    }
}

/// Calls `take` with the name and the value of each member of a list; a value may be quoted.
fn each(line: &[u8], mut take: impl FnMut(&str, Option<&str>)) {
    let mut rest = line;
    while !rest.is_empty() {
        let (member, after) = rest.split_at(end_of_member(rest));
        rest = after.get(1..).unwrap_or_default();
        let Ok(member) = std::str::from_utf8(member) else { continue };
        let (name, value) = match member.split_once('=') {
            Some((name, value)) => (name.trim_ascii(), Some(value)),
            None => (member.trim_ascii(), None),
        };
        let unquoted = value.map(|value| {
            let value = value.trim_ascii_end();
            value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
        });
        if !name.is_empty() {
            take(name, unquoted);
        }
    }
}

/// Returns where the first member of a list ends: at a comma that is not quoted.
fn end_of_member(list: &[u8]) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in list.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return at,
            _ => {}
        }
    }
    list.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&'static str]) -> Directives {
        let headers = lines.iter().map(|line| (CACHE_CONTROL, line.parse().unwrap())).collect();
        Directives::of_response(&headers)
    }

    #[test]
    fn names_have_no_case_and_values_may_be_quoted() {
        let found = read(&["Max-Age=\"60\" , S-MAXAGE=5", "PUBLIC,,x=1"]);
        assert_eq!((found.max_age, found.s_maxage, found.public), (Seconds::Of(60), Seconds::Of(5), true));
        let found = read(&[r#"x="a, no-store, \", private", max-age=1"#]);
        assert_eq!((found.no_store, found.private, found.max_age), (false, false, Seconds::Of(1)));
        assert!(read(&[r#"private="set-cookie""#]).private);
        assert_eq!(read(&["max-stale"]).max_stale, Some(Seconds::Absent));
        assert_eq!(read(&["max-stale=5"]).max_stale, Some(Seconds::Of(5)));
    }

    #[test]
    fn a_number_that_is_none_is_invalid() {
        for text in
            ["max-age", "max-age=", "max-age=-1", "max-age=1.5", "max-age= 1", "max-age='1'", "max-age=1a"]
        {
            assert_eq!(read(&[text]).max_age, Seconds::Invalid, "{text}");
        }
        assert_eq!(read(&["max-age=99999999999999999999999"]).max_age, Seconds::Of(MAX_SECONDS));
        assert_eq!(read(&["max-age=007"]).max_age, Seconds::Of(7));
        assert_eq!(read(&["max-age=1, max-age=1"]).max_age, Seconds::Of(1));
        assert_eq!(read(&["max-age=1", "max-age=2"]).max_age, Seconds::Invalid);
    }
}
