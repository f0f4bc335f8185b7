//! What an HTTP/2 client may cost that asks for nothing.
//!
//! HTTP/2 has many frames that cost the peer work and the sender next to nothing: PING, SETTINGS, WINDOW_UPDATE, empty
//! DATA (CVE-2019-9511 to 9518), and streams that are opened and given up at once (CVE-2023-44487), or made to be
//! given up by us (CVE-2025-8671). The `h2` crate bounds the memory that they take. This bounds the work: bytes that
//! belong to no request are paid for by requests and by time, streams that were given up by time. A connection whose
//! credit is used up is closed.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

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

/// Streams that a client may give up at once ...
const GIVEN_UP: f64 = 100.0;
/// ... and again for each second.
const GIVEN_UP_PER_SECOND: f64 = 10.0;

/// The account of one HTTP/2 connection.
pub(super) struct Toll {
    since: Instant,
    /// Bytes that came over the connection.
    read: AtomicU64,
    /// Bytes of requests and answers.
    useful: AtomicU64,
    /// When the account is looked at again, in bytes read.
    next: AtomicU64,
    /// How many more streams may be given up, and when that was reckoned.
    patience: Mutex<(f64, Instant)>,
    exhausted: Notify,
}

impl Default for Toll {
    fn default() -> Self {
        let since = Instant::now();
        Self {
            since,
            read: AtomicU64::new(0),
            useful: AtomicU64::new(0),
            next: AtomicU64::new(STEP),
            patience: Mutex::new((GIVEN_UP, since)),
            exhausted: Notify::new(),
        }
    }
}

impl Toll {
    /// Bytes came over the connection.
    ///
    /// # Errors
    /// Too many of them belong to nothing: the connection must be closed.
    pub(super) fn read(&self, bytes: usize) -> io::Result<()> {
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
    pub(super) fn began(&self) {
        self.useful(HEAD as usize);
    }

    /// Bytes of a request or an answer have moved.
    pub(super) fn useful(&self, bytes: usize) {
        self.useful.fetch_add(bytes as u64, Relaxed);
    }

    /// A stream was given up, by its client or for a fault of its client.
    pub(super) fn given_up(&self) {
        let mut patience = self.patience.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let gained = now.duration_since(patience.1).as_secs_f64() * GIVEN_UP_PER_SECOND;
        *patience = ((patience.0 + gained).min(GIVEN_UP) - 1.0, now);
        if patience.0 < 0.0 {
            self.exhausted.notify_one();
        }
    }

    /// Waits until too many streams were given up.
    pub(super) async fn exhausted(&self) {
        self.exhausted.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn frames_of_no_request_are_paid_for_by_requests() {
        let idle = Toll::default();
        let flood = (0..1000).map(|_| idle.read(16 << 10)).take_while(Result::is_ok).count();
        assert!((64..80).contains(&flood), "{flood} times 16 KiB passed");
        let busy = Toll::default();
        for _ in 0..1000 {
            busy.useful(4 << 10);
            assert!(busy.read(16 << 10).is_ok());
        }
    }

    #[test]
    fn streams_are_given_up_now_and_then_not_all_the_time() {
        let toll = Toll::default();
        for _ in 0..100 {
            toll.given_up();
        }
        assert!(toll.exhausted().now_or_never().is_none());
        (0..3).for_each(|_| toll.given_up());
        assert!(toll.exhausted().now_or_never().is_some());
    }
}
