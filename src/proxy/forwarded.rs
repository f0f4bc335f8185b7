//! Forwarding headers: which address is the client's behind trusted proxies, and what is sent to backends about it.
//!
//! Forwarding headers are accepted only from a peer in `server.trusted_proxies`. Those of any other peer are ignored and
//! removed.

use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use ipnet::IpNet;
use pingora_core::Result;
use pingora_http::RequestHeader;

use crate::protocol::dialects::client_fields::{Names, names_client};
use crate::settings::fault::Faults;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// `server.trusted_proxies` and `server.forwarded_headers`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarding {
    trusted: Vec<IpNet>,
    tells: bool,
}

impl Forwarding {
    /// Compiles the two keys; a single address is a network of one.
    pub(super) fn compile(trusted: &[String], tells: bool, faults: &mut Faults) -> Option<Self> {
        let network =
            |text: &String| text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok();
        let networks: Vec<IpNet> = trusted.iter().filter_map(network).collect();
        for text in trusted.iter().filter(|text| network(text).is_none()) {
            let hint = "write a network such as 10.0.0.0/8 or 2001:db8::/32, or an address";
            faults.add("server.trusted_proxies", format!("'{text}' is neither network nor address"), hint);
        }
        (networks.len() == trusted.len()).then_some(Self { trusted: networks, tells })
    }

    /// Returns whether this is the address of a trusted proxy.
    pub(super) fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }

    /// Returns the client's address: the peer's, or, behind a trusted proxy, that of the last hop that is not trusted,
    /// by `X-Forwarded-For`, or by `Forwarded` when that is absent.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.trusts(peer) {
            return peer;
        }
        let mut client = peer;
        for hop in hops(headers).iter().rev() {
            // The hops before one without an address (`unknown`, `_hidden`) cannot be trusted.
            let Some(address) = address(hop) else { break };
            client = address;
            if !self.trusts(address) {
                break;
            }
        }
        client
    }

    /// Returns the address to which a client's new sessions are counted; `None` for a trusted proxy, which may have any
    /// number of clients behind it.
    pub(super) fn counts(&self, client: IpAddr) -> Option<IpAddr> {
        (!self.trusts(client)).then_some(client)
    }

    /// Returns whether backends must not see this field of the client.
    pub(super) fn withholds(&self, name: &HeaderName) -> bool {
        match names_client(name) {
            Some(Names::Address) => true,
            Some(Names::User) => !self.tells,
            None => false,
        }
    }

    /// Returns scheme and host as the client requested them: what a trusted proxy says, else those of the connection. `None`
    /// without a host.
    pub(super) fn requested<'h>(
        &self,
        headers: &'h HeaderMap,
        peer: IpAddr,
        is_secure: bool,
    ) -> Option<(&'static str, &'h str)> {
        let is_trusted = self.trusts(peer.to_canonical());
        let believed = |name| headers.get(name).filter(|_| is_trusted).and_then(|value| value.to_str().ok());
        let host = believed(FORWARDED_HOST).or_else(|| headers.get(HOST)?.to_str().ok())?;
        let is_secure = believed(PROTO).map_or(is_secure, |proto| proto.eq_ignore_ascii_case("https"));
        Some((if is_secure { "https" } else { "http" }, host))
    }

    /// Returns what backends are told about where the request comes from: what a trusted proxy says, extended by the peer's
    /// address and scheme. `None` without `server.forwarded_headers`.
    pub(super) fn origin(&self, headers: &HeaderMap, peer: IpAddr, is_secure: bool) -> Option<Origin> {
        if !self.tells {
            return None;
        }
        let peer = peer.to_canonical();
        let is_trusted = self.trusts(peer);
        let believed = |name| headers.get(name).filter(|_| is_trusted).cloned();
        let mut hops = if is_trusted { hops(headers) } else { Vec::new() };
        hops.push(peer.to_string());
        let host = believed(FORWARDED_HOST).or_else(|| headers.get(HOST).cloned());
        let scheme = if is_secure { "https" } else { "http" };
        let proto = believed(PROTO).unwrap_or_else(|| HeaderValue::from_static(scheme));
        let mut forwarded: Vec<String> = hops.iter().map(|hop| format!("for={}", node(hop))).collect();
        if let (Some(last), Some(Ok(host))) = (forwarded.last_mut(), host.as_ref().map(HeaderValue::to_str)) {
            *last += &format!(";host=\"{}\"", host.replace(['"', '\\'], ""));
        }
        Some(Origin { hops, proto, host, forwarded: forwarded.join(", ") })
    }
}

/// Where a request comes from, for backends.
pub(super) struct Origin {
    hops: Vec<String>,
    proto: HeaderValue,
    host: Option<HeaderValue>,
    forwarded: String,
}

impl Origin {
    /// Writes the fields.
    ///
    /// # Errors
    /// A header cannot be set, which would be a bug.
    pub(super) fn write(self, head: &mut RequestHeader) -> Result<()> {
        head.insert_header(FOR, self.hops.join(", "))?;
        head.insert_header(PROTO, self.proto)?;
        head.insert_header(FORWARDED, self.forwarded)?;
        match self.host {
            Some(host) => head.insert_header(FORWARDED_HOST, host),
            None => Ok(()),
        }
    }
}

/// Returns this proxy's entry in `Via` for a request of this version (RFC 9110, 7.6.3).
pub(super) fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_2 => "2.0 elida",
        Version::HTTP_11 => "1.1 elida",
        _ => "1.0 elida",
    })
}
/// Returns the hops named in the head, the client first. If both fields are present, `X-Forwarded-For` is used: a proxy
/// that writes only one of them writes this one, and forwards the other as the client sent it.
fn hops(headers: &HeaderMap) -> Vec<String> {
    let texts = |name| headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("unknown"));
    if headers.contains_key(FOR) {
        return texts(FOR).flat_map(|text| text.split(',')).map(|hop| hop.trim().to_owned()).collect();
    }
    texts(FORWARDED)
        .flat_map(|text| text.split(','))
        .map(|element| by_forwarded(element).to_owned())
        .collect()
}

/// Returns the `for` of one element of `Forwarded` (RFC 7239, 4), without quotes.
fn by_forwarded(element: &str) -> &str {
    element
        .split(';')
        .filter_map(|pair| pair.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))
        .map_or("unknown", |(_, value)| value.trim().trim_matches('"'))
}

/// Returns the address of a hop, which may have a port and, for IPv6, brackets.
fn address(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']')).unwrap_or(hop);
    let address = bare.parse::<IpAddr>().ok();
    address
        .or_else(|| hop.parse::<SocketAddr>().ok().map(|hop| hop.ip()))
        .map(|address| address.to_canonical())
}

/// Returns a hop in the notation of RFC 7239, 6.
fn node(hop: &str) -> String {
    match address(hop) {
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => format!("\"[{address}]\""),
        None => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn forwarding(trusted: &[&str]) -> Forwarding {
        let trusted: Vec<String> = trusted.iter().map(|&text| text.to_owned()).collect();
        Forwarding::compile(&trusted, true, &mut Faults::default()).unwrap()
    }

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_client_is_the_last_hop_that_is_no_proxy_of_ours() {
        let ours = forwarding(&["10.0.0.0/8", "2001:db8::1", "127.0.0.1"]);
        let client = |peer: &str, pairs: &[(HeaderName, &str)]| {
            ours.client(peer.parse().unwrap(), &headers(pairs)).to_string()
        };
        assert_eq!(client("192.0.2.1", &[(FOR, "203.0.113.9")]), "192.0.2.1", "not a proxy of ours");
        assert_eq!(client("::ffff:10.0.0.1", &[(FOR, "203.0.113.9")]), "203.0.113.9");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &[(FOR, "6.6.6.6, 203.0.113.9, 10.1.1.1")]), "203.0.113.9");
        assert_eq!(
            client("10.0.0.1", &[(FOR, "6.6.6.6"), (FOR, "203.0.113.9:555 , 10.1.1.1")]),
            "203.0.113.9"
        );
        assert_eq!(client("10.0.0.1", &[(FOR, "10.9.9.9, 10.1.1.1")]), "10.9.9.9", "all are ours");
        for junk in ["unknown", "", "203.0.113.9, _hidden", "1.2.3", "a\tb", "203.0.113.9,,"] {
            assert_eq!(client("10.0.0.1", &[(FOR, junk)]), "10.0.0.1", "{junk:?}");
        }
        assert_eq!(client("10.0.0.1", &[(FOR, "[2001:db8::9]:80, 2001:db8::1")]), "2001:db8::9");
        let rfc7239 = "for=6.6.6.6, For=\"[2001:db8:cafe::17]:4711\";proto=https, by=10.1.1.1;for=10.2.2.2";
        assert_eq!(client("127.0.0.1", &[(FORWARDED, rfc7239)]), "2001:db8:cafe::17");
        assert_eq!(client("10.0.0.1", &[(FORWARDED, "for=6.6.6.6"), (FOR, "203.0.113.9")]), "203.0.113.9");
    }

    proptest! {
        #[test]
        fn nobody_becomes_a_proxy_or_believed_by_what_he_writes(text in "[ -~]{0,60}", hop in any::<[u8; 4]>()) {
            let ours = forwarding(&["10.0.0.0/8"]);
            let [stranger, proxy]: [IpAddr; 2] = [[192, 0, 2, 1].into(), [10, 0, 0, 1].into()];
            let hop = IpAddr::from(hop);
            prop_assume!(!ours.trusts(hop));
            for name in [FOR, FORWARDED] {
                prop_assert_eq!(ours.client(stranger, &headers(&[(name, text.as_str())])), stranger);
            }
            // Whatever came before, the hop that our proxy has appended is the client.
            let told = format!("{text}, {hop}");
            prop_assert_eq!(ours.client(proxy, &headers(&[(FOR, told.as_str())])), hop);
        }
    }

    #[test]
    fn what_is_no_network_is_a_fault() {
        let mut faults = Faults::default();
        let trusted = ["10.0.0.0/8".to_owned(), "10.0.0.0/33".to_owned(), "proxy.example".to_owned()];
        assert_eq!(Forwarding::compile(&trusted, false, &mut faults), None);
        let told = faults.to_string();
        assert!(told.contains("'10.0.0.0/33' is neither") && told.contains("'proxy.example'"), "{told}");
        assert!(!told.contains("/8'"), "{told}");
    }

    #[test]
    fn a_trusted_proxys_words_are_passed_on_with_the_peer_behind_them() {
        let ours = forwarding(&["10.0.0.0/8"]);
        let said = headers(&[(FOR, "203.0.113.9, 2001:db8::9"), (PROTO, "https"), (HOST, "gw:80")]);
        let told = ours.origin(&said, "10.0.0.1".parse().unwrap(), false).unwrap();
        assert_eq!(told.hops.join(", "), "203.0.113.9, 2001:db8::9, 10.0.0.1");
        assert_eq!((told.proto.as_bytes(), told.host.unwrap().as_bytes()), (&b"https"[..], &b"gw:80"[..]));
        assert_eq!(told.forwarded, "for=203.0.113.9, for=\"[2001:db8::9]\", for=10.0.0.1;host=\"gw:80\"");
        let told = ours.origin(&said, "192.0.2.1".parse().unwrap(), false).unwrap();
        assert_eq!((told.hops.join(", ").as_str(), told.proto.as_bytes()), ("192.0.2.1", &b"http"[..]));
        assert_eq!(told.forwarded, "for=192.0.2.1;host=\"gw:80\"");
    }
}
