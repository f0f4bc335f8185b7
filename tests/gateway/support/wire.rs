//! One TCP connection with a hand-written HTTP/1.1 reader: it records when bytes arrive, and
//! distinguishes a truncated message from a whole one.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};

use super::within;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The peer closed it.
    Closed(Instant),
    /// The peer reset it.
    Reset(Instant),
}

impl Ending {
    pub fn at(self) -> Instant {
        match self {
            Ending::Closed(at) | Ending::Reset(at) => at,
        }
    }
}

/// A head: the start line and the fields in order.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub line: String,
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// The first field of this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The status of a response.
    pub fn status(&self) -> u16 {
        self.line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// The target of a request.
    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    fn is_chunked(&self) -> bool {
        self.field("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    }

    fn length(&self) -> Option<usize> {
        self.field("content-length").and_then(|length| length.parse().ok())
    }
}

/// A message: head and body, and whether the body is complete.
#[derive(Clone, Debug)]
pub struct Message {
    pub head: Head,
    pub body: Vec<u8>,
    /// Whether the framing says that this is all; never true for a body that ends with the connection.
    pub is_whole: bool,
    /// When the last byte was read, or when the connection ended if that truncated the body.
    pub ended: Instant,
}

impl Message {
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        super::json(&self.body)
    }
}

/// The length of a body without any framing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unframed {
    /// Empty: requests, and answers without a body.
    Empty,
    /// Everything until the connection ends.
    UntilEnd,
}

/// The connection.
pub struct Wire {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    received: Vec<u8>,
    taken: usize,
    last_byte: Instant,
    ending: Option<Ending>,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let (reader, writer) = stream.into_split();
        Self { reader, writer, received: Vec::new(), taken: 0, last_byte: Instant::now(), ending: None }
    }

    pub async fn connect(address: SocketAddr) -> Self {
        Self::new(within("a connection", TcpStream::connect(address)).await.expect("connect"))
    }

    /// A connection with a small receive buffer, for clients that do not read.
    pub async fn connect_narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        Self::new(within("a connection", socket.connect(address)).await.expect("connect"))
    }

    /// Sends all bytes; an error means that the peer is gone.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes).await
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        let stream = self.reader.reunite(self.writer).expect("two halves of one stream");
        stream.set_zero_linger().expect("SO_LINGER");
    }

    /// Sends and reads at the same time; the peer may answer before it has read everything.
    pub async fn exchange(&mut self, bytes: &[u8], unframed: Unframed) -> Message {
        let Self { reader, writer, received, taken, last_byte, ending } = self;
        let mut reading = Reading { reader, received, taken, last_byte, ending };
        let sending = async {
            let _ = writer.write_all(bytes).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            message = within("an answer", reading.message(unframed)) => message.expect("an answer before the connection ended"),
            () = sending => unreachable!("the sender never completes"),
        }
    }

    fn reading(&mut self) -> Reading<'_> {
        let Self { reader, received, taken, last_byte, ending, .. } = self;
        Reading { reader, received, taken, last_byte, ending }
    }

    /// The next head; `None` when the connection ends before.
    pub async fn head(&mut self) -> Option<Head> {
        within("a head", self.reading().head()).await
    }

    /// The body that belongs to `head`.
    pub async fn body(&mut self, head: Head, unframed: Unframed) -> Message {
        within("a body's end", self.reading().body(head, unframed)).await
    }

    /// The next message; `None` when the connection ends before its head.
    pub async fn message(&mut self, unframed: Unframed) -> Option<Message> {
        let head = self.head().await?;
        Some(self.body(head, unframed).await)
    }

    /// Reads this many bytes; `None` when the connection ends before.
    pub async fn bytes(&mut self, length: usize) -> Option<Vec<u8>> {
        let mut taken = Vec::with_capacity(length);
        within("bytes", self.reading().take(length, &mut taken)).await.then_some(taken)
    }

    /// Bytes that were received and not yet consumed.
    pub fn rest(&self) -> &[u8] {
        &self.received[self.taken..]
    }

    /// Shuts down the sending side of the connection; the test can still read.
    pub async fn shut(&mut self) {
        self.writer.shutdown().await.expect("shutdown");
    }

    /// Reads until the unconsumed bytes contain `text`; does not consume it.
    pub async fn until(&mut self, text: &str) {
        within(&format!("{text:?}"), async {
            let mut reading = self.reading();
            while !contains(&reading.received[*reading.taken..], text.as_bytes()) {
                let has_more = reading.more().await;
                let got = String::from_utf8_lossy(&reading.received[*reading.taken..]).into_owned();
                assert!(has_more, "the connection ended before {text:?}; got {got:?}");
            }
        })
        .await;
    }

    /// Reads and discards everything until the connection ends.
    pub async fn end(&mut self) -> Ending {
        within("the connection's end", async {
            let mut reading = self.reading();
            while reading.more().await {}
        })
        .await;
        self.ending.expect("the loop above ends with the connection")
    }

    /// How it ended; `None` while it is open.
    pub fn ending(&self) -> Option<Ending> {
        self.ending
    }
}

struct Reading<'a> {
    reader: &'a mut OwnedReadHalf,
    received: &'a mut Vec<u8>,
    taken: &'a mut usize,
    last_byte: &'a mut Instant,
    ending: &'a mut Option<Ending>,
}

impl Reading<'_> {
    /// Reads once; false when the connection has ended.
    async fn more(&mut self) -> bool {
        if self.ending.is_some() {
            return false;
        }
        self.received.reserve(64 * 1024);
        match self.reader.read_buf(self.received).await {
            Ok(0) => *self.ending = Some(Ending::Closed(Instant::now())),
            Err(_) => *self.ending = Some(Ending::Reset(Instant::now())),
            Ok(_) => *self.last_byte = Instant::now(),
        }
        self.ending.is_none()
    }

    async fn line(&mut self) -> Option<String> {
        let mut searched = *self.taken;
        loop {
            let found = self.received[searched..].iter().position(|byte| *byte == b'\n');
            if let Some(at) = found.map(|at| searched + at) {
                let line = String::from_utf8_lossy(&self.received[*self.taken..at]);
                let line = line.trim_end_matches('\r').to_owned();
                *self.taken = at + 1;
                return Some(line);
            }
            searched = self.received.len();
            if !self.more().await {
                return None;
            }
        }
    }

    /// Consumes `length` bytes, or the rest when the connection ends before; returns whether it got all.
    async fn take(&mut self, length: usize, into: &mut Vec<u8>) -> bool {
        while self.received.len() - *self.taken < length {
            if !self.more().await {
                break;
            }
        }
        let end = self.received.len().min(*self.taken + length);
        into.extend_from_slice(&self.received[*self.taken..end]);
        let is_whole = end - *self.taken == length;
        *self.taken = end;
        is_whole
    }

    async fn head(&mut self) -> Option<Head> {
        let line = self.line().await?;
        let mut fields = Vec::new();
        loop {
            let field = self.line().await?;
            let Some((name, value)) = field.split_once(':') else {
                return Some(Head { line, fields });
            };
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    async fn message(&mut self, unframed: Unframed) -> Option<Message> {
        let head = self.head().await?;
        Some(self.body(head, unframed).await)
    }

    async fn body(&mut self, head: Head, unframed: Unframed) -> Message {
        let mut body = Vec::new();
        let is_whole = if head.is_chunked() {
            self.chunks(&mut body).await
        } else if let Some(length) = head.length() {
            self.take(length, &mut body).await
        } else if unframed == Unframed::UntilEnd {
            while self.more().await {}
            self.take(self.received.len() - *self.taken, &mut body).await;
            false
        } else {
            true
        };
        let ended = match (is_whole, *self.ending) {
            (false, Some(ending)) => ending.at(),
            _ => *self.last_byte,
        };
        Message { head, body, is_whole, ended }
    }

    /// Consumes chunks; true when the last one (of length zero) and the trailer have arrived.
    async fn chunks(&mut self, body: &mut Vec<u8>) -> bool {
        loop {
            let Some(line) = self.line().await else { return false };
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("a chunk size: {line:?}"));
            if size == 0 {
                break;
            }
            if !self.take(size, body).await || self.line().await.is_none() {
                return false;
            }
        }
        loop {
            match self.line().await {
                Some(line) if line.is_empty() => return true,
                Some(_) => {}
                None => return false,
            }
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(haystack, needle).is_some()
}
