//! A scripted backend, one handler per connection, which records what it receives.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::wire::{Head, Message, Unframed, Wire};
use super::{Backend, within};

#[derive(Default)]
struct Received {
    connections: usize,
    heads: Vec<Head>,
    requests: Vec<Message>,
    closed: Vec<Instant>,
    sent: usize,
}

/// What a backend has received; tests can wait for changes without polling.
pub struct Recorder {
    received: Mutex<Received>,
    changes: watch::Sender<()>,
}

impl Recorder {
    fn update(&self, edit: impl FnOnce(&mut Received)) {
        edit(&mut self.received.lock().expect("the recorder"));
        self.changes.send_replace(());
    }

    fn read<T>(&self, read: impl FnOnce(&Received) -> T) -> T {
        read(&self.received.lock().expect("the recorder"))
    }
}

/// One accepted connection.
pub struct Connection {
    wire: Wire,
    recorder: Arc<Recorder>,
}

impl Connection {
    /// The next request with its body; `None` when the peer closes before its head.
    pub async fn request(&mut self) -> Option<Message> {
        let head = self.request_head().await?;
        let request = self.wire.body(head, Unframed::Empty).await;
        self.recorder.update(|received| received.requests.push(request.clone()));
        Some(request)
    }

    /// The next request's head; the body stays unread.
    pub async fn request_head(&mut self) -> Option<Head> {
        let head = self.wire.head().await;
        match &head {
            Some(head) => self.recorder.update(|received| received.heads.push(head.clone())),
            None => self.recorder.update(|received| received.closed.push(Instant::now())),
        }
        head
    }

    /// The body of the request whose head was read before.
    pub async fn rest_of(&mut self, head: Head) -> Message {
        let request = self.wire.body(head, Unframed::Empty).await;
        self.recorder.update(|received| received.requests.push(request.clone()));
        request
    }

    /// Reads until the bytes after the last head contain `text`.
    pub async fn until(&mut self, text: &str) {
        self.wire.until(text).await;
    }

    /// The connection itself, to read the bytes after the last head.
    pub fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    /// Sends all bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.recorder.update(|received| received.sent += bytes.as_ref().len());
        self.wire.send(bytes.as_ref()).await
    }

    /// Sends nothing more and waits until the peer closes; records the time.
    pub async fn stay_silent(mut self) {
        let ending = self.wire.end().await;
        self.recorder.update(|received| received.closed.push(ending.at()));
    }

    /// Sends until the peer is gone; records the time.
    pub async fn send_until_closed(mut self, piece: &[u8], pause: Duration) {
        loop {
            tokio::select! {
                ending = self.wire.end() => {
                    self.recorder.update(|received| received.closed.push(ending.at()));
                    return;
                }
                () = tokio::time::sleep(pause) => {}
            }
            if self.send(piece).await.is_err() {
                self.recorder.update(|received| received.closed.push(Instant::now()));
                return;
            }
        }
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        self.wire.reset();
    }

    /// Records that the peer is gone.
    pub fn gone(self) {
        self.recorder.update(|received| received.closed.push(Instant::now()));
    }

    /// Keeps the connection open and neither reads nor sends.
    pub async fn freeze(self) {
        std::future::pending::<()>().await;
    }
}

/// The backend.
pub struct RawBackend {
    address: SocketAddr,
    recorder: Arc<Recorder>,
    accepting: JoinHandle<()>,
    /// Connections that fill the accept queue of a backend that does not accept.
    _fillers: Vec<TcpStream>,
}

impl RawBackend {
    /// Runs `handle` for each connection.
    pub async fn start<F, Fut>(handle: F) -> Self
    where
        F: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::on(listener, handle)
    }

    /// Runs `handle` for each connection to this listener.
    pub fn on<F, Fut>(listener: TcpListener, handle: F) -> Self
    where
        F: Fn(Connection) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let recorder = Arc::new(Recorder { received: Mutex::default(), changes: watch::Sender::new(()) });
        let address = listener.local_addr().expect("an address");
        let received = Arc::clone(&recorder);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                received.update(|received| received.connections += 1);
                tokio::spawn(handle(Connection { wire: Wire::new(stream), recorder: Arc::clone(&received) }));
            }
        });
        Self { address, recorder, accepting, _fillers: Vec::new() }
    }

    /// Sends the same answer to each request of each connection.
    pub async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer: Arc<[u8]> = answer.into().into();
        Self::start(move |mut connection| {
            let answer = Arc::clone(&answer);
            async move {
                while connection.request().await.is_some() {
                    if connection.send(&answer).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// Accepts connections and never reads from them; its receive buffer is small.
    pub async fn not_reading() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        Self::on(socket.listen(1024).expect("listen"), Connection::freeze)
    }

    /// A listener whose accept queue is full: a connect neither succeeds nor fails.
    pub async fn not_accepting() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let listener = socket.listen(1).expect("listen");
        let address = listener.local_addr().expect("an address");
        let mut fillers = Vec::new();
        // The queue is full when a connect does not succeed at once.
        while let Ok(Ok(filler)) =
            tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
        {
            fillers.push(filler);
        }
        let recorder = Arc::new(Recorder { received: Mutex::default(), changes: watch::Sender::new(()) });
        let accepting = tokio::spawn(async move {
            let _held = listener;
            std::future::pending::<()>().await;
        });
        Self { address, recorder, accepting, _fillers: fillers }
    }

    pub fn connections(&self) -> usize {
        self.recorder.read(|received| received.connections)
    }

    /// Requests whose head arrived.
    pub fn heads(&self) -> Vec<Head> {
        self.recorder.read(|received| received.heads.clone())
    }

    /// Requests whose whole body arrived.
    pub fn requests(&self) -> Vec<Message> {
        self.recorder.read(|received| received.requests.clone())
    }

    /// Bytes that handlers sent, or tried to.
    pub fn sent(&self) -> usize {
        self.recorder.read(|received| received.sent)
    }

    /// Waits until its handlers could not send anything for this time: all buffers after them are full.
    /// Returns how much they have sent.
    pub async fn held_back(&self, quiet: Duration) -> usize {
        within("full buffers", async {
            loop {
                let sent = self.sent();
                tokio::time::sleep(quiet).await;
                if self.sent() == sent {
                    return sent;
                }
                assert!(sent < 4 << 30, "the backend was never held back: {sent} bytes");
            }
        })
        .await
    }

    /// When peers closed connections.
    pub fn closed(&self) -> Vec<Instant> {
        self.recorder.read(|received| received.closed.clone())
    }

    /// Waits until `done` holds.
    pub async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let mut changes = self.recorder.changes.subscribe();
        within(what, async {
            while !done(self) {
                changes.changed().await.expect("the record lives as long as the backend");
            }
        })
        .await;
    }
}

impl Backend for RawBackend {
    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for RawBackend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
