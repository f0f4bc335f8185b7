//! Parses a listen address: `0.0.0.0:8080`, `[::1]:9090`, `localhost:9090`, `:8080`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::fault::Faults;

/// Parses a listen address; `:8080` means every IPv4 address, `localhost` is 127.0.0.1. Any other host name is a fault,
/// since it may resolve to another address at the next start. `None` when a fault was added.
pub fn listen_address(path: &str, text: &str, faults: &mut Faults) -> Option<SocketAddr> {
    let parsed = parse(text);
    if parsed.is_none() {
        let hint = "write IP:PORT such as 127.0.0.1:8080, or :8080 for every address";
        faults.add(path, format!("'{text}' is not an address to listen on"), hint);
    }
    parsed
}

fn parse(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok())??;
    let address: IpAddr = match host {
        "" | "*" => Ipv4Addr::UNSPECIFIED.into(),
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        "[::]" => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_the_forms_people_write() {
        let read = |text: &str| parse(text).map(|address| address.to_string());
        assert_eq!(read(":8080").as_deref(), Some("0.0.0.0:8080"));
        assert_eq!(read("*:8080").as_deref(), Some("0.0.0.0:8080"));
        assert_eq!(read("localhost:9090").as_deref(), Some("127.0.0.1:9090"));
        assert_eq!(read("[::1]:0").as_deref(), Some("[::1]:0"));
        for wrong in ["8080", "", ":", "example.com:80", "127.0.0.1", ":+80", ":99999", "127.0.0.1:"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
