use crate::support::kernel::{Socket, hex, sockets};
use crate::support::{Backend, Call, Gateway, RawBackend, RawClient, within};

/// Waits until only the keepalive timer is set on the socket; returns when it expires.
async fn asks_after(what: &str, found: impl Fn(&Socket) -> bool) -> u64 {
    within(what, async {
        loop {
            if let Some(socket) = sockets().into_iter().find(|socket| found(socket) && socket.timer == 2) {
                return socket.rings_after;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_of_a_quiet_stream_are_asked_whether_they_live() {
    let backend = RawBackend::start(async |mut connection| {
        let Some(_) = connection.request().await else { return };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _ = connection.send(format!("{head}d\r\ndata: first\n\n\r\n")).await;
        connection.stay_silent().await;
    })
    .await;
    let gateway = Gateway::start(&backend).await;
    let mut client = Call::chat_stream("hello").open(gateway.proxy()).await;
    client.until("first").await;
    let operator = RawClient::connect(gateway.control()).await;

    let (proxy, control) = (hex(gateway.proxy()), hex(gateway.control()));
    let backend_address = backend.url().trim_start_matches("http://").parse().expect("an address");
    let backend_address = hex(backend_address);
    let listening = |socket: &Socket| socket.remote.ends_with(":0000");
    let accepted = asks_after("the client's side", |s| s.local == proxy && !listening(s)).await;
    let upstream = asks_after("the backend's side", |s| s.remote == backend_address).await;
    let operators = asks_after("the operator's side", |s| s.local == control && !listening(s)).await;
    for seconds in [accepted, upstream, operators] {
        assert!((30..=60).contains(&seconds), "asked after {seconds} s; docs/lifecycle.md says 60");
    }
    drop((client, operator));
}
