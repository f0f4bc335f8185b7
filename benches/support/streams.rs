//! Paced streams: many at once, each event timed from the source to here.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::load;
use super::roles::PACED;
use super::source::{TIME_FIELD, now_nanos};

/// How a stream is paced.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// From event to event.
    pub(crate) every: Duration,
    /// How many; the first comes with the head, the last one holds the usage and no time.
    pub(crate) events: usize,
}

/// One stream whose first event is here.
pub(crate) struct Stream {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// The end of a chunked body.
const END: &[u8] = b"data: [DONE]\n\n\r\n0\r\n\r\n";

/// Opens a stream and waits for its first event.
///
/// # Errors
/// The connection broke, or the answer is not a 200.
pub(crate) async fn open(address: SocketAddr, index: usize, pace: Pace) -> io::Result<Stream> {
    let path = format!("{PACED}/v1/chat/completions?every={}&events={}", pace.every.as_micros(), pace.events);
    // A hundred sessions to a principal, one to each stream.
    let (session, principal) = (format!("stream-{index}"), format!("sk-bench-{}", index / 100));
    let request = load::request(&path, &session, &principal, &load::chat("go", true));
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&request).await?;
    let mut buffer = Vec::with_capacity(4 << 10);
    while memchr::memmem::find(&buffer, TIME_FIELD.as_bytes()).is_none() {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::Error::other("a stream ended before its first event"));
        }
    }
    if !buffer.starts_with(b"HTTP/1.1 200") {
        return Err(io::Error::other(String::from_utf8_lossy(&buffer).into_owned()));
    }
    buffer.clear();
    Ok(Stream { stream, buffer })
}

impl Stream {
    /// Reads to the end; gives the microseconds each event took.
    ///
    /// # Errors
    /// The connection broke, or the stream ended before its end or without all of its events.
    pub(crate) async fn finish(mut self, pace: Pace) -> io::Result<Vec<f64>> {
        let mut times = Vec::with_capacity(pace.events);
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::other("a stream broke off"));
            }
            let now = now_nanos();
            let mut done = 0;
            for at in memchr::memmem::find_iter(&self.buffer, TIME_FIELD) {
                let digits = at + TIME_FIELD.len();
                let Some(sent) = self.buffer.get(digits..digits + 19) else { break };
                let sent: u64 =
                    std::str::from_utf8(sent).ok().and_then(|sent| sent.parse().ok()).unwrap_or(now);
                times.push(now.saturating_sub(sent) as f64 / 1e3);
                done = digits + 19;
            }
            if self.buffer.ends_with(END) {
                // The first event was seen by `open`, and the last one has no time.
                return match times.len() + 2 == pace.events {
                    true => Ok(times),
                    false => Err(io::Error::other(format!("{} events of {}", times.len() + 2, pace.events))),
                };
            }
            // What may be the beginning of a time, or of the end, stays.
            let keep = self.buffer.len().saturating_sub(TIME_FIELD.len() + 19 + END.len()).max(done);
            self.buffer.drain(..keep);
        }
    }
}

/// Opens `count` streams, at most `at_once` of them at the same time.
///
/// # Errors
/// One of them could not be opened.
pub(crate) async fn open_all(
    address: SocketAddr,
    count: usize,
    at_once: usize,
    pace: Pace,
) -> io::Result<Vec<Stream>> {
    let mut tasks = JoinSet::new();
    let mut streams = Vec::with_capacity(count);
    for index in 0..count {
        if tasks.len() == at_once
            && let Some(opened) = tasks.join_next().await
        {
            streams.push(opened.map_err(io::Error::other)??);
        }
        tasks.spawn(open(address, index, pace));
    }
    while let Some(opened) = tasks.join_next().await {
        streams.push(opened.map_err(io::Error::other)??);
    }
    Ok(streams)
}

/// Reads all streams to their end.
///
/// # Errors
/// One of them failed.
pub(crate) async fn finish_all(streams: Vec<Stream>, pace: Pace) -> io::Result<Vec<f64>> {
    let mut tasks: JoinSet<_> = streams.into_iter().map(|stream| stream.finish(pace)).collect();
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done.map_err(io::Error::other)??);
    }
    Ok(times)
}
