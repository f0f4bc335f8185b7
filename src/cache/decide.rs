//! What may be stored and what may be reused (RFC 9111, 3 and 4), without IO.

use std::time::SystemTime;

use http::header::{
    AUTHORIZATION, CONTENT_TYPE, COOKIE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
    PROXY_AUTHORIZATION, RANGE, SET_COOKIE,
};
use http::{HeaderMap, HeaderName, Method, StatusCode};

use super::directives::{Directives, Seconds};
use super::entry::Entry;
use super::freshness::{Freshness, Times};
use super::key;
use crate::protocol::dialects::credentials::credentials;
use crate::protocol::wire::framing::Framing;

/// Fields of requests whose answers are not what others would get.
const FILL_NOTHING: [HeaderName; 3] = [RANGE, IF_NONE_MATCH, IF_MODIFIED_SINCE];

/// What matters of a request.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    directives: Directives,
    /// It carries a credential.
    pub is_authorised: bool,
    /// It is answered from the cache, but fills nothing: HEAD, requests for a part, and conditional ones.
    pub only_reads: bool,
    /// When it came.
    pub at: SystemTime,
}

/// Whether a stored answer may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// As it is.
    Fresh,
    /// Only after its backend has confirmed it, or while that fails.
    Stale,
    /// Only after its backend has confirmed it.
    Unconfirmed,
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is stored.
    Store(Freshness),
    /// It is passed on only.
    Refuse(Refused),
}

/// Why an answer is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The request carries a credential, and the answer says neither `public` nor `s-maxage`.
    Authorised,
    /// `no-store`, in the request or the answer.
    NoStore,
    /// `private`.
    Private,
    /// It sets a cookie, and does not say `public`.
    SetCookie,
    /// `Vary: *`.
    Vary,
    /// Its status, or it is a part.
    Status,
    /// It is a stream.
    Stream,
    /// It would be stale at once, and nothing in it could be confirmed.
    Stale,
    /// Its body is larger than `cache.max_object`.
    TooLarge,
    /// Other fills have taken the room for bodies that are being filled.
    NoRoom,
}

impl Refused {
    /// All reasons.
    pub const ALL: [Self; 10] = [
        Self::Authorised,
        Self::NoStore,
        Self::Private,
        Self::SetCookie,
        Self::Vary,
        Self::Status,
        Self::Stream,
        Self::Stale,
        Self::TooLarge,
        Self::NoRoom,
    ];

    /// Its word in statistics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Authorised => "authorised",
            Self::NoStore => "no_store",
            Self::Private => "private",
            Self::SetCookie => "set_cookie",
            Self::Vary => "vary",
            Self::Status => "status",
            Self::Stream => "stream",
            Self::Stale => "stale",
            Self::TooLarge => "too_large",
            Self::NoRoom => "no_room",
        }
    }
}

impl Asked {
    /// Reads a request. `has_key` tells whether its caller is known by a key or token of the gateway.
    pub fn new(method: &Method, query: Option<&str>, headers: &HeaderMap, has_key: bool) -> Self {
        let named =
            [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION].iter().any(|name| headers.contains_key(name));
        Self {
            directives: Directives::of_request(headers),
            is_authorised: has_key || named || !credentials(headers, query).is_empty(),
            only_reads: *method == Method::HEAD || FILL_NOTHING.iter().any(|name| headers.contains_key(name)),
            at: SystemTime::now(),
        }
    }

    /// Whether only a stored answer may be used.
    pub fn only_if_cached(&self) -> bool {
        self.directives.only_if_cached
    }

    /// Whether the client wants an answer that its backend has confirmed.
    pub fn wants_confirmed(&self) -> bool {
        self.directives.no_cache
    }

    /// Decides whether a stored answer may be used at `now`.
    pub fn reuse(&self, freshness: &Freshness, now: SystemTime) -> Reuse {
        let (asked, age, ttl) = (&self.directives, freshness.age_at(now), freshness.ttl_at(now));
        if asked.no_cache || freshness.no_cache {
            return Reuse::Unconfirmed;
        }
        let too_old = asked.max_age.value().is_some_and(|most| age > most || most == 0);
        let least = i64::try_from(asked.min_fresh.value().unwrap_or(0)).unwrap_or(i64::MAX);
        if too_old || ttl > 0 && ttl < least {
            return Reuse::Unconfirmed;
        }
        if ttl > 0 {
            return Reuse::Fresh;
        }
        let is_accepted = match asked.max_stale {
            None | Some(Seconds::Invalid) => false,
            Some(Seconds::Absent) => true,
            Some(Seconds::Of(most)) => ttl.unsigned_abs() <= most,
        };
        match freshness.must_revalidate {
            true => Reuse::Unconfirmed,
            false if is_accepted && least == 0 => Reuse::Fresh,
            false => Reuse::Stale,
        }
    }

    /// Decides whether an answer to this request may be stored. `default_ttl` is for one that says nothing of its lifetime.
    pub fn judge(&self, status: StatusCode, headers: &HeaderMap, default_ttl: u64) -> Verdict {
        let said = Directives::of_response(headers);
        let refused = [
            (!may_be_stored(status) || said.must_understand && !is_understood(status), Refused::Status),
            (self.directives.no_store || said.no_store, Refused::NoStore),
            (said.private, Refused::Private),
            (self.is_authorised && !said.public && said.s_maxage.value().is_none(), Refused::Authorised),
            (headers.contains_key(SET_COOKIE) && !said.public, Refused::SetCookie),
            (key::varies_by_everything(headers), Refused::Vary),
            (is_stream(headers), Refused::Stream),
        ];
        if let Some((_, why)) = refused.iter().find(|(is_refused, _)| *is_refused) {
            return Verdict::Refuse(*why);
        }
        let default_ttl = (has_default_lifetime(status) || said.public).then_some(default_ttl);
        let times = Times { asked: self.at, came: SystemTime::now() };
        let Some(freshness) = Freshness::of(headers, &said, times, default_ttl) else {
            return Verdict::Refuse(Refused::Status);
        };
        let is_of_use = freshness.lifetime > freshness.age && !freshness.no_cache;
        if !is_of_use && !has_validator(headers) && freshness.stale_if_error() == 0 {
            return Verdict::Refuse(Refused::Stale);
        }
        Verdict::Store(freshness)
    }
}

impl Entry {
    /// Returns whether its backend can confirm it.
    pub(super) fn has_validator(&self) -> bool {
        has_validator(&self.head.headers)
    }
}

fn has_validator(headers: &HeaderMap) -> bool {
    headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED)
}

/// Returns whether answers of this status are stored if they say for how long.
fn may_be_stored(status: StatusCode) -> bool {
    // Parts, answers to conditions and to proxies, and answers that hold for one connection.
    (200..600).contains(&status.as_u16()) && !matches!(status.as_u16(), 206 | 304 | 407 | 412 | 416 | 421)
}

/// Returns whether a cache knows what this status means for it (RFC 9111, 5.2.2.3).
fn is_understood(status: StatusCode) -> bool {
    has_default_lifetime(status) || matches!(status.as_u16(), 302 | 303 | 307)
}

/// Returns whether answers of this status are stored although they do not say for how long (RFC 9110, 15.1).
fn has_default_lifetime(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Returns whether the answer is a stream of events or of messages, compressed or not.
fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_grpc = kind.get(..GRPC.len()).is_some_and(|start| start.eq_ignore_ascii_case(GRPC));
    is_grpc || Framing::of(Some(kind), None).is_stream()
}

/// How the media types of gRPC begin.
const GRPC: &str = "application/grpc";

#[cfg(test)]
mod tests;
