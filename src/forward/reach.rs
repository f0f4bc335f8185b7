//! Decides whether a target may be connected to, and at which addresses.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::addresses::private_range;
use super::own::OwnListeners;
use super::resolve::Resolver;
use super::settings::Settings;
use super::target::{Host, Target};

/// Why a target is not connected to.
#[derive(Debug, thiserror::Error)]
pub enum NotReached {
    /// `connect_ports` or `plain_ports` does not have the port.
    #[error("the port {0} is not among {1}")]
    Port(u16, &'static str),
    /// `security.filtering.domains` does not permit the host.
    #[error("the host {0} is not permitted (security.filtering.domains)")]
    Blocked(Host),
    /// The name has no address.
    #[error("the name {0} cannot be resolved")]
    Unresolved(Box<str>, #[source] io::Error),
    /// An address of the name is not of the public Internet.
    #[error(
        "{host} is not reached, because its address is {range}: name it in forward_proxy.allow_private to permit it"
    )]
    Private {
        /// The host.
        host: Host,
        /// Its address.
        address: IpAddr,
        /// What the address is.
        range: &'static str,
    },
    /// It leads to a listener of this gateway.
    #[error("{0} leads back to this gateway")]
    Loop(Target),
}

impl Settings {
    /// Checks a target before its addresses are known. `is_tunnel` tells CONNECT from a request that is forwarded.
    ///
    /// # Errors
    /// The port or the host is not permitted.
    pub fn check(&self, target: &Target, is_tunnel: bool) -> Result<(), NotReached> {
        let (ports, key) = match is_tunnel {
            true => (self.connect_ports(), "forward_proxy.connect_ports"),
            false => (self.plain_ports(), "forward_proxy.plain_ports"),
        };
        if !ports.contains(&target.port) {
            return Err(NotReached::Port(target.port, key));
        }
        match self.permits(&target.host) {
            true => Ok(()),
            false => Err(NotReached::Blocked(target.host.clone())),
        }
    }

    /// Returns the addresses of a target, each of which may be connected to.
    ///
    /// # Errors
    /// It has none, or one of them is not permitted.
    pub async fn addresses_of(
        &self,
        target: &Target,
        resolver: &Resolver,
        own: &OwnListeners,
    ) -> Result<Vec<SocketAddr>, NotReached> {
        if let Some(address) = self.written_address(target) {
            // The operator's word; no client chooses it.
            return if own.contain(address) {
                Err(NotReached::Loop(target.clone()))
            } else {
                Ok(vec![address])
            };
        }
        let found = match &target.host {
            Host::Address(address) => [*address].into(),
            Host::Name(name) => {
                let found = resolver.resolve(name).await;
                found.map_err(|error| NotReached::Unresolved(name.clone(), error))?
            }
        };
        let judged = found.iter().map(|address| self.judge(target, *address, own));
        judged.collect()
    }

    fn judge(&self, target: &Target, address: IpAddr, own: &OwnListeners) -> Result<SocketAddr, NotReached> {
        let socket = SocketAddr::new(address, target.port);
        if own.contain(socket) {
            return Err(NotReached::Loop(target.clone()));
        }
        match private_range(address).filter(|_| !self.reaches_private(address)) {
            Some(range) => Err(NotReached::Private { host: target.host.clone(), address, range }),
            None => Ok(socket),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::resolve::testing::changing;
    use super::super::settings::{ForwardConfig, SecurityConfig};
    use super::*;
    use crate::settings::fault::Faults;

    fn settings(forward: &str, security: &str) -> Settings {
        let forward: ForwardConfig = serde_yaml::from_str(forward).unwrap();
        let security: SecurityConfig = serde_yaml::from_str(security).unwrap();
        let mut faults = Faults::default();
        let compiled = forward.compile(&security, &mut faults);
        compiled.unwrap_or_else(|| panic!("{faults}"))
    }

    async fn reached(settings: &Settings, target: &str, resolver: &Resolver) -> String {
        let own = OwnListeners::default();
        own.set(["127.0.0.1:443".parse().unwrap()]);
        let target = Target::of_connect(target).unwrap();
        let found = match settings.check(&target, true) {
            Ok(()) => settings.addresses_of(&target, resolver, &own).await,
            Err(why) => Err(why),
        };
        match found {
            Ok(found) => found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Err(why) => why.to_string(),
        }
    }

    #[tokio::test]
    async fn every_address_of_a_name_must_pass() {
        let settings = settings("{}", "{}");
        let (resolver, _) = changing("1.1.1.1 10.0.0.1", "1.1.1.1");
        let told = reached(&settings, "a.test:443", &resolver).await;
        assert!(told.starts_with("a.test is not reached, because its address is private"), "{told}");
    }

    #[tokio::test]
    async fn a_name_that_changes_its_mind_gains_nothing() {
        let settings = settings("{}", "{}");
        let (resolver, _) = changing("1.1.1.1", "127.0.0.1");
        assert_eq!(reached(&settings, "a.test:443", &resolver).await, "1.1.1.1:443");
        // The second look-up, of another name, gets the second answer; that of the first is still known.
        assert!(reached(&settings, "b.test:443", &resolver).await.contains("leads back to this gateway"));
        assert_eq!(reached(&settings, "a.test:443", &resolver).await, "1.1.1.1:443");
    }

    #[tokio::test]
    async fn own_listeners_are_never_reached_and_private_ranges_only_if_they_are_named() {
        let settings = settings(
            "{allow_private: [127.0.0.0/8], hosts: {own.test: 127.0.0.1, there.test: '127.0.0.1:8443'}}",
            "{}",
        );
        let (resolver, asked) = changing("1.1.1.1", "1.1.1.1");
        assert!(reached(&settings, "127.1:443", &resolver).await.contains("leads back to this gateway"));
        assert!(reached(&settings, "own.test:443", &resolver).await.contains("leads back to this gateway"));
        assert_eq!(reached(&settings, "127.0.0.2:443", &resolver).await, "127.0.0.2:443");
        assert_eq!(reached(&settings, "there.test:443", &resolver).await, "127.0.0.1:8443");
        assert!(reached(&settings, "10.0.0.1:443", &resolver).await.contains("its address is private"));
        assert!(reached(&settings, "1.1.1.1:80", &resolver).await.contains("forward_proxy.connect_ports"));
        assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn hosts_are_held_against_the_patterns_before_they_are_resolved() {
        let (resolver, asked) = changing("1.1.1.1", "1.1.1.1");
        let blocked = settings("{}", "filtering: {domains: {blocked: [bad.test, '*.ads.test']}}");
        let allowed = settings(
            "{}",
            "filtering: {mode: allowlist, domains: {allowed: [.good.test], blocked: [no.good.test]}}",
        );
        for (settings, host) in [
            (&blocked, "bad.test"),
            (&blocked, "x.ads.test"),
            (&allowed, "bad.test"),
            (&allowed, "no.good.test"),
            (&allowed, "1.1.1.1"),
        ] {
            let told = reached(settings, &format!("{host}:443"), &resolver).await;
            assert_eq!(told, format!("the host {host} is not permitted (security.filtering.domains)"));
        }
        assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 0);
        for (settings, host) in [(&blocked, "ads.test"), (&allowed, "good.test"), (&allowed, "a.good.test")] {
            assert_eq!(reached(settings, &format!("{host}:443"), &resolver).await, "1.1.1.1:443");
        }
    }
}
