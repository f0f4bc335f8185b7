//! HTTP/2 on both sides: a client with many streams, a client that writes raw frames, and a backend.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{self, ResponseFuture, SendRequest};
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::{Backend, Call, within};

/// How the answer on a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With END_STREAM.
    Whole,
    /// With RST_STREAM.
    Reset(Reason),
    /// With the connection.
    Broken,
}

impl End {
    fn of(error: &h2::Error) -> Self {
        error.reason().filter(|_| error.is_reset()).map_or(Self::Broken, Self::Reset)
    }
}

/// An answer read to its end.
#[derive(Debug)]
pub struct Answer {
    /// 0 when there was no response head.
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    pub end: End,
    pub ended: Instant,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        super::json(&self.body)
    }
}

/// A client's connection.
pub struct Client {
    send: SendRequest<Bytes>,
    driving: JoinHandle<Result<(), h2::Error>>,
    host: String,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::with(address, &client::Builder::new()).await
    }

    /// Connects with these settings.
    pub async fn with(address: SocketAddr, settings: &client::Builder) -> Self {
        let tcp = TcpStream::connect(address).await.expect("a connection");
        tcp.set_nodelay(true).expect("an option");
        Self::over(tcp, &address.to_string(), settings).await
    }

    /// Uses an open connection.
    pub async fn over<S>(stream: S, host: &str, settings: &client::Builder) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (send, connection) =
            within("the HTTP/2 handshake", settings.handshake(stream)).await.expect("HTTP/2");
        Self { send, driving: tokio::spawn(connection), host: host.to_owned() }
    }

    /// Sends a call with its whole body.
    pub async fn send(&mut self, call: &Call) -> PendingAnswer {
        let (request, body) = call.request(&self.host);
        let (answer, mut upload) = self.begin(request, body.is_empty()).await;
        if !body.is_empty() {
            // The window opens as the gateway reads; this function does not wait for that.
            tokio::spawn(async move {
                let _ = write(&mut upload, body.into(), true).await;
            });
            return PendingAnswer { answer, upload: None };
        }
        PendingAnswer { answer, upload: Some(upload) }
    }

    /// Sends a head; the caller sends the body.
    pub async fn begin(&mut self, request: Request<()>, end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let ready = self.send.clone().ready();
        let mut send = within("room for a stream", ready).await.expect("an open connection");
        let begun = send.send_request(request, end).expect("a stream");
        self.send = send;
        begun
    }

    /// Sends a call without a body; `None` when the gateway accepts no more streams.
    pub async fn try_send(&mut self, call: &Call) -> Option<PendingAnswer> {
        let ready = self.send.clone().ready();
        let mut send = within("room for a stream", ready).await.ok()?;
        let (request, _) = call.request(&self.host);
        let (answer, upload) = send.send_request(request, true).ok()?;
        self.send = send;
        Some(PendingAnswer { answer, upload: Some(upload) })
    }

    /// Sends it and reads the answer to its end.
    pub async fn ask(&mut self, call: &Call) -> Answer {
        self.send(call).await.answer().await
    }

    /// Whether another stream may be opened.
    pub async fn is_open(&self) -> bool {
        within("an answer about the connection", self.send.clone().ready()).await.is_ok()
    }

    /// The number of concurrent streams that the gateway allows.
    pub fn allowed(&self) -> usize {
        self.send.current_max_send_streams()
    }

    /// Waits for the gateway to end the connection.
    pub async fn ended(self) -> Result<(), h2::Error> {
        // Keeps the handle: without it the client itself would end the connection.
        let ended = within("the end of the connection", self.driving).await;
        drop(self.send);
        ended.expect("a task")
    }

    /// Drops the connection without GOAWAY.
    pub fn abort_connection(self) {
        self.driving.abort();
    }
}

/// A request without an answer yet.
pub struct PendingAnswer {
    answer: ResponseFuture,
    /// Kept open, because dropping it resets the stream.
    upload: Option<SendStream<Bytes>>,
}

impl PendingAnswer {
    /// Reads the answer to its end.
    pub async fn answer(self) -> Answer {
        match self.head().await {
            Ok(begun) => begun.rest().await,
            Err(error) => Answer {
                status: 0,
                headers: HeaderMap::new(),
                body: Vec::new(),
                trailers: None,
                end: End::of(&error),
                ended: Instant::now(),
            },
        }
    }

    /// Reads the head of the answer.
    pub async fn head(self) -> Result<AnswerHead, h2::Error> {
        let (head, body) = within("the head of an answer", self.answer).await?.into_parts();
        Ok(AnswerHead {
            status: head.status,
            headers: head.headers,
            body,
            read: Vec::new(),
            _upload: self.upload,
        })
    }

    /// Resets the stream with CANCEL.
    pub fn reset(mut self) {
        if let Some(upload) = &mut self.upload {
            upload.send_reset(Reason::CANCEL);
        }
    }
}

/// An answer whose head has arrived.
pub struct AnswerHead {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: RecvStream,
    read: Vec<u8>,
    _upload: Option<SendStream<Bytes>>,
}

impl AnswerHead {
    async fn piece(&mut self) -> Option<Result<Bytes, h2::Error>> {
        let piece = within("a piece of the body", self.body.data()).await;
        if let Some(Ok(piece)) = &piece {
            let _ = self.body.flow_control().release_capacity(piece.len());
            self.read.extend_from_slice(piece);
        }
        piece
    }

    /// Reads the first piece of the body.
    pub async fn first_piece(&mut self) {
        assert!(matches!(self.piece().await, Some(Ok(_))), "no piece of the body");
    }

    /// Reads until the body contains `text`.
    pub async fn until(&mut self, text: &str) {
        while memchr::memmem::find(&self.read, text.as_bytes()).is_none() {
            match self.piece().await {
                Some(Ok(_)) => {}
                other => panic!("no {text:?}: {other:?} after {}", String::from_utf8_lossy(&self.read)),
            }
        }
    }

    /// Reads to the end.
    pub async fn rest(mut self) -> Answer {
        let (mut end, mut trailers) = (End::Whole, None);
        loop {
            match self.piece().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    end = End::of(&error);
                    break;
                }
                None => {
                    match within("trailers", self.body.trailers()).await {
                        Ok(found) => trailers = found,
                        Err(error) => end = End::of(&error),
                    }
                    break;
                }
            }
        }
        let (status, headers) = (self.status.as_u16(), self.headers);
        Answer { status, headers, body: self.read, trailers, end, ended: Instant::now() }
    }
}

/// Writes all bytes as the window opens.
pub async fn write(to: &mut SendStream<Bytes>, mut bytes: Bytes, end: bool) -> Result<(), h2::Error> {
    if bytes.is_empty() {
        return to.send_data(bytes, end);
    }
    while !bytes.is_empty() {
        to.reserve_capacity(bytes.len());
        match std::future::poll_fn(|cx| to.poll_capacity(cx)).await {
            Some(room) => {
                let piece = bytes.split_to(room?.min(bytes.len()));
                to.send_data(piece, bytes.is_empty() && end)?;
            }
            None => return Err(Reason::CANCEL.into()),
        }
    }
    Ok(())
}

/// The preface and an empty SETTINGS frame.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A frame (RFC 9113, 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block of literal fields (RFC 7541, 6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            // Lengths of 127 and more have a second byte, and in these tests never a third.
            match text.len() {
                length @ 0..127 => bytes.push(u8::try_from(length).expect("short")),
                length => {
                    let rest = length - 127;
                    assert!(rest < 1 << 14, "too long for a test");
                    bytes.extend([127, u8::try_from(rest % 128).expect("seven bits") | 0x80]);
                    bytes.push(u8::try_from(rest / 128).expect("seven bits"));
                }
            }
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

/// The pseudo-header fields of a GET.
pub const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/a"), (":authority", "gateway")];

/// A client that writes raw frames.
pub struct RawFrames {
    stream: TcpStream,
    seen: Vec<u8>,
}

impl RawFrames {
    /// Connects and sends the preface.
    pub async fn connect(address: SocketAddr) -> Self {
        let mut raw =
            Self { stream: TcpStream::connect(address).await.expect("a connection"), seen: Vec::new() };
        raw.send(PREFACE).await.expect("the opening");
        raw
    }

    /// Uses an open connection, on which it first sends these bytes.
    pub async fn continue_on(stream: TcpStream, rest: &[u8]) -> Self {
        let mut raw = Self { stream, seen: Vec::new() };
        raw.send(rest).await.expect("the rest of the opening");
        raw
    }

    pub async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        within("room to send", self.stream.write_all(bytes)).await
    }

    /// Sends this repeatedly, up to `most` bytes, and reads what comes; returns how many bytes were sent until the
    /// gateway closed the connection.
    pub async fn flood(mut self, bytes: &[u8], most: usize) -> Flooded {
        let mut sent = 0;
        let (mut from, mut to) = self.stream.split();
        let reading = async {
            let mut seen = std::mem::take(&mut self.seen);
            while matches!(from.read_buf(&mut seen).await, Ok(1..)) {}
            seen
        };
        let sending = async {
            while sent < most && to.write_all(bytes).await.is_ok() {
                sent += bytes.len();
            }
            // Bytes sent after the end are lost; the loop below waits for the end itself.
            std::future::pending::<()>().await;
        };
        let seen = within("the end of the flood", async {
            tokio::select! {
                seen = reading => seen,
                () = sending => Vec::new(),
            }
        })
        .await;
        Flooded { sent, seen }
    }

    /// Reads until a frame of this type arrives; returns its payload.
    pub async fn frame(&mut self, kind: u8) -> Vec<u8> {
        self.frame_without(kind, u8::MAX).await
    }

    /// The same; none of type `unwanted` may come before it.
    pub async fn frame_without(&mut self, kind: u8, unwanted: u8) -> Vec<u8> {
        within("a frame", async {
            loop {
                while let Some((found, payload)) = take_frame(&mut self.seen) {
                    assert_ne!(found, unwanted, "{payload:?}");
                    if found == kind {
                        return payload;
                    }
                }
                assert!(
                    self.stream.read_buf(&mut self.seen).await.expect("bytes") > 0,
                    "no frame {kind} came"
                );
            }
        })
        .await
    }

    /// Waits until stream 1 is reset or refused, or the connection ends.
    pub async fn ended_or_refused(&mut self, what: &str) {
        within(what, async {
            loop {
                while let Some((kind, payload)) = take_frame(&mut self.seen) {
                    match kind {
                        3 | 7 => return,
                        // The first field of the gateway's answers is the status: 400 is index 12 of the static table
                        // (RFC 7541, A); 405 and others are literals.
                        1 => {
                            let status = String::from_utf8_lossy(&payload).into_owned();
                            assert!(
                                payload[0] == 0x8c || status.contains('4') || payload[0] == 0x48,
                                "{what}: {payload:?}"
                            );
                            return;
                        }
                        _ => {}
                    }
                }
                if !matches!(self.stream.read_buf(&mut self.seen).await, Ok(1..)) {
                    return;
                }
            }
        })
        .await;
    }

    /// Waits until the gateway closes the connection; returns the code of the last GOAWAY.
    pub async fn closed(mut self) -> Option<u32> {
        within("the end of the connection", async {
            while matches!(self.stream.read_buf(&mut self.seen).await, Ok(1..)) {}
        })
        .await;
        goaway(self.seen)
    }
}

/// The result of a flood.
pub struct Flooded {
    pub sent: usize,
    seen: Vec<u8>,
}

impl Flooded {
    /// The code of the GOAWAY; `None` when none arrived.
    pub fn code(self) -> Option<u32> {
        goaway(self.seen)
    }
}

fn take_frame(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let head: [u8; 9] = bytes.get(..9)?.try_into().ok()?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let payload = bytes.get(9..9 + length)?.to_vec();
    bytes.drain(..9 + length);
    Some((head[3], payload))
}

fn goaway(mut bytes: Vec<u8>) -> Option<u32> {
    let mut code = None;
    while let Some((kind, payload)) = take_frame(&mut bytes) {
        if kind == 7 {
            code = Some(u32::from_be_bytes(payload[4..8].try_into().expect("a code")));
        }
    }
    code
}

/// What a backend has received.
#[derive(Default)]
struct Received {
    connections: usize,
    requests: Vec<Request<Vec<u8>>>,
    resets: Vec<(String, Option<Reason>)>,
    /// Connections that have ended.
    ended: usize,
}

/// A request at the backend, and the handle to answer it.
pub struct BackendRequest {
    pub path: String,
    pub number: usize,
    respond: SendResponse<Bytes>,
    received: Arc<(Mutex<Received>, watch::Sender<()>)>,
    pub close: watch::Sender<bool>,
}

impl BackendRequest {
    /// Answers with this body.
    pub async fn answer(mut self, body: impl Into<Bytes>) {
        let head = Response::builder()
            .status(200)
            .header("content-type", "application/json")
            .body(())
            .expect("a head");
        if let Ok(mut to) = self.respond.send_response(head, false) {
            let _ = write(&mut to, body.into(), true).await;
        }
    }

    /// Begins a streamed response with this content type.
    pub fn begin(&mut self, kind: &str) -> SendStream<Bytes> {
        let head = Response::builder().status(200).header("content-type", kind).body(()).expect("a head");
        self.respond.send_response(head, false).expect("a stream")
    }

    /// Resets the stream.
    pub fn reset(mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }

    /// Begins a streamed response with this first piece, waits until the gateway resets the stream, and records the reason.
    ///
    /// The gateway may reset it before the head or the piece is sent.
    pub async fn stream_until_reset(mut self, kind: &str, first: Bytes) {
        let head = Response::builder().status(200).header("content-type", kind).body(()).expect("a head");
        let reason = match self.respond.send_response(head, false) {
            Ok(mut to) => {
                let _ = write(&mut to, first, false).await;
                std::future::poll_fn(|cx| to.poll_reset(cx)).await.ok()
            }
            Err(_) => std::future::poll_fn(|cx| self.respond.poll_reset(cx)).await.ok(),
        };
        update(&self.received, |received| received.resets.push((self.path, reason)));
    }
}

fn update(received: &(Mutex<Received>, watch::Sender<()>), edit: impl FnOnce(&mut Received)) {
    edit(&mut received.0.lock().expect("the recorder"));
    received.1.send_replace(());
}

/// A backend that speaks HTTP/2.
pub struct H2Backend {
    url: String,
    received: Arc<(Mutex<Received>, watch::Sender<()>)>,
    accepting: JoinHandle<()>,
}

impl H2Backend {
    /// Without TLS, with prior knowledge.
    pub async fn start<F, Fut>(handle: F) -> Self
    where
        F: Fn(BackendRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::serve("http", None, handle).await
    }

    /// With TLS, negotiated by ALPN.
    pub async fn secure<F, Fut>(config: ServerConfig, handle: F) -> Self
    where
        F: Fn(BackendRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self::serve("https", Some(TlsAcceptor::from(Arc::new(config))), handle).await
    }

    async fn serve<F, Fut>(scheme: &str, tls: Option<TlsAcceptor>, handle: F) -> Self
    where
        F: Fn(BackendRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let received = Arc::new((Mutex::default(), watch::Sender::new(())));
        let (handle, recorder) = (Arc::new(handle), Arc::clone(&received));
        let accepting = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let _ = tcp.set_nodelay(true);
                let (tls, handle, received) = (tls.clone(), Arc::clone(&handle), Arc::clone(&recorder));
                update(&received, |received| received.connections += 1);
                tokio::spawn(async move {
                    match tls {
                        None => serve_connection(tcp, &*handle, &received).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(tcp).await {
                                serve_connection(stream, &*handle, &received).await;
                            }
                        }
                    }
                    update(&received, |received| received.ended += 1);
                });
            }
        });
        Self { url: format!("{scheme}://localhost:{port}"), received, accepting }
    }

    fn look<T>(&self, read: impl FnOnce(&Received) -> T) -> T {
        read(&self.received.0.lock().expect("the recorder"))
    }

    pub fn connections(&self) -> usize {
        self.look(|received| received.connections)
    }

    pub fn ended(&self) -> usize {
        self.look(|received| received.ended)
    }

    /// Requests that arrived with their whole body.
    pub fn requests(&self) -> Vec<Request<Vec<u8>>> {
        self.look(|received| {
            let copy = |request: &Request<Vec<u8>>| {
                let mut copy = Request::new(request.body().clone());
                *copy.uri_mut() = request.uri().clone();
                *copy.method_mut() = request.method().clone();
                *copy.headers_mut() = request.headers().clone();
                copy
            };
            received.requests.iter().map(copy).collect()
        })
    }

    /// Streams that the gateway reset: their path and the reason.
    pub fn resets(&self) -> Vec<(String, Option<Reason>)> {
        self.look(|received| received.resets.clone())
    }

    /// Waits until `done` holds.
    pub async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let mut changes = self.received.1.subscribe();
        within(what, async {
            while !done(self) {
                changes.changed().await.expect("the notes live as long as the backend");
            }
        })
        .await;
    }
}

/// Serves one connection; a handler can close it with GOAWAY.
async fn serve_connection<S, F, Fut>(
    stream: S,
    handle: &F,
    received: &Arc<(Mutex<Received>, watch::Sender<()>)>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(BackendRequest) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let Ok(mut connection) = server::handshake(stream).await else { return };
    let (close, mut closing) = watch::channel(false);
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            Ok(()) = closing.changed() => {
                connection.graceful_shutdown();
                continue;
            }
        };
        let Some(Ok((request, respond))) = accepted else { return };
        let (head, mut body) = request.into_parts();
        let (received, close) = (Arc::clone(received), close.clone());
        let path = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
        let mut asked = BackendRequest { path, number: 0, respond, received: Arc::clone(&received), close };
        // Created here and run in a task, so that bodies and connection make progress together.
        let number = received.0.lock().expect("the recorder").requests.len();
        asked.number = number;
        let handled = handle(asked);
        tokio::spawn(async move {
            let mut whole = Vec::new();
            while let Some(piece) = body.data().await {
                let Ok(piece) = piece else { break };
                let _ = body.flow_control().release_capacity(piece.len());
                whole.extend_from_slice(&piece);
            }
            update(&received, |received| received.requests.push(Request::from_parts(head, whole)));
            handled.await;
        });
    }
}

impl Backend for H2Backend {
    fn url(&self) -> String {
        self.url.clone()
    }
}

impl Drop for H2Backend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Waits for a moment in which something must not happen.
pub async fn short_wait() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}
