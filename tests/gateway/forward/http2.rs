use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::Request;
use tokio::io::AsyncWriteExt;

use crate::support::http2::{self, Client};
use crate::support::tunnel::{HOST, accept, basic, listen, open, read, rest};
use crate::support::{Call, Gateway, within};

/// A client's end of a tunnel over HTTP/2.
pub struct Stream {
    to: SendStream<Bytes>,
    from: RecvStream,
}

impl Stream {
    async fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let piece = within("bytes in a stream", self.from.data()).await.expect("no end").expect("bytes");
            let _ = self.from.flow_control().release_capacity(piece.len());
            bytes.extend_from_slice(&piece);
        }
        bytes
    }

    /// Reads to the end, which must be a reset; returns its reason.
    pub async fn reset(mut self) -> Reason {
        match within("the end of a stream", self.from.data()).await {
            Some(Err(error)) => error.reason().expect("a reason"),
            other => panic!("no reset: {other:?}"),
        }
    }
}

fn request(session: &str) -> Request<()> {
    let request = Request::connect(format!("{HOST}:443"));
    request.header("proxy-authorization", basic(session, "")).body(()).expect("a request")
}

/// Opens a tunnel in this session.
pub async fn connect(client: &mut Client, session: &str) -> Stream {
    let (answer, to) = client.begin(request(session), false).await;
    let answer = within("an answer", answer).await.expect("a head");
    assert_eq!(answer.status(), 200);
    Stream { to, from: answer.into_body() }
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnels_are_streams_beside_each_other_and_beside_requests() {
    let (listener, address) = listen().await;
    let gateway = Gateway::with(open(address, "")).await;
    let mut settings = h2::client::Builder::new();
    settings.initial_connection_window_size(8 << 20);
    let mut client = Client::with(gateway.proxy(), &settings).await;
    let (mut one, mut one_host) = tokio::join!(connect(&mut client, "one"), accept(&listener));
    let (mut two, mut two_host) = tokio::join!(connect(&mut client, "two"), accept(&listener));
    http2::write(&mut one.to, Bytes::from_static(b"to one"), false).await.expect("room");
    assert_eq!(read(&mut one_host, 6).await, b"to one");
    two_host.write_all(&vec![9; 600 << 10]).await.expect("room");
    one_host.write_all(b"from one").await.expect("room");
    assert_eq!(one.read(8).await, b"from one", "one that does not read delays no other");
    assert_eq!(two.read(600 << 10).await.len(), 600 << 10);
    assert_eq!(client.ask(&Call::get("/health/liveness")).await.status, 200);

    // Half-closes in both directions.
    http2::write(&mut one.to, Bytes::new(), true).await.expect("an end");
    assert_eq!(rest(&mut one_host).await, Ok(Vec::new()));
    one_host.write_all(b"bye").await.expect("room");
    drop(one_host);
    assert_eq!(one.read(3).await, b"bye");
    while let Some(piece) = within("the end", one.from.data()).await {
        assert!(piece.expect("no reset").is_empty());
    }

    // A reset of either side is one of the other.
    two_host.set_zero_linger().expect("an option");
    drop(two_host);
    assert_eq!(two.reset().await, Reason::CONNECT_ERROR);
    let (mut three, mut three_host) = tokio::join!(connect(&mut client, "three"), accept(&listener));
    three.to.send_reset(Reason::CANCEL);
    assert!(rest(&mut three_host).await.is_err());
    assert!(client.is_open().await);
    let line = gateway.log_until(|line| line["session_id"] == "one" && line["method"] == "CONNECT").await;
    assert_eq!(
        (&line["bytes_in"], &line["bytes_out"], &line["outcome"]),
        (&6.into(), &11.into(), &"ok".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_an_answer_and_a_kill_a_reset() {
    let (listener, address) = listen().await;
    let gateway = Gateway::with(open(address, "")).await;
    let mut client = Client::connect(gateway.proxy()).await;
    let (stream, mut host) = tokio::join!(connect(&mut client, "s"), accept(&listener));
    gateway.kill("s").await;
    assert_eq!(stream.reset().await, Reason::CONNECT_ERROR);
    assert!(rest(&mut host).await.is_err());
    let (answer, _to) = client.begin(request("s"), false).await;
    let answer = within("an answer", answer).await.expect("a head");
    assert_eq!(answer.status(), 403);
    assert!(answer.headers()["proxy-status"].to_str().expect("text").contains("session_killed"));
    let (answer, _to) =
        client.begin(Request::connect("host.test:22").body(()).expect("a request"), false).await;
    assert_eq!(within("an answer", answer).await.expect("a head").status(), 403);
    assert!(client.is_open().await);
}
