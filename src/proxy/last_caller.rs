//! Remembers the caller of the last request on a connection: most clients send the same credentials with each request, and
//! deriving a principal from them costs more than comparing them.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use parking_lot::Mutex;

use super::identify::{Caller, decides_on_caller};

/// Bytes of fields and query that are remembered at most, so that a connection that waits for its next request stays small.
const KEPT_MAX: usize = 4 << 10;

/// The caller of the last request on a connection, with everything that decided on it.
#[derive(Default)]
pub(crate) struct LastCaller(Mutex<Option<Known>>);

struct Known {
    /// Names and values of the fields that decide, in the order of the head; each ends with a NUL, which neither can
    /// contain.
    fields: Box<[u8]>,
    query: Option<Box<str>>,
    address: IpAddr,
    caller: Arc<Caller>,
}

impl LastCaller {
    /// Returns the caller if all that decides on it is byte for byte the same as in the last request. Several callers may
    /// share a connection, of a proxy for example. `keys` is the set of client keys in force.
    pub(super) fn find(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        address: IpAddr,
        keys: (u64, u64),
    ) -> Option<Arc<Caller>> {
        // The streams of an HTTP/2 connection run side by side: none of them waits here.
        let known = self.0.try_lock()?;
        let known = known.as_ref()?;
        let same = known.caller.keys == keys
            && known.address == address
            && known.query.as_deref() == query
            && known.has_fields(headers);
        same.then(|| Arc::clone(&known.caller))
    }

    /// Remembers the caller.
    pub(super) fn set(&self, headers: &HeaderMap, query: Option<&str>, caller: &Arc<Caller>) {
        let fields: Vec<u8> = parts(headers).flatten().flatten().copied().collect();
        if fields.len() + query.map_or(0, str::len) > KEPT_MAX {
            return;
        }
        let (fields, query) = (fields.into(), query.map(Box::from));
        if let Some(mut known) = self.0.try_lock() {
            *known = Some(Known { fields, query, address: caller.address, caller: Arc::clone(caller) });
        }
    }
}

impl Known {
    fn has_fields(&self, headers: &HeaderMap) -> bool {
        let rest = parts(headers).flatten().try_fold(&*self.fields, |rest, part| rest.strip_prefix(part));
        rest.is_some_and(<[u8]>::is_empty)
    }
}

/// The fields that decide on the caller.
fn parts(headers: &HeaderMap) -> impl Iterator<Item = [&[u8]; 4]> {
    let fields = headers.iter().filter(|(name, _)| decides_on_caller(name));
    fields.map(|(name, value)| [name.as_str().as_bytes(), b"\0", value.as_bytes(), b"\0"])
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::identity::Client;
    use crate::ids::{ClientNetwork, PrincipalId};
    use crate::upstream::reporters;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn caller(principal: &str) -> Arc<Caller> {
        Arc::new(Caller {
            principal: PrincipalId::new(principal),
            accounts: Box::default(),
            for_health: reporters::Caller { principal: 1, network: ClientNetwork::of(HOME) },
            client: Client { name: Some(Cow::Borrowed("curl")), version: None },
            address: HOME,
            key: None,
            keys: (0, 0),
        })
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_caller_is_known_again_by_the_whole_of_what_decides_on_it() {
        let last = LastCaller::default();
        let sent = [("host", "a"), ("authorization", "Bearer sk-123456789"), ("user-agent", "curl/8")];
        let found = |pairs: &[(&'static str, &str)], query: Option<&str>, address: IpAddr| {
            last.find(&headers(pairs), query, address, (0, 0))
                .map(|caller| caller.principal.as_str().to_owned())
        };
        assert_eq!(found(&sent, None, HOME), None);
        last.set(&headers(&sent), None, &caller("cred:1"));
        assert_eq!(found(&sent, None, HOME).as_deref(), Some("cred:1"));
        let other_host = [("host", "b"), ("traceparent", "x"), sent[1], sent[2], ("x-session-id", "s")];
        assert_eq!(found(&other_host, None, HOME).as_deref(), Some("cred:1"), "these decide on nothing");
        for pairs in [
            &[sent[1]][..],
            &[sent[2]],
            &[],
            &[("authorization", "Bearer sk-12345678"), sent[2]],
            &[("authorization", "Bearer sk-1234567890"), sent[2]],
            &[("authorization", "Bearer sk-123456788"), sent[2]],
            &[("x-api-key", "Bearer sk-123456789"), sent[2]],
            &[sent[1], ("user-agent", "curl/9")],
            &[sent[1], sent[2], ("x-api-key", "sk-2")],
            &[sent[1], sent[1], sent[2]],
            &[sent[1], sent[2], ("cookie", "a=b")],
            &[sent[1], sent[2], ("sec-websocket-protocol", "bearer.x")],
            &[sent[1], sent[2], ("originator", "codex_vscode")],
        ] {
            assert_eq!(found(pairs, None, HOME), None, "{pairs:?}");
        }
        assert_eq!(found(&sent, Some("key=sk-2"), HOME), None);
        assert_eq!(found(&sent, None, "10.0.0.1".parse().unwrap()), None);

        assert!(last.find(&headers(&sent), None, HOME, (1, 0)).is_none(), "other keys are in force");

        last.set(&headers(&[sent[2]]), Some("key=a"), &caller("cred:2"));
        assert_eq!(found(&[sent[2]], Some("key=a"), HOME).as_deref(), Some("cred:2"));
        assert_eq!(found(&sent, None, HOME), None, "only the last one is known");
    }

    #[test]
    fn what_is_long_is_not_remembered() {
        let last = LastCaller::default();
        let long = "x".repeat(KEPT_MAX);
        let cookies = headers(&[("cookie", &long)]);
        last.set(&cookies, None, &caller("cred:1"));
        assert!(last.find(&cookies, None, HOME, (0, 0)).is_none());
    }
}
