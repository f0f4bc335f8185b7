//! Where this gateway listens, so that no request leads back to it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::OnceLock;

/// The addresses of the gateway's own listeners.
#[derive(Debug, Default)]
pub struct OwnListeners(OnceLock<Box<[SocketAddr]>>);

impl OwnListeners {
    /// Sets the addresses, once they are bound. Only the first call has an effect.
    pub fn set(&self, addresses: impl IntoIterator<Item = SocketAddr>) {
        let _ = self.0.set(addresses.into_iter().collect());
    }

    /// Returns whether a connection to this address would come to one of them.
    pub fn contain(&self, address: SocketAddr) -> bool {
        let own = self.0.get().map_or(&[][..], |own| own);
        let ip = address.ip().to_canonical();
        own.iter().filter(|own| own.port() == address.port()).any(|own| {
            let listened = own.ip().to_canonical();
            listened == ip || ip.is_unspecified() || (listened.is_unspecified() && is_of_this_machine(ip))
        })
    }
}

/// Returns whether an interface of this machine has this address: only then a socket can be bound to it.
fn is_of_this_machine(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_met_at_each_of_them() {
        let contains = |listened: &str, asked: &str| {
            let own = OwnListeners::default();
            own.set([listened.parse().unwrap()]);
            own.contain(asked.parse().unwrap())
        };
        for (listened, asked) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("127.0.0.1:80", "[::ffff:127.0.0.1]:80"),
            ("127.0.0.1:80", "0.0.0.0:80"),
            ("0.0.0.0:80", "127.0.0.9:80"),
            ("[::]:80", "[::1]:80"),
            ("[::]:80", "127.0.0.1:80"),
        ] {
            assert!(contains(listened, asked), "{listened} {asked}");
        }
        for (listened, asked) in [
            ("127.0.0.1:80", "127.0.0.1:81"),
            ("127.0.0.1:80", "127.0.0.2:80"),
            ("0.0.0.0:80", "192.0.2.1:80"),
        ] {
            assert!(!contains(listened, asked), "{listened} {asked}");
        }
        assert!(!OwnListeners::default().contain("127.0.0.1:80".parse().unwrap()));
    }
}
