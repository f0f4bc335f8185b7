//! Connects to a proxy, and through it to a backend (CONNECT; RFC 9110, 9.3.6). Does IO without Pingora.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::egress::ProxyServer;

/// Maximum bytes of the head of a proxy's response.
const MAX_HEAD: usize = 16 << 10;

/// Why a proxy does not lead to the backend. Names the proxy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ProxyFailure(pub(super) String);

/// A connection, and the bytes of the backend that came with the proxy's response.
pub(super) struct Tunnel {
    pub(super) stream: TcpStream,
    pub(super) early: Vec<u8>,
}

/// Connects to `proxy` at this address.
pub(super) async fn dial(proxy: &ProxyServer, address: SocketAddr) -> Result<TcpStream, ProxyFailure> {
    let stream = TcpStream::connect(address).await;
    stream.map_err(|error| ProxyFailure(format!("the proxy {proxy} cannot be reached: {error}")))
}

/// Asks `proxy` for a connection to `target` (`host:port`).
pub(super) async fn open(
    proxy: &ProxyServer,
    address: SocketAddr,
    target: &str,
) -> Result<Tunnel, ProxyFailure> {
    let failed = |why: String| ProxyFailure(format!("the proxy {proxy} does not connect to {target}: {why}"));
    let mut stream = dial(proxy, address).await?;
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(value) = proxy.authorization() {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(value.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await.map_err(|error| failed(error.to_string()))?;
    let mut read = Vec::with_capacity(1024);
    let end = loop {
        if let Some(end) = memchr::memmem::find(&read, b"\r\n\r\n") {
            break end + 4;
        }
        if read.len() >= MAX_HEAD {
            return Err(failed(format!("its response has a head of more than {MAX_HEAD} bytes")));
        }
        match stream.read_buf(&mut read).await {
            Ok(0) => return Err(failed("it closed the connection".to_owned())),
            Ok(_) => {}
            Err(error) => return Err(failed(error.to_string())),
        }
    };
    let line = read.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    match status(line) {
        Some(("2", _)) => Ok(Tunnel { stream, early: read.split_off(end) }),
        Some((_, told)) if told.starts_with("407") => {
            let hint =
                if proxy.authorization().is_some() { "others are needed" } else { "none are configured" };
            Err(failed(format!("{told} (it wants credentials in its URL; {hint})")))
        }
        Some((_, told)) => Err(failed(told)),
        None => Err(failed("it does not speak HTTP/1.1".to_owned())),
    }
}

/// Returns the class of a status line (its first digit), and status and reason without control characters.
fn status(line: &[u8]) -> Option<(&str, String)> {
    let line = std::str::from_utf8(line).ok()?;
    let rest = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "))?;
    let is_code = rest.len() >= 3 && rest.bytes().take(3).all(|byte| byte.is_ascii_digit());
    let told = rest.chars().filter(|c| !c.is_control()).take(100).collect::<String>();
    is_code.then(|| (&rest[..1], told.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// What comes of a proxy that answers so, and the request that it got.
    async fn opened(answer: &'static str, proxy: &str) -> (Result<Vec<u8>, String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answering = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut request).await.unwrap();
            }
            for piece in answer.as_bytes().chunks(7) {
                stream.write_all(piece).await.unwrap();
            }
            String::from_utf8(request).unwrap()
        });
        let result = open(&proxy.parse().unwrap(), address, "api.test:443").await;
        let request = answering.await.unwrap();
        let early = match result {
            Ok(mut tunnel) => {
                let mut rest = tunnel.early;
                tunnel.stream.read_to_end(&mut rest).await.unwrap();
                Ok(rest)
            }
            Err(failure) => Err(failure.to_string()),
        };
        (early, request)
    }

    #[tokio::test]
    async fn what_follows_the_head_is_the_backends() {
        let (early, request) = opened("HTTP/1.0 200 Established\r\nX: y\r\n\r\nfirst", "http://p.test").await;
        assert_eq!(early.unwrap(), b"first");
        assert_eq!(request, "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n");
        let (_, request) = opened("HTTP/1.1 200 OK\r\n\r\n", "http://u:p@p.test").await;
        assert!(request.ends_with("\r\nProxy-Authorization: Basic dTpw\r\n\r\n"), "{request}");
    }

    #[tokio::test]
    async fn a_refusal_names_proxy_target_and_reason() {
        let before = "the proxy http://p.test:80 does not connect to api.test:443: ";
        for (answer, why) in [
            ("HTTP/1.1 403 Forbidden\r\n\r\n", "403 Forbidden"),
            ("HTTP/1.1 502\r\n\r\n", "502"),
            (
                "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
                "407 Proxy Authentication Required (it wants credentials in its URL; none are configured)",
            ),
            ("HTTP/1.1 200 OK\r\n", "it closed the connection"),
            ("SSH-2.0-x\r\n\r\n", "it does not speak HTTP/1.1"),
            ("HTTP/1.1 é00 OK\r\n\r\n", "it does not speak HTTP/1.1"),
        ] {
            let told = opened(answer, "http://p.test").await.0.unwrap_err();
            assert_eq!(told, format!("{before}{why}"));
        }
    }
}
