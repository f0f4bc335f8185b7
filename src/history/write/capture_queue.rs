//! Bodies on their way to the file: a queue of their own, bounded in bytes, and a thread that makes of each what is
//! stored. Records never wait for that, and what finds no room is dropped and counted.

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

/// Captures that wait at most, until they are written: so many, and so many bytes.
pub(in crate::history) const QUEUE: usize = 512;
const BYTES: usize = 16 << 20;

/// The room for captures that wait.
#[derive(Debug, Default)]
pub(in crate::history) struct Budget {
    bytes: AtomicUsize,
}

impl Budget {
    /// Takes so many bytes of the room, if there are as many; a small capture takes as much as its place is worth.
    pub(in crate::history) fn take(self: &Arc<Self>, bytes: usize) -> Option<Reservation> {
        let bytes = bytes.max(BYTES / QUEUE);
        let next = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= BYTES);
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok()?;
        Some(Reservation { waiting: Arc::clone(self), bytes })
    }
}

/// What one capture takes of the room; given back when this goes.
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

/// What the thread is told.
pub(in crate::history) enum Job {
    /// Make a row of this.
    Keep(Box<Capture>, Reservation),
    /// All that came before is done: end.
    End,
}

/// A capture as it is stored.
#[derive(Debug)]
pub(in crate::history) struct CaptureRow {
    uid: Uid,
    session_id: SessionId,
    at_ms: i64,
    body: String,
    _room: Reservation,
}

impl CaptureRow {
    /// Its size in the file, in bytes, roughly.
    pub(in crate::history) fn weight(&self) -> usize {
        self.body.len()
    }

    /// Writes it.
    pub(in crate::history) fn write(&self, rows: &Transaction<'_>) -> rusqlite::Result<()> {
        let insert = "INSERT INTO captures (uid, session_id, at_ms, body) VALUES (?1, ?2, ?3, ?4)";
        let values = params![self.uid.to_string(), self.session_id.as_str(), self.at_ms, self.body];
        rows.prepare_cached(insert)?.execute(values)?;
        Ok(())
    }
}

/// Makes rows of captures, one after another, and hands them to the writer; runs on a thread of its own.
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
        // The bytes as they passed are not needed any more, and may be as many again.
        drop(capture);
        if writer.try_send(Message::Entry(Entry::Captured(Box::new(row)))).is_err() {
            metrics.captures_dropped(1);
        }
    }
}
