//! Writes a request. Pingora's two halves of a request share the write half of the connection: its body writer queues
//! what it gets and never waits, since it would keep the response from being read, and a backend that waits for room to
//! write would never read on. The downstream session writes the rest of the queue while it waits for the client, and
//! reads nothing more from the client meanwhile.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Write;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{Stream, stream};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use parking_lot::Mutex;
use pingora_core::protocols::http::custom::BodyWrite;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{HeaderNameVariant, RequestHeader};
use tokio::io::AsyncWrite;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::coop::unconstrained;

use crate::protocol::wire::http1::spelling;

/// Messages beside the body, as Pingora's proxy takes them.
pub type Messages = Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync>;

/// Maximum buffers that one system call writes.
const MAX_BUFFERS: usize = 16;

/// First capacity of the buffer for heads and chunk sizes.
const HEAD_CAPACITY: usize = 1 << 10;

thread_local! {
    /// Where heads and chunk sizes are formatted. It is used again once they were written, so that a connection that
    /// waits for its response has no buffer.
    static SCRATCH: RefCell<BytesMut> = RefCell::default();
}

/// The write half of a connection. Outlives requests; [`RequestWriter`] is its use by one of them.
#[derive(Debug)]
pub(super) struct WriteHalf(Mutex<State>);

#[derive(Debug)]
struct State {
    /// `None` once the connection was closed.
    socket: Option<OwnedWriteHalf>,
    /// Number of the request that may write.
    request: u64,
    /// What is not written yet.
    queue: VecDeque<Bytes>,
    /// The client's head as it came, for the spelling of field names.
    spelling: Bytes,
    framing: Framing,
    /// Why no more is written.
    failure: Option<io::ErrorKind>,
    /// A head of the response was read.
    is_answered: bool,
    /// Waits for that.
    waiting: Option<Waker>,
}

/// How the end of the body is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// By its length: this many bytes are missing.
    Length(u64),
    Chunked,
    /// The body has ended.
    Ended,
}

impl WriteHalf {
    pub(super) fn new(socket: OwnedWriteHalf) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            socket: Some(socket),
            request: 0,
            queue: VecDeque::new(),
            spelling: Bytes::new(),
            framing: Framing::Ended,
            failure: None,
            is_answered: false,
            waiting: None,
        })))
    }

    /// Closes this half.
    pub(super) fn close(&self) {
        let mut state = self.0.lock();
        state.queue.clear();
        state.socket = None;
        state.request += 1;
    }

    /// Ends the request that may write, if all of it was written. Returns whether another one can follow.
    pub(super) fn end_request(&self) -> bool {
        let mut state = self.0.lock();
        state.request += 1;
        state.framing == Framing::Ended && state.queue.is_empty() && state.failure.is_none()
    }

    /// Returns why writing failed; `None` if it did not.
    pub(super) fn failure(&self) -> Option<io::ErrorKind> {
        self.0.lock().failure
    }
}

/// What the downstream side knows of a request that is being written.
#[derive(Clone, Debug)]
pub struct RequestWriter {
    half: Arc<WriteHalf>,
    request: u64,
}

/// Whether more of the request's body can be taken from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// All that was taken has been written.
    Free,
    /// The backend does not read.
    Full,
    /// The backend has closed the connection, or reset it.
    Failed,
}

impl RequestWriter {
    /// Returns the use of this half by the current request.
    pub(super) fn of(half: &Arc<WriteHalf>) -> Self {
        Self { half: Arc::clone(half), request: half.0.lock().request }
    }

    /// Writes what is queued, as far as the backend reads it. Wakes the task when there is room again.
    pub fn poll(&self, cx: &mut Context<'_>) -> Room {
        let mut state = self.half.0.lock();
        if state.request != self.request {
            return Room::Failed;
        }
        match state.poll_write(cx) {
            Poll::Pending => Room::Full,
            Poll::Ready(()) if state.failure.is_some() => Room::Failed,
            Poll::Ready(()) => Room::Free,
        }
    }

    /// Returns a stream of the messages beside the body, of which HTTP has none. It ends with the first head of the response,
    /// when the proxy's task runs anyway: Pingora waits for its end, and would run the task once more just for that.
    pub fn no_messages(&self) -> Messages {
        let writer = self.clone();
        Box::new(stream::poll_fn(move |cx| writer.poll_answered(cx).map(|()| None::<Result<Bytes>>)))
    }

    /// Ready when a head of the response was read, or the request has ended. For one task.
    fn poll_answered(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.half.0.lock();
        if state.is_answered || state.request != self.request {
            return Poll::Ready(());
        }
        state.waiting = Some(cx.waker().clone());
        Poll::Pending
    }

    /// A head of the response was read.
    pub(super) fn answered(&self) {
        let mut state = self.half.0.lock();
        state.is_answered = true;
        if let Some(waiting) = state.waiting.take() {
            waiting.wake();
        }
    }

    /// Closes the connection for writing in the middle of the request, whose end must not look like one.
    pub fn abort(&self) {
        let mut state = self.half.0.lock();
        if state.request == self.request {
            state.fail(io::ErrorKind::ConnectionAborted);
        }
    }

    /// Lets the head spell field names as `head` does, the client's head as it came from the wire.
    pub fn spell_as(&self, head: Bytes) {
        let mut state = self.half.0.lock();
        if state.request == self.request {
            state.spelling = head;
        }
    }

    /// Queues the head; writes it at once if there is no body, else with the body's first bytes.
    ///
    /// # Errors
    /// The head cannot be written as HTTP/1.1.
    pub(super) fn write_head(&self, head: &mut RequestHeader, has_body: bool) -> Result<()> {
        let mut state = self.half.0.lock();
        state.framing = framing(head, has_body)?;
        let spelling = std::mem::take(&mut state.spelling);
        let (head, written) = formatted(|out| write_head(head, &spelling, out));
        written?;
        (state.failure, state.is_answered) = (None, false);
        state.queue.push_back(head);
        if !has_body {
            state.try_write();
        }
        Ok(())
    }
}

/// Returns how the body is framed, and says so in the head if it does not say it.
fn framing(head: &mut RequestHeader, has_body: bool) -> Result<Framing> {
    if !has_body {
        return Ok(Framing::Ended);
    }
    if head.headers.contains_key(TRANSFER_ENCODING) {
        return Ok(Framing::Chunked);
    }
    let Some(length) = head.headers.get(CONTENT_LENGTH) else {
        head.insert_header(TRANSFER_ENCODING, "chunked")?;
        return Ok(Framing::Chunked);
    };
    // `framing` has checked it when it came from the client.
    let length = length.to_str().ok().and_then(|length| length.parse().ok());
    length
        .map(Framing::Length)
        .ok_or_else(|| Error::explain(ErrorType::InvalidHTTPHeader, "the request's length"))
}

/// Returns what `format` writes to an empty buffer, and its result.
fn formatted<T>(format: impl FnOnce(&mut BytesMut) -> T) -> (Bytes, T) {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.reserve(HEAD_CAPACITY);
        let result = format(scratch);
        (scratch.split().freeze(), result)
    })
}

/// Writes a request line and the fields (RFC 9112, 3 and 5), with names as in `spelling`.
fn write_head(head: &RequestHeader, spelling: &[u8], out: &mut BytesMut) -> Result<()> {
    let target = head.raw_path();
    if target.is_empty() || target.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n' | b' ')) {
        return Error::e_explain(ErrorType::InvalidHTTPHeader, "the request target has a forbidden byte");
    }
    out.put_slice(head.method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(target);
    out.put_slice(b" HTTP/1.1\r\n");
    head.map(|name, value| {
        let name = match name {
            HeaderNameVariant::Case(name) => name.as_slice(),
            HeaderNameVariant::Titled(name) => name.as_bytes(),
        };
        write_field(name, value.as_bytes(), spelling, out);
        Ok(())
    })?;
    out.put_slice(b"\r\n");
    Ok(())
}

/// Writes a field; most come from the client and are copied as whole lines.
fn write_field(name: &[u8], value: &[u8], spelling: &[u8], out: &mut BytesMut) {
    let line = spelling::line(spelling, name, value);
    match line {
        Some(line) if line.len() == name.len() + 2 + value.len() && line[name.len() + 1] == b' ' => {
            out.put_slice(line);
        }
        _ => {
            out.put_slice(line.map_or(name, |line| &line[..name.len()]));
            out.put_slice(b": ");
            out.put_slice(value);
        }
    }
    out.put_slice(b"\r\n");
}

impl State {
    /// Queues a part of the body. What exceeds its length is discarded.
    fn push(&mut self, mut data: Bytes) {
        if data.is_empty() || self.failure.is_some() {
            return;
        }
        match &mut self.framing {
            Framing::Ended => {}
            Framing::Length(left) => {
                data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= data.len() as u64;
                self.queue.push_back(data);
            }
            Framing::Chunked => {
                // Writing to a buffer that grows does not fail.
                let (size, _) = formatted(|out| write!(out, "{:x}\r\n", data.len()));
                self.queue.push_back(size);
                self.queue.push_back(data);
                self.queue.push_back(Bytes::from_static(b"\r\n"));
            }
        }
    }

    /// Queues the end of the body.
    fn end(&mut self) {
        match self.framing {
            Framing::Chunked if self.failure.is_some() => {}
            Framing::Chunked => self.queue.push_back(Bytes::from_static(b"0\r\n\r\n")),
            // The backend waits for the rest, which will not come.
            Framing::Length(1..) => self.fail(io::ErrorKind::UnexpectedEof),
            Framing::Length(0) | Framing::Ended => {}
        }
        self.framing = Framing::Ended;
    }

    /// Writes nothing more: the backend sees an incomplete request.
    fn fail(&mut self, why: io::ErrorKind) {
        self.failure.get_or_insert(why);
        self.queue.clear();
        self.socket = None;
    }

    /// Writes as much as possible without waiting.
    fn try_write(&mut self) {
        // `poll` registers the waker of the task that waits for room.
        let _ = self.poll_write(&mut Context::from_waker(Waker::noop()));
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.queue.is_empty() {
            let Some(socket) = &mut self.socket else {
                self.fail(io::ErrorKind::NotConnected);
                break;
            };
            let mut slices = [IoSlice::new(&[]); MAX_BUFFERS];
            let count = slices.len().min(self.queue.len());
            for (slice, bytes) in slices.iter_mut().zip(&self.queue) {
                *slice = IoSlice::new(bytes);
            }
            let write = poll_fn(|cx| Pin::new(&mut *socket).poll_write_vectored(cx, &slices[..count]));
            // A task without budget (`backpressure`) is no backend that does not read.
            match ready!(pin!(unconstrained(write)).poll(cx)) {
                Ok(0) => self.fail(io::ErrorKind::WriteZero),
                Ok(written) => self.written(written),
                Err(error) => self.fail(error.kind()),
            }
        }
        Poll::Ready(())
    }

    fn written(&mut self, mut written: usize) {
        while let Some(first) = self.queue.front_mut() {
            let length = first.len().min(written);
            first.advance(length);
            written -= length;
            if !first.is_empty() {
                return;
            }
            self.queue.pop_front();
        }
    }
}

/// The body writer that Pingora uses.
pub(super) struct QueueingBodyWriter(pub(super) RequestWriter);

impl QueueingBodyWriter {
    fn with(&self, queue: impl FnOnce(&mut State)) {
        let mut state = self.0.half.0.lock();
        if state.request == self.0.request {
            queue(&mut state);
            state.try_write();
        }
    }
}

#[async_trait]
impl BodyWrite for QueueingBodyWriter {
    async fn write_all_buf(&mut self, data: &mut Bytes) -> Result<()> {
        self.with(|state| state.push(std::mem::take(data)));
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        self.with(State::end);
        Ok(())
    }

    async fn cleanup(&mut self) -> Result<()> {
        Ok(())
    }

    fn upgrade_body_writer(&mut self) {}
}
