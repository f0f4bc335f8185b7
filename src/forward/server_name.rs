//! The first bytes of a client in a tunnel: if they begin a TLS handshake, the name of the server that it asks for.

use rustls::server::Acceptor;

use super::target::Host;

/// The most bytes of a first flight that are kept until its server name is known.
const MOST: usize = 64 << 10;

/// The first byte of a TLS handshake record (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;

/// What the first bytes say.
#[derive(Debug, PartialEq, Eq)]
pub enum FirstBytes {
    /// More are needed to tell.
    Unknown,
    /// They do not begin TLS.
    NotTls,
    /// A handshake that asks for this server, or for none.
    Tls(Option<Host>),
    /// A handshake that cannot be read.
    Unreadable,
}

/// Reads the first bytes of a client.
pub fn read(bytes: &[u8]) -> FirstBytes {
    match bytes.first() {
        None => return FirstBytes::Unknown,
        Some(first) if *first != HANDSHAKE => return FirstBytes::NotTls,
        Some(_) => {}
    }
    let (mut acceptor, mut rest) = (Acceptor::default(), bytes);
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).is_err() {
            return FirstBytes::Unreadable;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_owned);
                return match name {
                    None => FirstBytes::Tls(None),
                    Some(name) => {
                        Host::parse(&name).map_or(FirstBytes::Unreadable, |host| FirstBytes::Tls(Some(host)))
                    }
                };
            }
            Ok(None) => {}
            Err(_) => return FirstBytes::Unreadable,
        }
    }
    if bytes.len() > MOST { FirstBytes::Unreadable } else { FirstBytes::Unknown }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// The first flight of a client that asks for this server.
    fn hello(name: &'static str) -> Vec<u8> {
        let config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
        let mut sent = Vec::new();
        client.write_tls(&mut sent).unwrap();
        sent
    }

    #[test]
    fn a_server_name_is_read_as_soon_as_its_handshake_is_there() {
        let sent = hello("Bad.Example");
        for end in 1..sent.len() {
            assert_eq!(read(&sent[..end]), FirstBytes::Unknown, "{end}");
        }
        assert_eq!(read(&sent), FirstBytes::Tls(Host::parse("bad.example")));
        assert_eq!(read(&[&sent[..], b"more"].concat()), FirstBytes::Tls(Host::parse("bad.example")));
        assert_eq!(read(&hello("192.0.2.1")), FirstBytes::Tls(None));
    }

    #[test]
    fn other_bytes_are_no_handshake_or_an_unreadable_one() {
        assert_eq!(read(b""), FirstBytes::Unknown);
        assert_eq!(read(b"SSH-2.0-x"), FirstBytes::NotTls);
        assert_eq!(read(&[HANDSHAKE, 9, 9, 9, 9, 9, 9]), FirstBytes::Unreadable);
    }
}
