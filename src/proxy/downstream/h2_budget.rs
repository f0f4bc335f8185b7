//! What an HTTP/2 client may cost that asks for nothing.
//!
//! HTTP/2 has many frames that cost the peer work and the sender next to nothing: PING, SETTINGS, WINDOW_UPDATE, empty
//! DATA (CVE-2019-9511 to 9518), and streams that are opened and given up at once (CVE-2023-44487), or made to be
//! given up by us (CVE-2025-8671). The `h2` crate bounds the memory that they take. This bounds the work: bytes that
//! belong to no request are paid for by requests and by time, and a connection that is not paid for is closed.
//!
//! Streams that a client cancels before they are answered are judged by their share among all: each answered stream
//! gives credit for some, and so does time. A client that goes beyond takes GOAWAY, and its open streams go on; one
//! that goes beyond again is closed. A client that hedges its requests, or a proxy with many clients behind it, cancels
//! many and has many answered; an attack has next to none.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Bytes of no request that a connection may bring at first.
const BYTES: u64 = 1 << 20;
/// ... and again for each second: more than any client's keep-alive.
const BYTES_PER_SECOND: u64 = 4 << 10;
/// ... and for each byte of a request or an answer. A window update in each DATA frame of two bytes is borne.
const BYTES_PER_BYTE: u64 = 8;
/// The head of a request counts as so many bytes of it.
const HEAD: u64 = 512;
/// How often the account is looked at, in bytes read.
const STEP: u64 = 64 << 10;

/// Cancelled streams that one answered stream pays for: up to four of five may be cancelled all the time.
const PER_ANSWER: f64 = 4.0;

/// This share of `server.limits.max_cancelled_streams` comes back each second.
const PER_SECOND: f64 = 0.1;

/// A proxy in `server.trusted_proxies` may cancel so many times as many: it speaks for all of its clients.
const TRUSTED: u32 = 100;

/// The account of one HTTP/2 connection.
pub(crate) struct H2Budget {
    since: Instant,
    /// Bytes that came over the connection.
    read: AtomicU64,
    /// Bytes of requests and answers.
    useful: AtomicU64,
    /// When the account is looked at again, in bytes read.
    next: AtomicU64,
    /// Streams that may be cancelled at once.
    allowance: u32,
    /// How many more may be cancelled, and when that was computed.
    credit: Mutex<(f64, Instant)>,
    exhausted: Notify,
}

impl H2Budget {
    /// The account of a connection whose client may cancel `max_cancelled` streams at once.
    pub(crate) fn new(max_cancelled: u32, is_trusted: bool) -> Self {
        let (since, factor) = (Instant::now(), if is_trusted { TRUSTED } else { 1 });
        let allowance = max_cancelled.saturating_mul(factor);
        Self {
            since,
            read: AtomicU64::new(0),
            useful: AtomicU64::new(0),
            next: AtomicU64::new(STEP),
            allowance,
            credit: Mutex::new((allowance.into(), since)),
            exhausted: Notify::new(),
        }
    }

    /// Streams that the client may cancel at once.
    pub(crate) fn allowance(&self) -> usize {
        self.allowance as usize
    }

    /// Bytes came over the connection.
    ///
    /// # Errors
    /// Too many of them belong to nothing: the connection must be closed.
    pub(crate) fn read(&self, bytes: usize) -> io::Result<()> {
        let read = self.read.fetch_add(bytes as u64, Relaxed) + bytes as u64;
        if read < self.next.load(Relaxed) {
            return Ok(());
        }
        self.next.store(read + STEP, Relaxed);
        let credit = BYTES
            + BYTES_PER_SECOND * self.since.elapsed().as_secs()
            + BYTES_PER_BYTE * self.useful.load(Relaxed);
        match read > credit {
            true => Err(io::Error::other("frames of no request without end")),
            false => Ok(()),
        }
    }

    /// A request has begun.
    pub(crate) fn began(&self) {
        self.useful(HEAD as usize);
    }

    /// Bytes of a request or an answer have moved.
    pub(crate) fn useful(&self, bytes: usize) {
        self.useful.fetch_add(bytes as u64, Relaxed);
    }

    /// A stream ended before its answer began, by its client or for a fault of its client.
    pub(crate) fn cancelled(&self) {
        self.add(-1.0);
    }

    /// A stream has its whole answer.
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
            // From here the second judgement counts.
            credit.0 = most;
            self.exhausted.notify_one();
        }
    }

    /// Waits until too many streams were cancelled; the next call waits until it happens again.
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
        for _ in 0..2 {
            (0..90).for_each(|_| budget.cancelled());
            assert!(budget.exhausted().now_or_never().is_none());
            (0..20).for_each(|_| budget.cancelled());
            assert!(budget.exhausted().now_or_never().is_some());
        }
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
