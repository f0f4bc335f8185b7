//! The load generator: raw HTTP/1.1 over persistent connections, on one thread.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

/// The bytes of a request.
pub(crate) fn request(path: &str, session: &str, principal: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: elida-bench/1\r\nAccept: application/json\r\n\
         Authorization: Bearer {principal}\r\nX-Session-ID: {session}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// An OpenAI chat with this user text.
pub(crate) fn chat(text: &str, stream: bool) -> String {
    format!(
        "{{\"messages\":[{{\"role\":\"system\",\"content\":\"You are a terse assistant.\"}},\
         {{\"role\":\"user\",\"content\":\"{text}\"}}],\"temperature\":0.2,\"stream\":{stream},\"model\":\"gpt-demo\"}}"
    )
}

/// A persistent connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(64 << 10) })
    }

    /// The answer to a GET of this path, as text.
    ///
    /// # Errors
    /// As [`Connection::exchange`].
    pub(crate) async fn get(&mut self, path: &str) -> io::Result<String> {
        self.exchange(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
        Ok(String::from_utf8_lossy(&self.buffer).into_owned())
    }

    /// Sends a request and reads its answer, which has a Content-Length.
    ///
    /// # Errors
    /// The connection broke, or the answer is not a 200.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let mut expected = None;
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::other("the connection was closed in mid-answer"));
            }
            if expected.is_none() {
                expected = whole_length(&self.buffer)?;
            }
            if expected.is_some_and(|length| self.buffer.len() >= length) {
                return Ok(());
            }
        }
    }
}

/// The length of head and body together, once the head has arrived.
fn whole_length(answer: &[u8]) -> io::Result<Option<usize>> {
    let Some(end) = memchr::memmem::find(answer, b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    if !head.starts_with("http/1.1 200") {
        return Err(io::Error::other(String::from_utf8_lossy(answer).into_owned()));
    }
    let after = head
        .find("content-length: ")
        .map(|at| &head[at + "content-length: ".len()..])
        .ok_or_else(|| io::Error::other("an answer without Content-Length"))?;
    let length: usize = after.lines().next().unwrap_or_default().trim().parse().map_err(io::Error::other)?;
    Ok(Some(end + 4 + length))
}

/// Sends `each` requests over each of `connections`, as fast as they are answered or each `every`;
/// `make` writes the request of a connection. Returns how long each one took, in microseconds.
pub(crate) async fn run(
    address: SocketAddr,
    connections: usize,
    each: usize,
    every: Option<Duration>,
    make: impl Fn(usize) -> Vec<u8>,
) -> io::Result<Vec<f64>> {
    let mut tasks = JoinSet::new();
    for index in 0..connections {
        let request = make(index);
        tasks.spawn(async move {
            let mut connection = Connection::open(address).await?;
            // This request also opens the connection to the backend.
            connection.exchange(&request).await?;
            let mut beat = every.map(interval);
            if let Some(beat) = &mut beat {
                beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
            }
            let mut times = Vec::with_capacity(each);
            for _ in 0..each {
                if let Some(beat) = &mut beat {
                    beat.tick().await;
                }
                let begun = Instant::now();
                connection.exchange(&request).await?;
                times.push(begun.elapsed().as_secs_f64() * 1e6);
            }
            Ok::<_, io::Error>(times)
        });
    }
    let mut all = Vec::with_capacity(connections * each);
    while let Some(done) = tasks.join_next().await {
        all.extend(done.map_err(io::Error::other)??);
    }
    Ok(all)
}
