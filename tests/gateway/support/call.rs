//! Requests, and a client that sends them byte by byte.

use std::net::SocketAddr;

use serde_json::Value;

use super::wire::{Message, Unframed, Wire};

/// A raw client: the connection itself.
pub type RawClient = Wire;

/// One request, with exactly the bytes that go over the wire.
#[derive(Clone, Debug)]
pub struct Call {
    method: String,
    target: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    chunk: Option<usize>,
}

impl Call {
    pub fn new(method: &str, target: &str) -> Self {
        let (method, target) = (method.to_owned(), target.to_owned());
        Self { method, target, fields: Vec::new(), body: Vec::new(), chunk: None }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn post(target: &str) -> Self {
        Self::new("POST", target)
    }

    /// A streamed OpenAI chat with this user text.
    pub fn chat_stream(text: &str) -> Self {
        let messages = serde_json::json!([{"role": "user", "content": text}]);
        let body = serde_json::json!({"messages": messages, "stream": true, "model": "gpt-demo"});
        Self::post("/v1/chat/completions").json(&body)
    }

    /// An OpenAI chat without streaming, with this user text.
    pub fn chat(text: &str) -> Self {
        let messages = serde_json::json!([{"role": "user", "content": text}]);
        Self::post("/v1/chat/completions")
            .json(&serde_json::json!({"messages": messages, "model": "gpt-demo"}))
    }

    /// A streamed Anthropic message with this user text.
    pub fn messages_stream(text: &str) -> Self {
        let messages = serde_json::json!([{"role": "user", "content": text}]);
        let body = serde_json::json!({"max_tokens": 100, "messages": messages, "stream": true, "model": "claude-demo"});
        Self::post("/v1/messages").header("anthropic-version", "2023-06-01").json(&body)
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends `X-Session-ID`.
    pub fn session(self, id: &str) -> Self {
        self.header("X-Session-ID", id)
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn json(self, value: &Value) -> Self {
        self.header("content-type", "application/json").body(value.to_string())
    }

    /// Sends the body in chunks of this size instead of with a length.
    pub fn chunked(mut self, size: usize) -> Self {
        self.chunk = Some(size);
        self
    }

    /// The bytes of the head, with `host` when the call has no such field.
    pub fn head(&self, host: &str) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !self.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head += &format!("Host: {host}\r\n");
        }
        for (name, value) in &self.fields {
            head += &format!("{name}: {value}\r\n");
        }
        let has_length = self.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        match self.chunk {
            Some(_) => head += "Transfer-Encoding: chunked\r\n",
            None if has_length => {}
            None if self.body.is_empty() && self.method != "POST" => {}
            None => head += &format!("Content-Length: {}\r\n", self.body.len()),
        }
        (head + "\r\n").into_bytes()
    }

    /// The bytes of head and body.
    pub fn bytes(&self, host: &str) -> Vec<u8> {
        let mut bytes = self.head(host);
        match self.chunk {
            None => bytes.extend_from_slice(&self.body),
            Some(size) => {
                for piece in self.body.chunks(size) {
                    bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                    bytes.extend_from_slice(piece);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
        }
        bytes
    }

    /// The same for HTTP/2: the head, and the body.
    pub fn request(&self, host: &str) -> (http::Request<()>, Vec<u8>) {
        let uri = format!("http://{host}{}", self.target);
        let mut request = http::Request::builder().method(self.method.as_str()).uri(uri);
        for (name, value) in &self.fields {
            request = request.header(name, value);
        }
        (request.body(()).expect("a head"), self.body.clone())
    }

    /// Sends it over a new connection and reads the answer to its end.
    pub async fn send(&self, address: SocketAddr) -> Message {
        let mut client = RawClient::connect(address).await;
        self.send_over(&mut client, address).await
    }

    /// Sends it over this connection and reads the answer to its end.
    pub async fn send_over(&self, client: &mut RawClient, address: SocketAddr) -> Message {
        let unframed = if self.method == "HEAD" { Unframed::Empty } else { Unframed::UntilEnd };
        if self.method == "HEAD" {
            client.send(&self.bytes(&address.to_string())).await.expect("send");
            let head = client.head().await.expect("a head");
            let ended = std::time::Instant::now();
            return Message { head, body: Vec::new(), is_whole: true, ended };
        }
        client.exchange(&self.bytes(&address.to_string()), unframed).await
    }

    /// Sends it over a new connection and reads nothing.
    pub async fn open(&self, address: SocketAddr) -> RawClient {
        let mut client = RawClient::connect(address).await;
        client.send(&self.bytes(&address.to_string())).await.expect("send");
        client
    }
}
