//! The addresses of a backend's host name, and the order in which one request tries them.
//!
//! A request takes the list and the first address once, and then tries each address once. What other requests find out
//! meanwhile changes only where later requests begin.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;

/// How long resolved addresses are used before the name is resolved again.
const NAME_TTL: Duration = Duration::from_secs(30);

/// The host of a backend. One request at a time resolves its name; none blocks a thread.
pub(super) struct HostName {
    host: Arc<str>,
    port: u16,
    known: Arc<ArcSwapOption<Resolved>>,
    asking: Arc<Mutex<()>>,
}

/// What a name was resolved to.
struct Resolved {
    /// Without duplicates, in the resolver's order.
    addresses: Box<[SocketAddr]>,
    /// Index of the address to try first; `localhost` has two addresses, and often only one listens.
    first: AtomicUsize,
    /// When the name is resolved again; `None` for an address, which never is.
    expires: Option<Instant>,
}

impl Resolved {
    fn new(found: impl IntoIterator<Item = SocketAddr>, expires: Option<Instant>) -> Self {
        let mut addresses = Vec::new();
        for address in found {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Self { addresses: addresses.into(), first: AtomicUsize::new(0), expires }
    }

    fn is_current(&self) -> bool {
        self.expires.is_none_or(|expires| Instant::now() < expires)
    }

    /// Begins where `before` does, if it had moved on from an address that does not accept connections. Otherwise the
    /// resolver's order holds, by which many name servers balance load.
    fn begin_like(&self, before: &Self) {
        let first = before.first.load(Relaxed);
        let kept = before.addresses.get(first).filter(|_| first != 0);
        let same = kept.and_then(|kept| self.addresses.iter().position(|address| address == kept));
        self.first.store(same.unwrap_or(0), Relaxed);
    }
}

/// The addresses that one request tries at a backend, each once.
pub struct Addresses {
    resolved: Arc<Resolved>,
    /// Index of the first address that this request tries.
    first: usize,
    /// How many addresses did not accept a connection.
    failed: usize,
}

impl Addresses {
    /// These addresses, which never change.
    pub fn fixed(addresses: Vec<SocketAddr>) -> Self {
        Self::of(Arc::new(Resolved::new(addresses, None)))
    }

    fn of(resolved: Arc<Resolved>) -> Self {
        Self { first: resolved.first.load(Relaxed), failed: 0, resolved }
    }

    fn index(&self) -> Option<usize> {
        let count = self.resolved.addresses.len();
        (self.failed < count).then(|| (self.first + self.failed) % count)
    }

    /// Returns the number of addresses that have not failed.
    pub fn left(&self) -> usize {
        self.resolved.addresses.len() - self.failed
    }

    /// Returns the address to try now; `None` when all were tried.
    pub fn current(&self) -> Option<SocketAddr> {
        self.index().map(|index| self.resolved.addresses[index])
    }

    /// Records that no connection to the current address could be made, so that later requests begin with another one,
    /// and moves on. Returns false when all were tried.
    pub fn try_next(&mut self) -> bool {
        let Some(index) = self.index() else { return false };
        let next = (index + 1) % self.resolved.addresses.len();
        // Another request may have moved on already.
        let _ = self.resolved.first.compare_exchange(index, next, Relaxed, Relaxed);
        self.failed += 1;
        self.current().is_some()
    }
}

impl HostName {
    /// A host name, or an IP address without brackets.
    pub(super) fn new(host: &str, port: u16) -> Self {
        let address = host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port));
        let known = address.map(|address| Arc::new(Resolved::new([address], None)));
        Self { host: host.into(), port, known: Arc::new(ArcSwapOption::new(known)), asking: Arc::default() }
    }

    /// Returns the addresses for one request, at least one.
    ///
    /// # Errors
    /// The resolver's error, when the name has never been resolved before.
    pub(super) async fn addresses(&self) -> io::Result<Addresses> {
        self.resolve().await.map(Addresses::of)
    }

    async fn resolve(&self) -> io::Result<Arc<Resolved>> {
        let stale = self.known.load_full();
        if let Some(known) = &stale
            && known.is_current()
        {
            return Ok(Arc::clone(known));
        }
        // One request resolves; others use the stale addresses, or wait when there are none.
        let asking = match (Arc::clone(&self.asking).try_lock_owned(), &stale) {
            (Ok(asking), _) => asking,
            (Err(_), Some(known)) => return Ok(Arc::clone(known)),
            (Err(_), None) => Arc::clone(&self.asking).lock_owned().await,
        };
        if let Some(known) = self.known.load_full()
            && known.is_current()
        {
            return Ok(known);
        }
        let (host, port) = (Arc::clone(&self.host), self.port);
        let names = Arc::clone(&self.known);
        // A separate task: a lookup holds a blocking thread until the resolver answers, even when the request that
        // started it is gone, and the next request must not occupy another thread.
        let lookup = tokio::spawn(async move {
            let _asking = asking;
            let found = tokio::net::lookup_host((&*host, port)).await?;
            let known = Resolved::new(found, Some(Instant::now() + NAME_TTL));
            if known.addresses.is_empty() {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
            }
            if let Some(before) = &*names.load() {
                known.begin_like(before);
            }
            let known = Arc::new(known);
            names.store(Some(Arc::clone(&known)));
            Ok(known)
        });
        match lookup.await.map_err(io::Error::other).flatten() {
            Ok(known) => Ok(known),
            // When the resolver fails, backends with known addresses remain reachable.
            Err(error) => stale.ok_or(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resolved(count: u16) -> Arc<Resolved> {
        let address = |number| SocketAddr::from(([127, 0, 0, 1], 1 + number));
        Arc::new(Resolved::new((0..count).map(address), None))
    }

    /// Tries addresses until one is up, as a request does. Returns those that were tried, and whether the last one is up.
    fn run(mut addresses: Addresses, is_up: impl Fn(SocketAddr) -> bool) -> (Vec<SocketAddr>, bool) {
        let mut tried = Vec::new();
        while let Some(address) = addresses.current() {
            tried.push(address);
            if is_up(address) {
                return (tried, true);
            }
            addresses.try_next();
        }
        (tried, false)
    }

    fn up_at(up: &[bool], address: SocketAddr) -> bool {
        up[usize::from(address.port()) - 1]
    }

    #[test]
    fn of_three_with_only_the_middle_one_alive_it_answers_every_request() {
        let names = resolved(3);
        for tried in [2, 1, 1, 1] {
            let (addresses, found) = run(Addresses::of(Arc::clone(&names)), |address| address.port() == 2);
            assert!(found && addresses.len() == tried, "{addresses:?}");
        }
    }

    proptest! {
        #[test]
        fn each_address_is_tried_once_and_a_living_one_is_found(
            up in prop::collection::vec(any::<bool>(), 1..9), first in 0usize..9
        ) {
            let names = resolved(up.len() as u16);
            names.first.store(first % up.len(), Relaxed);
            let (mut tried, found) = run(Addresses::of(Arc::clone(&names)), |address| up_at(&up, address));
            prop_assert_eq!(found, up.contains(&true));
            if !found {
                prop_assert_eq!(tried.len(), up.len(), "all were tried");
            }
            tried.sort();
            prop_assert!(tried.windows(2).all(|two| two[0] != two[1]), "none twice: {:?}", tried);
            if found {
                let (tried, _) = run(Addresses::of(names), |address| up_at(&up, address));
                prop_assert_eq!(tried.len(), 1, "the next request begins with the living one");
            }
        }

        /// Requests that run at the same time, whose steps interleave in any order.
        #[test]
        fn requests_do_not_disturb_each_other(
            up in prop::collection::vec(any::<bool>(), 1..6),
            steps in prop::collection::vec((0usize..4, any::<bool>()), 0..60),
        ) {
            let names = resolved(up.len() as u16);
            let mut requests: Vec<Option<(Addresses, Vec<SocketAddr>)>> = (0..4).map(|_| None).collect();
            let steps = steps.into_iter().chain((0..4).flat_map(|at| (0..9).map(move |_| (at, false))));
            for (at, renew) in steps {
                let request = &mut requests[at];
                if renew || request.is_none() {
                    *request = Some((Addresses::of(Arc::clone(&names)), Vec::new()));
                }
                let (addresses, tried) = request.as_mut().unwrap();
                let Some(address) = addresses.current() else {
                    prop_assert!(!up.contains(&true), "one is alive, and all were tried: {:?}", tried);
                    prop_assert_eq!(tried.len(), up.len());
                    continue;
                };
                if !up_at(&up, address) {
                    prop_assert!(!tried.contains(&address), "twice: {:?}", tried);
                    tried.push(address);
                    addresses.try_next();
                }
            }
        }
    }

    #[test]
    fn a_new_look_up_begins_where_the_last_one_was_served() {
        let (before, after) = (resolved(3), resolved(4));
        after.begin_like(&before);
        assert_eq!(after.first.load(Relaxed), 0, "the resolver's order");
        before.first.store(2, Relaxed);
        after.begin_like(&before);
        assert_eq!(after.first.load(Relaxed), 2);
        let fewer = resolved(1);
        fewer.begin_like(&before);
        assert_eq!(fewer.first.load(Relaxed), 0, "the address is gone");
    }

    #[tokio::test]
    async fn an_address_is_not_looked_up_and_duplicates_are_dropped() {
        for (host, shown) in [("127.0.0.1", "127.0.0.1:80"), ("::1", "[::1]:80")] {
            let mut addresses = HostName::new(host, 80).addresses().await.unwrap();
            assert_eq!(addresses.current().unwrap().to_string(), shown);
            assert!(!addresses.try_next() && !addresses.try_next() && addresses.current().is_none());
        }
        let twice = SocketAddr::from(([127, 0, 0, 1], 80));
        assert_eq!(Resolved::new([twice, twice], None).addresses.len(), 1);
    }
}
