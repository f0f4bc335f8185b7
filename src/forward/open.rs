//! The tunnels that are open now: how many there are, and which of them a reload cuts.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::target::Host;

/// Cuts a tunnel.
type Cut = Box<dyn Fn() + Send + Sync>;

/// The open tunnels.
#[derive(Default)]
pub struct OpenTunnels(Mutex<Table>);

#[derive(Default)]
struct Table {
    next: u64,
    open: HashMap<u64, (Vec<Host>, Cut)>,
}

/// Counts a tunnel until it is dropped.
pub struct OpenTunnel {
    tunnels: Arc<OpenTunnels>,
    number: u64,
}

impl OpenTunnels {
    /// Counts one more tunnel to this host, which `cut` ends. Returns `None` if there are `most` already.
    pub fn enter(
        self: &Arc<Self>,
        host: Host,
        most: usize,
        cut: impl Fn() + Send + Sync + 'static,
    ) -> Option<OpenTunnel> {
        let mut table = self.0.lock();
        if table.open.len() >= most {
            return None;
        }
        let number = table.next;
        table.next += 1;
        table.open.insert(number, (vec![host], Box::new(cut)));
        Some(OpenTunnel { tunnels: Arc::clone(self), number })
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.0.lock().open.len()
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cuts those to a host that is not permitted. Returns how many.
    pub fn cut_unless(&self, permits: impl Fn(&Host) -> bool) -> usize {
        let table = self.0.lock();
        let blocked = table.open.values().filter(|(hosts, _)| !hosts.iter().all(&permits));
        blocked.map(|(_, cut)| cut()).count()
    }
}

impl OpenTunnel {
    /// Adds the server that the client asks for in the tunnel.
    pub fn asks_for(&self, host: Host) {
        if let Some((hosts, _)) = self.tunnels.0.lock().open.get_mut(&self.number) {
            hosts.push(host);
        }
    }
}

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        // What cuts the tunnel may be the last to hold more than that, so it is dropped outside of the lock.
        let gone = self.tunnels.0.lock().open.remove(&self.number);
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn tunnels_are_counted_and_those_to_blocked_hosts_are_cut() {
        let tunnels = Arc::<OpenTunnels>::default();
        let cuts = Arc::<AtomicUsize>::default();
        let enter = |host: &str| {
            let cuts = Arc::clone(&cuts);
            tunnels.enter(Host::parse(host).unwrap(), 2, move || {
                cuts.fetch_add(1, Ordering::Relaxed);
            })
        };
        let first = enter("a.test").unwrap();
        let second = enter("b.test").unwrap();
        assert!(enter("c.test").is_none());
        let is = |name: &'static str| move |host: &Host| host.to_string() != name;
        assert_eq!(tunnels.cut_unless(is("a.test")), 1);
        second.asks_for(Host::parse("hidden.test").unwrap());
        assert_eq!(tunnels.cut_unless(is("hidden.test")), 1);
        assert_eq!((cuts.load(Ordering::Relaxed), tunnels.len()), (2, 2));
        drop((first, second));
        assert!(tunnels.is_empty());
    }
}
