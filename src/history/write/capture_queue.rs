//! Captured bodies on their way to the file: a queue bounded in bytes, and a thread that redacts and encodes each
//! capture. Records never wait for captures; what exceeds the budget is dropped and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};

use rusqlite::{Transaction, params};

use super::rows::Entry;
use super::writer::Message;
use crate::capture::Capture;
use crate::capture::document::to_json;
use crate::ids::{SessionId, Uid};
use crate::telemetry::metrics::HistoryMetrics;

/// The largest number of captures that wait to be written, and the largest number of bytes.
pub(in crate::history) const QUEUE: usize = 512;
const BYTES: usize = 16 << 20;

/// The memory budget of captures that wait to be written.
#[derive(Debug, Default)]
pub(in crate::history) struct Budget {
    bytes: AtomicUsize,
}

impl Budget {
    /// Reserves `bytes`, or returns `None` if the budget does not allow it. A small capture counts as one slot's share,
    /// so that the number of captures is bounded, too.
    pub(in crate::history) fn take(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        let bytes = bytes.max(BYTES / QUEUE);
        let next = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= BYTES);
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok()?;
        Some(Reservation { waiting: Arc::clone(self), bytes })
    }
}

/// The share of the budget that one capture holds until this is dropped.
#[derive(Debug)]
pub(in crate::history) struct Reservation {
    waiting: Arc<Budget>,
    bytes: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.waiting.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Work for the capture thread.
pub(in crate::history) enum Job {
    /// Turn this capture into a row and pass it to the writer.
    Keep(Box<Capture>, Reservation),
    /// Stop once everything before it is done.
    End,
}

/// A capture in its stored form.
#[derive(Debug)]
pub(in crate::history) struct CaptureRow {
    uid: Uid,
    session_id: SessionId,
    at_ms: i64,
    body: String,
    _room: Reservation,
}

impl CaptureRow {
    /// Its approximate size in the file, in bytes.
    pub(in crate::history) fn weight(&self) -> usize {
        self.body.len()
    }

    /// Inserts the row.
    pub(in crate::history) fn write(&self, rows: &Transaction<'_>) -> rusqlite::Result<()> {
        let insert = "INSERT INTO captures (uid, session_id, at_ms, body) VALUES (?1, ?2, ?3, ?4)";
        let values = params![self.uid.to_string(), self.session_id.as_str(), self.at_ms, self.body];
        rows.prepare_cached(insert)?.execute(values)?;
        Ok(())
    }
}

/// Turns captures into rows and passes them to the writer. Runs on a thread of its own until [`Job::End`].
pub(in crate::history) fn run(
    orders: &Receiver<Job>,
    writer: &SyncSender<Message>,
    metrics: &HistoryMetrics,
) {
    while let Ok(Job::Keep(capture, room)) = orders.recv() {
        let row = CaptureRow {
            uid: capture.uid,
            session_id: capture.session_id.clone(),
            at_ms: capture.at.as_millisecond(),
            body: to_json(&capture),
            _room: room,
        };
        // The raw bytes may be as large as the row.
        drop(capture);
        if writer.try_send(Message::Entry(Entry::Captured(Box::new(row)))).is_err() {
            metrics.captures_dropped(1);
        }
    }
}
