//! Which addresses are not of the public Internet, whatever their form (the registries of IANA for special purposes, RFC 6890).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

macro_rules! v4 {
    ($([$a:literal, $b:literal, $c:literal, $d:literal]/$length:literal $name:literal;)*) => {
        &[$((Ipv4Net::new_assert(Ipv4Addr::new($a, $b, $c, $d), $length), $name)),*]
    };
}

/// Ranges of IPv4. The cloud's metadata are at 169.254.169.254.
const V4: &[(Ipv4Net, &str)] = v4! {
    [0, 0, 0, 0]/8 "unspecified";
    [10, 0, 0, 0]/8 "private";
    [100, 64, 0, 0]/10 "shared";
    [127, 0, 0, 0]/8 "loopback";
    [169, 254, 0, 0]/16 "link-local";
    [172, 16, 0, 0]/12 "private";
    [192, 0, 0, 0]/24 "reserved";
    [192, 0, 2, 0]/24 "documentation";
    [192, 88, 99, 0]/24 "reserved";
    [192, 168, 0, 0]/16 "private";
    [198, 18, 0, 0]/15 "benchmark";
    [198, 51, 100, 0]/24 "documentation";
    [203, 0, 113, 0]/24 "documentation";
    [224, 0, 0, 0]/4 "multicast";
    [240, 0, 0, 0]/4 "reserved";
};

macro_rules! v6 {
    ($([$($group:literal),*] / $length:literal $name:literal;)*) => {
        &[$((Ipv6Net::new_assert(Ipv6Addr::new($($group),*), $length), $name)),*]
    };
}

/// Ranges of IPv6 inside 2000::/3, of which public addresses are. Teredo is in 2001::/23.
const V6: &[(Ipv6Net, &str)] = v6! {
    [0x2001, 0, 0, 0, 0, 0, 0, 0]/23 "reserved";
    [0x2001, 0xdb8, 0, 0, 0, 0, 0, 0]/32 "documentation";
    [0x3fff, 0, 0, 0, 0, 0, 0, 0]/20 "documentation";
};

/// Ranges outside of it that have a name.
const V6_LOCAL: &[(Ipv6Net, &str)] = v6! {
    [0, 0, 0, 0, 0, 0, 0, 0]/128 "unspecified";
    [0, 0, 0, 0, 0, 0, 0, 1]/128 "loopback";
    [0xfc00, 0, 0, 0, 0, 0, 0, 0]/7 "private";
    [0xfe80, 0, 0, 0, 0, 0, 0, 0]/10 "link-local";
    [0xfec0, 0, 0, 0, 0, 0, 0, 0]/10 "private";
    [0xff00, 0, 0, 0, 0, 0, 0, 0]/8 "multicast";
};

/// Prefixes behind which an address of IPv4 is the last 32 bits: NAT64 (RFC 6052), its own for translators (RFC 2765),
/// mapped and compatible ones (RFC 4291, 2.5.5).
const V4_INSIDE: [Ipv6Net; 4] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96),
    Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96),
    Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 0), 96),
];

/// Returns the name of the range, if the address is not of the public Internet.
pub fn private_range(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => of_v4(address),
        IpAddr::V6(address) => of_v6(address),
    }
}

fn of_v4(address: Ipv4Addr) -> Option<&'static str> {
    V4.iter().find(|(range, _)| range.contains(&address)).map(|(_, name)| *name)
}

fn of_v6(address: Ipv6Addr) -> Option<&'static str> {
    let find = |ranges: &[(Ipv6Net, &'static str)]| {
        ranges.iter().find(|(range, _)| range.contains(&address)).map(|(_, name)| *name)
    };
    if let Some(name) = find(V6_LOCAL) {
        return Some(name);
    }
    let [.., a, b, c, d] = address.octets();
    if V4_INSIDE.iter().any(|prefix| prefix.contains(&address)) {
        return of_v4(Ipv4Addr::new(a, b, c, d));
    }
    let segments = address.segments();
    // 6to4 (RFC 3056) has one behind its prefix, ISATAP (RFC 5214) as its interface.
    if segments[0] == 0x2002 {
        let [_, _, a, b, c, d, ..] = address.octets();
        return of_v4(Ipv4Addr::new(a, b, c, d));
    }
    if segments[5] == 0x5efe && segments[4] & !0x200 == 0 {
        return of_v4(Ipv4Addr::new(a, b, c, d));
    }
    let is_global = segments[0] & 0xe000 == 0x2000;
    if is_global { find(V6) } else { Some("reserved") }
}

#[cfg(test)]
mod tests {
    use super::super::target::Host;
    use super::*;

    /// Spellings of private and metadata addresses, in the ways in which filters were passed.
    const PRIVATE: &[&str] = &[
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "127.255.255.254",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0x7f.1",
        "017700000001",
        "0177.0.0.1",
        "0177.1",
        "127.0.0.1.",
        "0",
        "0.0.0.0",
        "0x0",
        "0.0.0.1",
        "10.0.0.1",
        "167772161",
        "012.0.0.1",
        "0xa.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "0xc0a80101",
        "3232235777",
        "100.64.0.1",
        "100.127.255.255",
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.254.43518",
        "192.0.0.192",
        "198.18.0.1",
        "198.19.255.255",
        "192.0.2.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "\u{ff11}\u{ff12}\u{ff17}.0.0.1",
        "127\u{3002}0\u{3002}0\u{3002}1",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[::127.0.0.1]",
        "[::7f00:1]",
        "[::ffff:0:127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b:1::1]",
        "[2002:7f00:1::]",
        "[2002:a9fe:a9fe::1]",
        "[2002:c0a8:101::]",
        "[2001:0:7f00:1::]",
        "[2001:0:5ef5:79fd:0:0:80ff:fffe]",
        "[2001:2::1]",
        "[2001:db8::1]",
        "[3fff::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[febf::1]",
        "[fec0::1]",
        "[ff02::1]",
        "[100::1]",
        "[5f00::1]",
        "[4000::1]",
        "[2a00:1450::5efe:127.0.0.1]",
        "[2a00:1450::200:5efe:10.0.0.1]",
    ];

    #[test]
    fn private_addresses_are_known_in_every_spelling() {
        assert!(PRIVATE.len() >= 40);
        for text in PRIVATE {
            let Some(Host::Address(address)) = Host::parse(text) else { panic!("{text} is no address") };
            assert!(private_range(address).is_some(), "{text} is {address}");
        }
    }

    #[test]
    fn public_addresses_are_not_private() {
        for text in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "[::ffff:8.8.8.8]",
            "[64:ff9b::808:808]",
            "[2002:808:808::1]",
            "[2606:4700:4700::1111]",
            "[2a00:1450::1]",
            "[2001:4860:4860::8888]",
        ] {
            let Some(Host::Address(address)) = Host::parse(text) else { panic!("{text} is no address") };
            assert_eq!(private_range(address), None, "{text}");
        }
    }
}
