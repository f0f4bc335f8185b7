//! Limits the work an HTTP/2 client can cause without sending requests (CVE-2023-44487 and relatives).
//!
//! HTTP/2 has many frames that cost the receiver work and the sender almost nothing: PING, SETTINGS, WINDOW_UPDATE, empty
//! DATA (CVE-2019-9511 to 9518), and streams that are opened and reset at once (CVE-2023-44487) or provoke a reset by
//! the server (CVE-2025-8671). The `h2` crate bounds the memory these take. This budget bounds the work: requests and
//! time earn credit for bytes that belong to no request, and a connection without credit is closed.
//!
//! Streams that a client cancels before they are answered are judged by their share of all streams: each answered stream
//! earns credit for several cancelled ones, and so does time. A client that exceeds its credit gets GOAWAY, while its
//! open streams continue. A client that hedges its
//! requests, or a proxy with many clients behind it, cancels many streams and has many answered; an attack has almost
//! none answered.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Bytes outside requests that a new connection may send.
const BYTES: u64 = 1 << 20;
/// Bytes that each second adds: more than any client's keep-alive needs.
const BYTES_PER_SECOND: u64 = 4 << 10;
/// Bytes that each byte of a request or response adds. This tolerates a WINDOW_UPDATE for each DATA frame of two bytes.
const BYTES_PER_BYTE: u64 = 8;
/// How many bytes the head of a request counts for.
const HEAD_BYTES: u64 = 512;
/// How often the budget is checked, in bytes read.
const CHECK_INTERVAL: u64 = 64 << 10;

/// Cancelled streams that one answered stream earns credit for: four of five streams may always be cancelled.
const PER_ANSWER: f64 = 4.0;

/// The share of `server.limits.max_cancelled_streams` that each second adds.
const PER_SECOND: f64 = 0.1;

/// Factor of the credit of a proxy in `server.trusted_proxies`, which forwards the streams of many clients.
const TRUSTED: u32 = 100;

/// Budget of one HTTP/2 connection.
pub(crate) struct H2Budget {
    since: Instant,
    /// Bytes read from the connection.
    read: AtomicU64,
    /// Bytes of requests and responses.
    useful: AtomicU64,
    /// When the budget is checked next, in bytes read.
    next: AtomicU64,
    /// Streams that may be cancelled at once; the maximum of the credit.
    allowance: u32,
    /// How many more streams may be cancelled, and when that was computed.
    credit: Mutex<(f64, Instant)>,
    exhausted: Notify,
}

impl H2Budget {
    /// Creates the budget of a client that may cancel `max_cancelled` streams at once.
    pub(crate) fn new(max_cancelled: u32, is_trusted: bool) -> Self {
        let (since, factor) = (Instant::now(), if is_trusted { TRUSTED } else { 1 });
        let allowance = max_cancelled.saturating_mul(factor);
        Self {
            since,
            read: AtomicU64::new(0),
            useful: AtomicU64::new(0),
            next: AtomicU64::new(CHECK_INTERVAL),
            allowance,
            credit: Mutex::new((allowance.into(), since)),
            exhausted: Notify::new(),
        }
    }

    /// Returns how many streams the client may cancel at once.
    pub(crate) fn allowance(&self) -> usize {
        self.allowance as usize
    }

    /// Counts bytes read from the connection.
    ///
    /// # Errors
    /// Too many of them belong to no request; the connection must be closed.
    pub(crate) fn read(&self, bytes: usize) -> io::Result<()> {
        let read = self.read.fetch_add(bytes as u64, Relaxed) + bytes as u64;
        if read < self.next.load(Relaxed) {
            return Ok(());
        }
        self.next.store(read + CHECK_INTERVAL, Relaxed);
        let credit = BYTES
            + BYTES_PER_SECOND * self.since.elapsed().as_secs()
            + BYTES_PER_BYTE * self.useful.load(Relaxed);
        match read > credit {
            true => Err(io::Error::other("too many frames outside requests")),
            false => Ok(()),
        }
    }

    /// Counts the head of a request.
    pub(crate) fn began(&self) {
        self.useful(HEAD_BYTES as usize);
    }

    /// Counts bytes of a request or response body.
    pub(crate) fn useful(&self, bytes: usize) {
        self.useful.fetch_add(bytes as u64, Relaxed);
    }

    /// Counts a stream that ended before its response began, by its client or because of an error of its client.
    pub(crate) fn cancelled(&self) {
        self.add(-1.0);
    }

    /// Counts a stream whose response is complete.
    pub(crate) fn answered(&self) {
        self.add(PER_ANSWER);
    }

    fn add(&self, amount: f64) {
        let most = f64::from(self.allowance);
        let mut credit = self.credit.lock();
        let now = Instant::now();
        let gained = now.duration_since(credit.1).as_secs_f64() * PER_SECOND * most;
        *credit = ((credit.0 + gained).min(most) + amount, now);
        if credit.0 < 0.0 {
            self.exhausted.notify_one();
        }
    }

    /// Waits until the credit is exhausted.
    pub(crate) async fn exhausted(&self) {
        self.exhausted.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn frames_of_no_request_are_paid_for_by_requests() {
        let idle = H2Budget::new(100, false);
        let flood = (0..1000).map(|_| idle.read(16 << 10)).take_while(Result::is_ok).count();
        assert!((64..80).contains(&flood), "{flood} times 16 KiB passed");
        let busy = H2Budget::new(100, false);
        for _ in 0..1000 {
            busy.useful(4 << 10);
            assert!(busy.read(16 << 10).is_ok());
        }
    }

    #[test]
    fn streams_are_cancelled_now_and_then_not_all_the_time() {
        let budget = H2Budget::new(100, false);
        (0..90).for_each(|_| budget.cancelled());
        assert!(budget.exhausted().now_or_never().is_none());
        (0..20).for_each(|_| budget.cancelled());
        assert!(budget.exhausted().now_or_never().is_some());
        let proxy = H2Budget::new(100, true);
        (0..10_000).for_each(|_| proxy.cancelled());
        assert!(proxy.exhausted().now_or_never().is_none());
    }

    #[test]
    fn the_share_of_cancelled_streams_counts() {
        let budget = H2Budget::new(10, false);
        for _ in 0..1000 {
            budget.answered();
            (0..4).for_each(|_| budget.cancelled());
        }
        assert!(budget.exhausted().now_or_never().is_none(), "four of five");
        for _ in 0..1000 {
            budget.answered();
            (0..20).for_each(|_| budget.cancelled());
        }
        assert!(budget.exhausted().now_or_never().is_some(), "twenty of twenty-one");
    }
}
