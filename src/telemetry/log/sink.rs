//! The queue between producers of lines and the one thread that writes them.
//!
//! Waking a thread for each line would cost a futex call, a context switch and a `write` (under full load still half a
//! `write` per request, measured with perf). So the writer lets lines accumulate for [`GATHER`] and writes them together.
//! Producers only append under a short lock.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

/// How long the first line of a batch waits for others; short enough that a reader does not notice.
const GATHER: Duration = Duration::from_millis(10);

/// Writes to a pipe are atomic up to this many bytes (`PIPE_BUF`, POSIX `write`). During an upgrade two processes write to
/// one pipe, and their lines must not be interleaved.
const PIPE_BUF: usize = 4096;

/// How long shutdown waits for a reader that does not read.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// The capacity in bytes that a buffer keeps after a burst.
const KEPT_CAPACITY: usize = 1 << 20;

/// The queue of a log. Clones share it.
#[derive(Clone)]
pub(in crate::telemetry) struct Sink(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// Signals lines, or the end, to the writer.
    filled: Condvar,
    /// Signals the end of the writer to the guard.
    written: Condvar,
    dropped: AtomicU64,
    max_lines: usize,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// The number of lines in `bytes`, plus those that the writer has taken but not yet written.
    lines: usize,
    /// The writer is waiting for the first line of a batch.
    asleep: bool,
    /// No more lines are accepted.
    closed: bool,
    /// The writer has written the last line.
    done: bool,
}

/// Closes the queue when dropped, and waits up to [`SHUTDOWN_TIMEOUT`] until everything is written.
pub(in crate::telemetry) struct SinkGuard(Sink);

impl Sink {
    /// Creates a queue of at most `max_lines`, written to `writer` by a thread of its own. If no thread can be started,
    /// every line is counted as dropped.
    pub(in crate::telemetry) fn new(
        writer: impl Write + Send + 'static,
        max_lines: usize,
    ) -> (Self, SinkGuard) {
        let sink = Self(Arc::new(Shared {
            queue: Mutex::default(),
            filled: Condvar::new(),
            written: Condvar::new(),
            dropped: AtomicU64::new(0),
            max_lines,
        }));
        let writing = sink.clone();
        let thread = std::thread::Builder::new().name("elida-log".to_owned());
        if thread.spawn(move || writing.write_to(writer)).is_err() {
            let mut queue = sink.queue();
            (queue.closed, queue.done) = (true, true);
        }
        (sink.clone(), SinkGuard(sink))
    }

    /// Queues a line, which includes its newline, or counts it as dropped.
    pub(in crate::telemetry) fn push(&self, line: &[u8]) {
        let mut queue = self.queue();
        if queue.closed || queue.lines >= self.0.max_lines {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.bytes.extend_from_slice(line);
        queue.lines += 1;
        if std::mem::take(&mut queue.asleep) {
            drop(queue);
            self.0.filled.notify_one();
        }
    }

    /// The number of lines dropped so far.
    pub(in crate::telemetry) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock()
    }

    /// The loop of the writer thread.
    fn write_to(&self, mut writer: impl Write) {
        let mut batch = Vec::new();
        let mut taken = 0;
        loop {
            {
                let mut queue = self.queue();
                queue.lines -= taken;
                while queue.bytes.is_empty() && !queue.closed {
                    queue.asleep = true;
                    self.0.filled.wait(&mut queue);
                }
                self.gather(&mut queue);
                if queue.bytes.is_empty() {
                    queue.done = true;
                    self.0.written.notify_all();
                    return;
                }
                std::mem::swap(&mut queue.bytes, &mut batch);
                taken = queue.lines;
            }
            // Ignore a closed pipe.
            let _ =
                pieces(&batch).try_for_each(|lines| writer.write_all(lines)).and_then(|()| writer.flush());
            batch.clear();
            batch.shrink_to(KEPT_CAPACITY);
        }
    }

    /// Lets lines accumulate, unless the queue is closed.
    fn gather(&self, queue: &mut MutexGuard<'_, Queue>) {
        self.0.filled.wait_while_for(queue, |queue| !queue.closed, GATHER);
    }
}

/// Splits a batch into pieces of whole lines of at most [`PIPE_BUF`] bytes; a longer line is a piece of its own.
fn pieces(mut batch: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let room = &batch[..batch.len().min(PIPE_BUF)];
        let end = memchr::memrchr(b'\n', room).or_else(|| memchr::memchr(b'\n', batch));
        let (lines, rest) = batch.split_at(end.map_or(batch.len(), |end| end + 1));
        batch = rest;
        (!lines.is_empty()).then_some(lines)
    })
}

impl Drop for SinkGuard {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.closed = true;
        self.0.0.filled.notify_all();
        // What a stuck reader leaves unwritten after this time is lost.
        self.0.0.written.wait_while_for(&mut queue, |queue| !queue.done, SHUTDOWN_TIMEOUT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// A writer that tells each piece it is given and waits for leave.
    struct Slow(Sender<Vec<u8>>, Receiver<()>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.send(bytes.to_vec());
            let _ = self.1.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_keep_their_order_and_every_line_is_written_or_counted() {
        let ((told, pieces), (leave, wait)) = (channel(), channel());
        let (sink, guard) = Sink::new(Slow(told, wait), 10);
        sink.push(b"0\n");
        // The writer has it, and its place is not free before it is written.
        assert_eq!(pieces.recv().unwrap(), b"0\n");
        for line in 1..=12 {
            sink.push(format!("{line}\n").as_bytes());
        }
        assert_eq!(sink.dropped(), 3);
        drop(leave);
        drop(guard);
        let rest: Vec<u8> = pieces.try_iter().flatten().collect();
        assert_eq!(rest, b"1\n2\n3\n4\n5\n6\n7\n8\n9\n");
        sink.push(b"too late\n");
        assert_eq!(sink.dropped(), 4);
    }

    #[test]
    fn lines_that_come_together_are_written_together() {
        let ((told, pieces), (leave, wait)) = (channel(), channel());
        let (sink, guard) = Sink::new(Slow(told, wait), 1000);
        sink.push(b"first\n");
        pieces.recv().unwrap();
        for _ in 0..100 {
            sink.push(b"more\n");
        }
        leave.send(()).unwrap();
        assert_eq!(pieces.recv().unwrap(), b"more\n".repeat(100));
        drop(leave);
        drop(guard);
    }

    #[test]
    fn pieces_are_whole_lines_that_a_pipe_takes_at_once() {
        let line = |length: usize| "x".repeat(length - 1) + "\n";
        let text: String = [1, 4095, 4096, 1, 5000, 10, 4080, 7, 1].map(line).concat();
        let found: Vec<&[u8]> = pieces(text.as_bytes()).collect();
        assert_eq!(found.concat(), text.as_bytes());
        assert!(found.iter().all(|piece| piece.ends_with(b"\n")));
        let long: Vec<usize> = found.iter().map(|piece| piece.len()).filter(|len| *len > PIPE_BUF).collect();
        assert_eq!(long, [5000], "only a line that is longer by itself");
        assert_eq!(pieces(b"no end").collect::<Vec<_>>(), [b"no end"]);
    }
}
