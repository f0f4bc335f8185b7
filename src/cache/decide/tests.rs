//! What is stored and reused, answer by answer.

use std::time::Duration;

use http::HeaderName;

use super::*;

fn fields(fields: &[(&'static str, &str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
}

fn asked(of: &[(&'static str, &str)]) -> Asked {
    Asked::new(&Method::GET, None, &fields(of), false)
}

fn judge(request: &[(&'static str, &str)], status: u16, answer: &[(&'static str, &str)]) -> Verdict {
    asked(request).judge(StatusCode::from_u16(status).unwrap(), &fields(answer), 300)
}

/// Fields of a message.
type Fields = &'static [(&'static str, &'static str)];

const MAX_AGE: (&str, &str) = ("cache-control", "max-age=60");

#[test]
fn what_must_not_be_stored_is_refused() {
    let refused: &[(Fields, u16, Fields, Refused)] = &[
        (&[], 200, &[("cache-control", "max-age=60, no-store")], Refused::NoStore),
        (&[("cache-control", "no-store")], 200, &[MAX_AGE], Refused::NoStore),
        (&[], 200, &[("cache-control", "max-age=60, private")], Refused::Private),
        (&[], 200, &[("cache-control", "private=\"x\", max-age=60")], Refused::Private),
        (&[("authorization", "a")], 200, &[MAX_AGE], Refused::Authorised),
        (
            &[("authorization", "a")],
            200,
            &[("cache-control", "must-revalidate, max-age=60")],
            Refused::Authorised,
        ),
        (&[("authorization", "a")], 200, &[("cache-control", "s-maxage=x, max-age=60")], Refused::Authorised),
        (&[("cookie", "a")], 200, &[MAX_AGE], Refused::Authorised),
        (&[("x-api-key", "a")], 200, &[MAX_AGE], Refused::Authorised),
        (&[], 200, &[MAX_AGE, ("set-cookie", "a=b")], Refused::SetCookie),
        (&[], 200, &[MAX_AGE, ("vary", "*")], Refused::Vary),
        (&[], 200, &[MAX_AGE, ("vary", "accept, *")], Refused::Vary),
        (&[], 206, &[MAX_AGE], Refused::Status),
        (&[], 304, &[MAX_AGE], Refused::Status),
        (&[], 599, &[("cache-control", "max-age=60, must-understand")], Refused::Status),
        (&[], 302, &[], Refused::Status),
        (&[], 500, &[], Refused::Status),
        (&[], 200, &[MAX_AGE, ("content-type", "text/event-stream; charset=utf-8")], Refused::Stream),
        (&[], 200, &[MAX_AGE, ("content-type", "application/x-ndjson")], Refused::Stream),
        (&[], 200, &[MAX_AGE, ("content-type", "Application/gRPC+proto")], Refused::Stream),
        (&[], 200, &[("cache-control", "max-age=0")], Refused::Stale),
        (&[], 200, &[("cache-control", "max-age=60"), ("age", "60")], Refused::Stale),
        (&[], 200, &[("expires", "0")], Refused::Stale),
    ];
    for (request, status, answer, why) in refused {
        assert_eq!(judge(request, *status, answer), Verdict::Refuse(*why), "{request:?} {status} {answer:?}");
    }
    let stored: &[(Fields, u16, Fields)] = &[
        (&[], 200, &[]),
        (&[], 404, &[]),
        (&[], 302, &[MAX_AGE]),
        (&[], 503, &[MAX_AGE]),
        (&[("authorization", "a")], 200, &[("cache-control", "public, max-age=60")]),
        (&[("cookie", "a")], 200, &[("cache-control", "s-maxage=60")]),
        (&[], 200, &[("cache-control", "public, max-age=60"), ("set-cookie", "a=b")]),
        (&[], 200, &[("cache-control", "no-cache"), ("etag", "\"1\"")]),
        (&[], 200, &[("cache-control", "max-age=0, stale-if-error=60")]),
    ];
    for (request, status, answer) in stored {
        let verdict = judge(request, *status, answer);
        assert!(matches!(verdict, Verdict::Store(_)), "{request:?} {status} {answer:?}: {verdict:?}");
    }
}

#[test]
fn keys_in_a_query_and_keys_of_the_gateway_are_credentials() {
    let is_authorised =
        |query, has_key| Asked::new(&Method::GET, query, &HeaderMap::new(), has_key).is_authorised;
    assert!(is_authorised(Some("a=1&key=x"), false));
    assert!(is_authorised(Some("ACCESS_TOKEN=x"), false));
    assert!(is_authorised(None, true));
    assert!(!is_authorised(Some("keys=1&monkey=2"), false));
}

fn stored(answer: &[(&'static str, &str)]) -> Freshness {
    match judge(&[], 200, answer) {
        Verdict::Store(freshness) => freshness,
        Verdict::Refuse(why) => panic!("{answer:?}: {why:?}"),
    }
}

#[test]
fn lifetimes_are_those_of_the_most_specific_statement() {
    let now = httpdate::fmt_http_date(SystemTime::now());
    let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(1000));
    let before = |seconds| httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(seconds));
    let lifetime = |answer: &[(&'static str, &str)]| stored(answer).lifetime;
    assert_eq!(lifetime(&[("cache-control", "max-age=5, s-maxage=7"), ("expires", &later)]), 7);
    assert_eq!(lifetime(&[("cache-control", "max-age=5"), ("expires", &later)]), 5);
    assert_eq!(lifetime(&[("date", &now), ("expires", &later)]), 1000);
    assert_eq!(lifetime(&[("etag", "1"), ("cache-control", "max-age=x"), ("expires", &later)]), 0);
    assert_eq!(lifetime(&[]), 300);
    assert_eq!(lifetime(&[("date", &now), ("last-modified", &before(100_000))]), 300);
    assert_eq!(lifetime(&[("date", &now), ("last-modified", &before(1000))]), 100);
    // Ages count from the first cache, and from a date in the past.
    assert_eq!(stored(&[MAX_AGE, ("age", "7")]).age, 7);
    for age in ["7, 9", "x", "-1", "1.5", ""] {
        assert_eq!(judge(&[], 200, &[MAX_AGE, ("age", age)]), Verdict::Refuse(Refused::Stale), "{age}");
    }
    assert!((30..33).contains(&stored(&[MAX_AGE, ("date", &before(30))]).age));
}

#[test]
fn what_the_client_asks_for_counts() {
    let now = SystemTime::now();
    let reuse = |request: &str, answer: &[(&'static str, &str)], after: u64| {
        asked(&[("cache-control", request)]).reuse(&stored(answer), now + Duration::from_secs(after))
    };
    assert_eq!(reuse("", &[MAX_AGE], 0), Reuse::Fresh);
    assert_eq!(reuse("", &[MAX_AGE], 61), Reuse::Stale);
    assert_eq!(reuse("no-cache", &[MAX_AGE], 0), Reuse::Unconfirmed);
    assert_eq!(reuse("max-age=0", &[MAX_AGE], 0), Reuse::Unconfirmed);
    assert_eq!(reuse("max-age=5", &[MAX_AGE], 9), Reuse::Unconfirmed);
    assert_eq!(reuse("max-age=50", &[MAX_AGE], 9), Reuse::Fresh);
    assert_eq!(reuse("min-fresh=55", &[MAX_AGE], 9), Reuse::Unconfirmed);
    assert_eq!(reuse("min-fresh=45", &[MAX_AGE], 9), Reuse::Fresh);
    assert_eq!(reuse("max-stale", &[MAX_AGE], 90), Reuse::Fresh);
    assert_eq!(reuse("max-stale=20", &[MAX_AGE], 70), Reuse::Fresh);
    assert_eq!(reuse("max-stale=20", &[MAX_AGE], 90), Reuse::Stale);
    assert_eq!(
        reuse("max-stale", &[("cache-control", "max-age=60, must-revalidate")], 90),
        Reuse::Unconfirmed
    );
    assert_eq!(reuse("max-stale", &[("cache-control", "s-maxage=60")], 90), Reuse::Unconfirmed);
    assert_eq!(reuse("max-stale", &[("cache-control", "no-cache"), ("etag", "1")], 0), Reuse::Unconfirmed);
    let pragma = asked(&[("pragma", "no-cache")]);
    assert_eq!(pragma.reuse(&stored(&[MAX_AGE]), now), Reuse::Unconfirmed);
}
