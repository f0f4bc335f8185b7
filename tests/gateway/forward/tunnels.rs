use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::callers::keys::{auth, key};
use crate::support::tunnel::{HOST, Tunnel, accept, basic, listen, open, read, rest};
use crate::support::{Gateway, within};

/// The access line of the first tunnel.
async fn line(gateway: &Gateway) -> serde_json::Value {
    gateway.access_line(&format!("{HOST}:443")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_in_both_directions_and_stand_in_the_record() {
    let (listener, address) = listen().await;
    let gateway = Gateway::with(open(address, "")).await;
    let target = format!("{HOST}:443");
    let credential = basic("nightly-7", "");
    let asked = Tunnel::ask(&gateway, &target, Some(&credential), b"early");
    let (mut tunnel, mut host) = tokio::join!(asked, accept(&listener));
    assert!(tunnel.head.starts_with("HTTP/1.1 200 Connection Established\r\n"), "{}", tunnel.head);
    assert_eq!(tunnel.field("x-session-id"), Some("nightly-7"));
    assert_eq!(tunnel.field("content-length"), None, "an answer to CONNECT has no body (RFC 9110, 9.3.6)");
    assert_eq!(read(&mut host, 5).await, b"early");
    host.write_all(b"hello").await.expect("room");
    assert_eq!(read(&mut tunnel.stream, 5).await, b"hello");
    let shown =
        gateway.session_until("nightly-7", |view| view["bytes_in"] == 5 && view["bytes_out"] == 5).await;
    assert_eq!(shown["legs"][0]["kind"], "tunnel", "{shown}");
    assert_eq!(shown["legs"][0]["path"], target, "{shown}");
    assert_eq!(gateway.metric("elida_tunnels_open").await, 1.0);

    // A half-close passes on; the other direction goes on.
    tunnel.stream.shutdown().await.expect("a half-close");
    assert_eq!(rest(&mut host).await, Ok(Vec::new()));
    host.write_all(b"last words").await.expect("room");
    drop(host);
    assert_eq!(rest(&mut tunnel.stream).await, Ok(b"last words".to_vec()));
    let line = line(&gateway).await;
    assert_eq!(
        (&line["method"], &line["status"], &line["outcome"]),
        (&"CONNECT".into(), &200.into(), &"ok".into())
    );
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&5.into(), &15.into()), "{line}");
    assert_eq!((&line["session_id"], &line["backend"]), (&"nightly-7".into(), &"forward".into()), "{line}");
    assert_eq!(gateway.metric("elida_tunnels_open").await, 0.0);
    assert_eq!(gateway.metric("elida_tunnel_bytes_total{direction=\"out\"}").await, 15.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_and_resets_pass_on_in_both_directions() {
    let (listener, address) = listen().await;
    let gateway = Gateway::with(open(address, "")).await;
    let pair = async |session: &str| tokio::join!(Tunnel::open(&gateway, session), accept(&listener));

    let (mut tunnel, host) = pair("host-ends").await;
    drop(host);
    assert_eq!(rest(&mut tunnel.stream).await, Ok(Vec::new()));

    let (mut tunnel, host) = pair("host-resets").await;
    host.set_zero_linger().expect("an option");
    drop(host);
    assert_eq!(rest(&mut tunnel.stream).await, Err(ErrorKind::ConnectionReset));

    let (tunnel, mut host) = pair("client-vanishes").await;
    tunnel.stream.set_zero_linger().expect("an option");
    drop(tunnel);
    assert_eq!(rest(&mut host).await, Err(ErrorKind::ConnectionReset));

    let (tunnel, mut host) = pair("client-leaves").await;
    drop(tunnel);
    assert_eq!(rest(&mut host).await, Ok(Vec::new()));
    drop(host);
    for (session, outcome) in [
        ("host-ends", "ok"),
        ("host-resets", "backend_unavailable"),
        ("client-vanishes", "client_gone"),
        ("client-leaves", "ok"),
    ] {
        let ended = |line: &serde_json::Value| {
            line["message"] == "request_completed" && line["session_id"] == session
        };
        // The host's end is whole when the client has ended its side, too.
        if session != "host-ends" {
            assert_eq!(gateway.log_until(ended).await["outcome"], outcome, "{session}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_slows_the_host_and_can_still_send_and_be_killed() {
    let (listener, address) = listen().await;
    let gateway = Gateway::with(open(address, "")).await;
    let (mut tunnel, mut host) = tokio::join!(Tunnel::open(&gateway, "slow"), accept(&listener));
    let (mut host_reads, mut host_writes) = host.split();
    let mut sent = 0_usize;
    let block = vec![7; 64 << 10];
    // Until the buffers of three sockets are full.
    while let Ok(Ok(written)) =
        tokio::time::timeout(Duration::from_millis(500), host_writes.write(&block)).await
    {
        sent += written;
        assert!(sent < 64 << 20, "the gateway holds what the client does not read");
    }
    tunnel.stream.write_all(b"still here").await.expect("room");
    let mut came = [0; 10];
    within("the other direction", host_reads.read_exact(&mut came)).await.expect("bytes");
    assert_eq!(&came, b"still here");
    assert_eq!(gateway.kill("slow").await.body["legs_cut"], 1);
    assert!(rest(&mut host).await.is_err(), "the host sees no end");
    assert_eq!(line(&gateway).await["outcome"], "session_killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_without_a_good_key_get_407_and_what_programs_need_to_ask_again() {
    let (listener, address) = listen().await;
    let (good, unknown) = (key(), key());
    let yaml =
        open(address, "").replace("require_auth: false, ", "") + &auth("optional", &[("ci", &good, "")]);
    let gateway = Gateway::with(yaml).await;
    let target = format!("{HOST}:443");
    let bearer = format!("Bearer {unknown}");
    for (credential, code) in [
        (None, "key_required"),
        (Some(basic("s", "")), "key_required"),
        (Some(basic("s", "not-a-key")), "key_required"),
        (Some(basic("s", &unknown)), "key_unknown"),
        (Some(bearer), "key_unknown"),
        (Some("Basic !!".to_owned()), "key_required"),
        (Some("Negotiate abc".to_owned()), "key_required"),
    ] {
        let tunnel = Tunnel::ask(&gateway, &target, credential.as_deref(), b"").await;
        assert_eq!(tunnel.status(), 407, "{credential:?}: {}", tunnel.head);
        assert!(tunnel.head.contains("\r\nproxy-authenticate: Basic realm=\"elida\""), "{}", tunnel.head);
        assert_eq!(tunnel.field("www-authenticate"), None);
        let status = tunnel.field("proxy-status").expect("why").to_owned();
        assert_eq!(status, format!("elida; error=http_request_denied; details=\"{code}\""));
        assert_eq!(tunnel.refusal().await["error"]["code"], code);
    }
    for credential in [basic("s", &good), basic("x", &good), format!("Bearer {good}")] {
        let asked = Tunnel::ask(&gateway, &target, Some(&credential), b"");
        let (tunnel, _host) = tokio::join!(asked, accept(&listener));
        assert_eq!(tunnel.status(), 200, "{}", tunnel.head);
    }
    let sessions = gateway.sessions().await;
    assert!(sessions.iter().all(|session| session["principal"]["id"] == "key:ci"), "{sessions:?}");
    assert!(!gateway.log_text().contains(&good) && !gateway.log_text().contains(&unknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_that_is_none_is_refused() {
    let (_listener, address) = listen().await;
    let gateway = Gateway::with(open(address, "")).await;
    for (target, code) in [
        ("host.test", "bad_request"),
        ("host.test:0", "bad_request"),
        ("host.test:99999", "bad_request"),
        ("host.test:22", "port_not_allowed"),
        ("host.test:80", "port_not_allowed"),
    ] {
        let tunnel = Tunnel::ask(&gateway, target, None, b"").await;
        let status = if code == "bad_request" { 400 } else { 403 };
        assert_eq!(tunnel.status(), status, "{target}: {}", tunnel.head);
        if status == 403 {
            assert_eq!(tunnel.refusal().await["error"]["code"], code, "{target}");
        }
    }
    // Without the forward proxy everything is as before.
    let off = Gateway::with("backend: 'http://127.0.0.1:9'\n").await;
    let tunnel = Tunnel::ask(&off, "host.test:443", None, b"").await;
    assert_eq!(tunnel.status(), 405, "{}", tunnel.head);
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_refuse_do_not_answer_or_have_no_name_are_told_apart() {
    let (listener, address) = listen().await;
    drop(listener);
    // A listener whose queue is full does not answer.
    let full = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    rustix::net::listen(&full, 0).expect("a queue");
    let silent = full.local_addr().expect("an address");
    let _waiting: Vec<_> =
        (0..2).map(|_| std::net::TcpStream::connect_timeout(&silent, Duration::from_millis(300))).collect();
    let yaml = open(address, "connect_timeout: 300ms")
        .replace("hosts: {", &format!("hosts: {{ silent.test: '{silent}',"));
    let gateway = Gateway::with(yaml).await;
    for (host, status, error, code) in [
        (HOST, 502, "connection_refused", "backend_unavailable"),
        ("silent.test", 504, "connection_timeout", "backend_timeout"),
        ("no-such-name.invalid", 502, "dns_error", "dns_error"),
    ] {
        let tunnel = Tunnel::ask(&gateway, &format!("{host}:443"), Some(&basic("s", "")), b"").await;
        assert_eq!(tunnel.status(), status, "{host}: {}", tunnel.head);
        let why = tunnel.field("proxy-status").expect("why").to_owned();
        assert!(why.starts_with(&format!("elida; error={error}; ")), "{host}: {why}");
        assert_eq!(tunnel.refusal().await["error"]["code"], code, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_rules_and_keys_hold_on_tunnels() {
    let (listener, address) = listen().await;
    let (all, one) = (key(), key());
    let yaml = open(address, "").replace("require_auth: false, ", "")
        + &auth("required", &[("all", &all, ""), ("one", &one, "backends: [other]")])
        + "limits: [{ by: principal.id, in_flight: 2, name: two }]\n\
           policy:\n  rules:\n\
           \u{20}   - { id: no-nights, on: connect, when: 'request.method == \"CONNECT\" && request.host == \"night.test:443\"', action: block }\n\
           \u{20}   - { id: one-host, on: request, when: 'request.backend == \"forward\" && session.id == \"barred\"', action: block }\n";
    let gateway = Gateway::with(yaml.replace(
        "backend: 'http://127.0.0.1:9'",
        "backends: { other: { url: 'http://127.0.0.1:9', type: http } }",
    ))
    .await;
    let target = format!("{HOST}:443");
    let ask = async |target: &str, session: &str, key: &str| {
        Tunnel::ask(&gateway, target, Some(&basic(session, key)), b"").await
    };
    for (target, session, key, status, code) in [
        (target.as_str(), "denied", &one, 403, "backend_denied"),
        ("night.test:443", "s", &all, 403, "policy_blocked"),
        (&target, "barred", &all, 403, "policy_blocked"),
    ] {
        let tunnel = ask(target, session, key).await;
        assert_eq!(tunnel.status(), status, "{target} {session}: {}", tunnel.head);
        assert_eq!(tunnel.refusal().await["error"]["code"], code, "{target} {session}");
    }
    let mut open = Vec::new();
    for _ in 0..2 {
        let (tunnel, host) = tokio::join!(ask(&target, "s", &all), accept(&listener));
        assert_eq!(tunnel.status(), 200, "{}", tunnel.head);
        open.push((tunnel, host));
    }
    let third = ask(&target, "s", &all).await;
    assert_eq!(
        (third.status(), third.refusal().await["error"]["code"].clone()),
        (429, "rate_limited".into())
    );
    open.clear();
    gateway.session_until("s", |view| view["open_legs"] == 0).await;
    let (tunnel, _host) = tokio::join!(ask(&target, "s", &all), accept(&listener));
    assert_eq!(tunnel.status(), 200, "a place is free again: {}", tunnel.head);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_more_tunnels_than_may_be_open() {
    let (listener, address) = listen().await;
    let gateway = Gateway::with(open(address, "max_tunnels: 1")).await;
    let (tunnel, _host) = tokio::join!(Tunnel::open(&gateway, "first"), accept(&listener));
    let second = Tunnel::ask(&gateway, &format!("{HOST}:443"), Some(&basic("second", "")), b"").await;
    assert_eq!(second.status(), 503, "{}", second.head);
    assert_eq!(
        second.field("proxy-status"),
        Some("elida; error=connection_limit_reached; details=\"tunnels_full\"")
    );
    drop(tunnel);
    drop(_host);
    line(&gateway).await;
    gateway.log_until(|line| line["session_id"] == "first" && line["outcome"] == "ok").await;
    let (third, _host) = tokio::join!(Tunnel::open(&gateway, "third"), accept(&listener));
    assert_eq!(third.status(), 200);
}

/// A host that sends back what comes.
pub async fn echo(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let (mut from, mut to) = stream.split();
            let _ = tokio::io::copy(&mut from, &mut to).await;
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transfer_is_the_same_on_the_other_side() {
    let (listener, address) = listen().await;
    tokio::spawn(echo(listener));
    let gateway = Gateway::with(open(address, "")).await;
    let tunnel = Tunnel::open(&gateway, "large").await;
    let sent: Vec<u8> =
        (0..8_u32 << 20).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut from, mut to) = tunnel.stream.into_split();
    let expected = sent.clone();
    let sending = tokio::spawn(async move {
        to.write_all(&sent).await.expect("room");
        to.shutdown().await.expect("an end");
        to
    });
    let mut came = Vec::new();
    within("the echo", from.read_to_end(&mut came)).await.expect("bytes");
    assert!(came == expected, "{} of {} bytes", came.len(), expected.len());
    sending.await.expect("a task");
}
