//! Paced streams: many at the same time; the latency of each event is measured from the source.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::load;
use super::roles::PACED;
use super::source::{TIME_FIELD, now_nanos};

/// The pace of a stream.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// The interval between events.
    pub(crate) every: Duration,
    /// The number of events; the first comes with the head, the last one contains the usage and no time.
    pub(crate) events: usize,
}

/// A stream whose first event has arrived.
pub(crate) struct Stream {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// The length of an event's time with its field name.
const TIME: usize = TIME_FIELD.len() + 19;

/// The end of a chunked body.
const END: &[u8] = b"data: [DONE]\n\n\r\n0\r\n\r\n";

/// Opens a stream and waits for its first event.
///
/// # Errors
/// The connection broke, or the answer is not a 200.
pub(crate) async fn open(address: SocketAddr, index: usize, pace: Pace) -> io::Result<Stream> {
    let path = format!("{PACED}/v1/chat/completions?every={}&events={}", pace.every.as_micros(), pace.events);
    // A hundred sessions per principal, one per stream.
    let (session, principal) = (format!("stream-{index}"), format!("sk-bench-{}", index / 100));
    let request = load::request(&path, &session, &principal, &load::chat("go", true));
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&request).await?;
    let mut buffer = Vec::with_capacity(4 << 10);
    while memchr::memmem::find(&buffer, TIME_FIELD.as_bytes()).is_none_or(|at| buffer.len() < at + TIME) {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::Error::other("a stream ended before its first event"));
        }
    }
    if !buffer.starts_with(b"HTTP/1.1 200") {
        return Err(io::Error::other(String::from_utf8_lossy(&buffer).into_owned()));
    }
    Ok(Stream { stream, buffer })
}

impl Stream {
    /// Reads to the end; returns the microseconds of each event that was sent after `since`. Older ones
    /// waited in the socket until all streams were open.
    ///
    /// # Errors
    /// The connection broke, or the stream was truncated or lacks events.
    async fn finish(mut self, pace: Pace, since: u64) -> io::Result<Vec<f64>> {
        let (mut times, mut events) = (Vec::with_capacity(pace.events), 0);
        loop {
            let now = now_nanos();
            let mut done = 0;
            for at in memchr::memmem::find_iter(&self.buffer, TIME_FIELD) {
                let Some(digits) = self.buffer.get(at + TIME_FIELD.len()..at + TIME) else { break };
                let sent: u64 =
                    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0);
                if sent > since {
                    times.push(now.saturating_sub(sent) as f64 / 1e3);
                }
                (done, events) = (at + TIME, events + 1);
            }
            if self.buffer.ends_with(END) {
                // The last event has no time.
                return match events + 1 == pace.events {
                    true => Ok(times),
                    false => Err(io::Error::other(format!("{} events of {}", events + 1, pace.events))),
                };
            }
            // The possible beginning of a time, or of the end, is kept.
            let keep = self.buffer.len().saturating_sub(TIME + END.len()).max(done);
            self.buffer.drain(..keep);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::other("a stream broke off"));
            }
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

/// Reads all streams to their end; returns the microseconds of each event from now on.
///
/// # Errors
/// One of them failed.
pub(crate) async fn finish_all(streams: Vec<Stream>, pace: Pace) -> io::Result<Vec<f64>> {
    let since = now_nanos();
    let mut tasks: JoinSet<_> = streams.into_iter().map(|stream| stream.finish(pace, since)).collect();
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done.map_err(io::Error::other)??);
    }
    Ok(times)
}
