//! WebSockets: a hand-written handshake and frames over a raw connection, and a client based on tungstenite.

use std::net::SocketAddr;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::http::HeaderName;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::backend::Connection;
use super::call::{Call, RawClient};
use super::wire::Head;
use super::within;

/// The response of a backend that switches protocols.
pub fn switch(request: &Head) -> String {
    let accept = derive_accept_key(request.field("sec-websocket-key").unwrap_or_default().as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

/// A handshake; tests add header fields.
pub fn handshake(target: &str) -> Call {
    Call::get(target)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
}

/// A frame, unmasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// FIN, reserved bits and opcode.
    pub first: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn text(text: &str) -> Self {
        Self { first: 0x81, payload: text.as_bytes().to_vec() }
    }

    pub fn binary(payload: impl Into<Vec<u8>>) -> Self {
        Self { first: 0x82, payload: payload.into() }
    }

    pub fn close(code: u16, reason: &str) -> Self {
        Self { first: 0x88, payload: [&code.to_be_bytes(), reason.as_bytes()].concat() }
    }

    /// The code and reason of a Close frame.
    pub fn closes(&self) -> Option<(u16, String)> {
        let code = u16::from_be_bytes(self.payload.get(..2)?.try_into().ok()?);
        (self.first == 0x88).then(|| (code, String::from_utf8_lossy(&self.payload[2..]).into_owned()))
    }

    pub fn json(&self) -> Value {
        super::json(&self.payload)
    }

    fn head(&self, flag: u8) -> Vec<u8> {
        let mut head = vec![self.first];
        match self.payload.len() {
            short @ 0..126 => head.push(flag | u8::try_from(short).expect("short")),
            length => {
                head.push(flag | 127);
                head.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        head
    }

    /// The bytes of the frame as a server sends it.
    pub fn plain(&self) -> Vec<u8> {
        [self.head(0).as_slice(), &self.payload].concat()
    }

    /// The bytes of the frame as a client sends it (masked).
    pub fn masked(&self) -> Vec<u8> {
        const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
        let payload = self.payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key);
        self.head(0x80).into_iter().chain(KEY).chain(payload).collect()
    }
}

impl RawClient {
    /// The next frame of the peer; `None` when the connection ends before it is complete.
    pub async fn frame(&mut self) -> Option<Frame> {
        let head = self.bytes(2).await?;
        let extended = match head[1] & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let number = self.bytes(extended).await?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        let length = if extended == 0 { usize::from(head[1] & 0x7F) } else { number };
        let key = self.bytes(if head[1] & 0x80 == 0 { 0 } else { 4 }).await?;
        let mut payload = self.bytes(length).await?;
        if !key.is_empty() {
            payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        }
        Some(Frame { first: head[0], payload })
    }
}

impl Connection {
    /// The next frame of the client; `None` when the connection ends before it is complete.
    pub async fn frame(&mut self) -> Option<Frame> {
        self.wire().frame().await
    }
}

/// Opens a raw WebSocket; the backend must switch protocols.
pub async fn open(gateway: SocketAddr, call: &Call) -> RawClient {
    let mut client = call.open(gateway).await;
    let head = client.head().await.expect("an answer");
    assert_eq!(head.status(), 101, "{head:?}");
    client
}

/// A client based on tungstenite, which checks that the server follows the standard.
pub struct Socket(WebSocketStream<TcpStream>);

/// The code and reason of the Close frame that ended a socket; `None` when the connection was cut (1006).
pub type Ended = Option<(u16, String)>;

impl Socket {
    /// Opens a WebSocket with these header fields.
    pub async fn connect(gateway: SocketAddr, target: &str, fields: &[(&str, &str)]) -> Result<Self, Error> {
        let mut request = format!("ws://{gateway}{target}").into_client_request().expect("a request");
        for (name, value) in fields {
            let name: HeaderName = name.parse().expect("a name");
            request.headers_mut().insert(name, value.parse().expect("a value"));
        }
        let stream = within("a connection", TcpStream::connect(gateway)).await.expect("connect");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let (socket, _) = within("a handshake", tokio_tungstenite::client_async(request, stream)).await?;
        Ok(Self(socket))
    }

    /// As [`Socket::connect`] in the session `session`; the handshake must succeed.
    pub async fn open(gateway: SocketAddr, target: &str, session: &str) -> Self {
        Self::connect(gateway, target, &[("x-session-id", session)]).await.expect("a socket")
    }

    pub async fn send(&mut self, value: &Value) {
        self.0.send(Message::text(value.to_string())).await.expect("send");
    }

    /// Asks a Realtime socket for a response to this text.
    pub async fn ask(&mut self, text: &str) {
        let content = json!([{"type": "input_text", "text": text}]);
        let item = json!({"type": "message", "role": "user", "content": content});
        self.send(&json!({"type": "conversation.item.create", "item": item})).await;
        self.send(&json!({"type": "response.create"})).await;
    }

    /// The next event; `None` when the socket ends.
    pub async fn event(&mut self) -> Option<Value> {
        loop {
            match within("an event", self.0.next()).await? {
                Ok(Message::Text(text)) => return Some(super::json(text.as_bytes())),
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Reads up to the event of this kind.
    pub async fn until(&mut self, kind: &str) -> Value {
        loop {
            let event = self.event().await.unwrap_or_else(|| panic!("the socket ended before {kind}"));
            if event["type"] == kind {
                return event;
            }
        }
    }

    /// Reads to the end; returns the events before it.
    pub async fn end(&mut self) -> (Vec<Value>, Ended) {
        let mut events = Vec::new();
        let mut close = None;
        loop {
            match within("the socket's end", self.0.next()).await {
                Some(Ok(Message::Text(text))) => events.push(super::json(text.as_bytes())),
                Some(Ok(Message::Close(Some(frame)))) => {
                    close = Some((u16::from(frame.code), frame.reason.to_string()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return (events, close),
            }
        }
    }

    /// Sends a Close frame and waits for the answer.
    pub async fn close(mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code: code.into(), reason: reason.to_owned().into() };
        self.0.close(Some(frame)).await.expect("close");
        self.end().await;
    }
}
