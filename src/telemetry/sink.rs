//! Where lines wait for the one thread that writes them.
//!
//! A thread that is woken for each line costs a futex, a context switch and a `write` each time (under full
//! load still half a `write` per request, counted with perf), so the writer lets lines gather for [`GATHER`]
//! and writes them together. Whoever has a line only appends it under a short lock.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

/// How long the first line of a batch waits for others; nobody who reads a log notices.
const GATHER: Duration = Duration::from_millis(10);

/// A pipe takes so many bytes whole or not at all (`PIPE_BUF`, POSIX `write`). During an upgrade two
/// processes write to one pipe, and their lines must not be mixed.
const WHOLE: usize = 4096;

/// How long the end of the program waits for a reader that does not read.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// More memory than this is given back after a burst, in bytes.
const KEPT: usize = 1 << 20;

/// The queue of one log; a clone is the same queue.
#[derive(Clone)]
pub(super) struct Sink(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// The writer waits here for lines, and for the end.
    filled: Condvar,
    /// The guard waits here for the writer.
    written: Condvar,
    dropped: AtomicU64,
    max_lines: usize,
}

#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    /// Lines in `bytes`, and those the writer has taken but not yet written.
    lines: usize,
    /// The writer waits for a first line.
    asleep: bool,
    /// Nothing is taken any more.
    closed: bool,
    /// The writer has written the last line.
    done: bool,
}

/// Closes the queue when it is dropped, and waits a moment until everything in it is written.
pub(super) struct SinkGuard(Sink);

impl Sink {
    /// A queue of at most `max_lines`, written to `writer` by a thread of its own. Without a thread (the
    /// machine has none left) every line is counted as dropped.
    pub(super) fn new(writer: impl Write + Send + 'static, max_lines: usize) -> (Self, SinkGuard) {
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

    /// Takes a line with its newline, or counts it as dropped.
    pub(super) fn push(&self, line: &[u8]) {
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

    /// Lines that were dropped so far.
    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock()
    }

    /// The writer's life.
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
            // A reader that is gone is borne in silence.
            let _ =
                pieces(&batch).try_for_each(|lines| writer.write_all(lines)).and_then(|()| writer.flush());
            batch.clear();
            batch.shrink_to(KEPT);
        }
    }

    /// Lets more lines come, unless the end has come.
    fn gather(&self, queue: &mut MutexGuard<'_, Queue>) {
        self.0.filled.wait_while_for(queue, |queue| !queue.closed, GATHER);
    }
}

/// Whole lines, as many at a time as a pipe takes at once; a longer line by itself.
fn pieces(mut batch: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let room = &batch[..batch.len().min(WHOLE)];
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
        // What a stuck reader leaves unwritten after this time is lost with the process.
        self.0.0.written.wait_while_for(&mut queue, |queue| !queue.done, LAST_WORDS);
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
        let long: Vec<usize> = found.iter().map(|piece| piece.len()).filter(|len| *len > WHOLE).collect();
        assert_eq!(long, [5000], "only a line that is longer by itself");
        assert_eq!(pieces(b"no end").collect::<Vec<_>>(), [b"no end"]);
    }
}
