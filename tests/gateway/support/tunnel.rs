//! A client of the forward proxy that speaks HTTP/1.1, and the hosts that its tunnels lead to.

use std::net::SocketAddr;

use data_encoding::BASE64;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Gateway, within};

/// The name of the host of a test, wherever it listens.
pub const HOST: &str = "host.test";

/// `forward_proxy:` without keys, where this name leads to the address, with further members.
pub fn open(address: SocketAddr, more: &str) -> String {
    format!(
        "forward_proxy: {{ enabled: true, require_auth: false, hosts: {{ {HOST}: '{address}' }}, {more} }}\n\
         backend: 'http://127.0.0.1:9'\n"
    )
}

/// A listener on loopback.
pub async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// Accepts a connection.
pub async fn accept(listener: &TcpListener) -> TcpStream {
    within("a connection to the host", listener.accept()).await.expect("a connection").0
}

/// A client and its end of a tunnel.
pub struct Tunnel {
    pub stream: TcpStream,
    /// The head of the answer.
    pub head: String,
}

/// The value of `Proxy-Authorization: Basic`.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{password}").as_bytes()))
}

impl Tunnel {
    /// Sends a CONNECT with this credential, and these bytes behind it.
    pub async fn ask(gateway: &Gateway, target: &str, credential: Option<&str>, early: &[u8]) -> Self {
        let mut stream = TcpStream::connect(gateway.proxy()).await.expect("a connection");
        stream.set_nodelay(true).expect("an option");
        let credential =
            credential.map(|text| format!("Proxy-Authorization: {text}\r\n")).unwrap_or_default();
        let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{credential}\r\n");
        stream.write_all(&[head.as_bytes(), early].concat()).await.expect("room");
        let head = head_of(&mut stream).await;
        Self { stream, head }
    }

    /// Opens a tunnel in this session.
    pub async fn open(gateway: &Gateway, session: &str) -> Self {
        let credential = basic(session, "");
        let tunnel = Self::ask(gateway, &format!("{HOST}:443"), Some(&credential), b"").await;
        assert_eq!(tunnel.status(), 200, "{}", tunnel.head);
        tunnel
    }

    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    /// The value of a field of the answer.
    pub fn field(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.into_iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The JSON of a refusal.
    pub async fn refusal(mut self) -> serde_json::Value {
        let length = self.field("content-length").expect("a length").parse().expect("a number");
        let mut body = vec![0; length];
        within("the body", self.stream.read_exact(&mut body)).await.expect("a body");
        super::json(&body)
    }
}

/// Reads to the empty line, byte by byte, so that nothing behind it is lost.
pub async fn head_of(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        let read = within("the head of an answer", stream.read(&mut byte)).await.unwrap_or(0);
        if read == 0 {
            break;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("a head")
}

/// Reads this many bytes.
pub async fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    within("bytes in a tunnel", stream.read_exact(&mut bytes)).await.expect("bytes");
    bytes
}

/// Reads to the end; an error is the kind of the end.
pub async fn rest(stream: &mut TcpStream) -> Result<Vec<u8>, std::io::ErrorKind> {
    let mut bytes = Vec::new();
    let read = within("the end of a tunnel", stream.read_to_end(&mut bytes)).await;
    read.map(|_| bytes).map_err(|error| error.kind())
}
