use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::support::tunnel::{HOST, Tunnel, accept, basic, listen, open, read, rest};
use crate::support::{Call, Gateway, within};

/// Spellings of loopback, of this machine and of what is near it, as clients write them in front of a port.
const LOCAL: &[&str] = &[
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "127.0.0.2",
    "127.255.255.254",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0x7F.1",
    "0x7f.0x0.0x0.0x1",
    "017700000001",
    "0177.0.0.1",
    "0177.1",
    "00000177.0.0.01",
    "127.0.0.1.",
    "0",
    "0.0.0.0",
    "0x0",
    "0.0.0.1",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[0000::0001]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::FFFF:127.0.0.1]",
    "[0:0:0:0:0:ffff:7f00:0001]",
    "[::127.0.0.1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2002:7f00:0001::1]",
    "[2001:0:7f00:1::]",
    "[fe80::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[fec0::1]",
    "[ff02::1]",
    "10.0.0.1",
    "167772161",
    "012.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "0xc0a80001",
    "100.64.0.1",
    "169.254.169.254",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "[::ffff:169.254.169.254]",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
];

/// A listener on all addresses of this machine, and how often it was reached.
async fn alarm() -> (Arc<AtomicUsize>, u16) {
    let listener = TcpListener::bind("[::]:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let reached = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&reached);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    (reached, port)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_private_address_reaches_a_listener() {
    assert!(LOCAL.len() >= 40);
    let (reached, port) = alarm().await;
    drop(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("it is there"));
    let yaml = format!(
        "forward_proxy: {{ enabled: true, require_auth: false, connect_ports: [{port}], plain_ports: [{port}] }}\n\
         backend: 'http://127.0.0.1:9'\n"
    );
    let gateway = Gateway::with(yaml).await;
    for host in LOCAL {
        let tunnel = Tunnel::ask(&gateway, &format!("{host}:{port}"), None, b"GET / HTTP/1.1\r\n\r\n").await;
        assert_eq!(tunnel.status(), 403, "{host}: {}", tunnel.head);
        let why = tunnel.field("proxy-status").expect("why").to_owned();
        assert!(why.starts_with("elida; error=destination_ip_prohibited; "), "{host}: {why}");
        let refusal = tunnel.refusal().await;
        assert_eq!(refusal["error"]["code"], "address_blocked", "{host}");
        let plain =
            crate::forward::absolute::get(&gateway, &format!("http://{host}:{port}/latest/meta-data")).await;
        assert_eq!(
            (plain.status(), &plain.json()["error"]["code"]),
            (403, &"address_blocked".into()),
            "{host}"
        );
    }
    assert_eq!(reached.load(Ordering::Relaxed), 1, "only by the test itself");
    let told = gateway.log_until(|line| line["host"] == "localhost").await;
    assert!(told["address"] == "127.0.0.1" || told["address"] == "::1", "the log names the address: {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_own_listeners_are_never_reached() {
    let (_listener, address) = listen().await;
    let everything = "allow_private: ['0.0.0.0/0', '::/0'], deny_private_ranges: false";
    let gateway = Gateway::with(open(address, everything)).await;
    for own in [gateway.proxy(), gateway.control()] {
        let port = own.port();
        let hosts = ["127.0.0.1", "localhost", "127.1", "[::ffff:127.0.0.1]", "0.0.0.0", "own.test"];
        let ports = format!("{everything}, connect_ports: [{port}], plain_ports: [{port}]");
        let yaml = open(address, &ports).replace("hosts: {", "hosts: { own.test: 127.0.0.1,");
        gateway.rewrite(&yaml);
        gateway.hangup();
        gateway.log_until(|line| line["message"] == "configuration reloaded").await;
        for host in hosts {
            let tunnel = until_reloaded(&gateway, &format!("{host}:{port}")).await;
            assert_eq!(tunnel.status(), 403, "{host}: {}", tunnel.head);
            assert_eq!(tunnel.refusal().await["error"]["code"], "loop_detected", "{host}");
            let plain = crate::forward::absolute::get(&gateway, &format!("http://{host}:{port}/")).await;
            assert_eq!(plain.json()["error"]["code"], "loop_detected", "{host}");
        }
    }
}

/// Asks again while the ports of the configuration before are in force.
async fn until_reloaded(gateway: &Gateway, target: &str) -> Tunnel {
    within("the reload", async {
        loop {
            let tunnel = Tunnel::ask(gateway, target, None, b"").await;
            if !tunnel.head.contains("port_not_allowed") {
                return tunnel;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_hosts_are_refused_in_every_spelling_and_an_allowlist_permits_only_its_own() {
    let (listener, address) = listen().await;
    let with = |filtering: &str| {
        open(address, "")
            .replace("hosts: {", &format!("hosts: {{ bad.test: '{address}', x.ads.test: '{address}',"))
            + &format!("security: {{ filtering: {filtering} }}\n")
    };
    let gateway = Gateway::with(with("{ domains: { blocked: [bad.test, '*.ads.test', 192.0.2.9] } }")).await;
    for host in [
        "bad.test",
        "BAD.test",
        "bad.test.",
        "x.ads.test",
        "a.b.Ads.Test",
        "192.0.2.9",
        "[::ffff:192.0.2.9]",
        "3221225993",
    ] {
        let tunnel = Tunnel::ask(&gateway, &format!("{host}:443"), None, b"").await;
        assert_eq!(
            (tunnel.status(), tunnel.refusal().await["error"]["code"].clone()),
            (403, "domain_blocked".into()),
            "{host}"
        );
        let plain = crate::forward::absolute::get(&gateway, &format!("http://{host}/")).await;
        assert_eq!(
            (plain.status(), &plain.json()["error"]["code"]),
            (403, &"domain_blocked".into()),
            "{host}"
        );
    }
    let (tunnel, _host) = tokio::join!(Tunnel::open(&gateway, "s"), accept(&listener));
    assert_eq!(tunnel.status(), 200);

    let gateway =
        Gateway::with(with("{ mode: allowlist, domains: { allowed: [.test], blocked: [bad.test] } }")).await;
    for host in ["bad.test", "example.com", "1.1.1.1", "localhost"] {
        let tunnel = Tunnel::ask(&gateway, &format!("{host}:443"), None, b"").await;
        assert_eq!(tunnel.refusal().await["error"]["code"], "domain_blocked", "{host}");
    }
    let (tunnel, _host) = tokio::join!(Tunnel::open(&gateway, "s"), accept(&listener));
    assert_eq!(tunnel.status(), 200);
}

/// Begins a TLS handshake for this server in a tunnel; its end is of no interest.
async fn hello(tunnel: Tunnel, server: &'static str) {
    let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let _ = connector.connect(server.try_into().expect("a name"), tunnel.stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_that_a_client_asks_for_in_a_tunnel_must_be_permitted() {
    let (listener, address) = listen().await;
    let yaml = open(address, "allow_private: [127.0.0.0/8]")
        + "security: { filtering: { domains: { blocked: [hidden.test] } } }\n";
    let gateway = Gateway::with(yaml).await;
    for (session, server, passes) in [
        ("own", "host.test", true),
        ("other", "other.test", true),
        ("hidden", "hidden.test", false),
        ("nameless", "192.0.2.1", false),
    ] {
        let (tunnel, mut host) = tokio::join!(Tunnel::open(&gateway, session), accept(&listener));
        let asking = tokio::spawn(hello(tunnel, server));
        if passes {
            assert_eq!(read(&mut host, 3).await[..2], [22, 3], "the handshake reaches the host");
            asking.abort();
        } else {
            assert!(rest(&mut host).await.is_err(), "nothing of it reaches the host");
            let _ = within("the client's end", asking).await;
            let line =
                gateway.log_until(|line| line["session_id"] == session && line["method"] == "CONNECT").await;
            assert_eq!(
                (&line["outcome"], &line["status"]),
                (&"domain_blocked".into(), &200.into()),
                "{line}"
            );
        }
    }
    // What is not TLS passes at once, also when the host speaks first.
    let (mut tunnel, mut host) = tokio::join!(Tunnel::open(&gateway, "ssh"), accept(&listener));
    host.write_all(b"SSH-2.0-host").await.expect("room");
    assert_eq!(read(&mut tunnel.stream, 12).await, b"SSH-2.0-host");
    tunnel.stream.write_all(b"SSH").await.expect("room");
    assert_eq!(read(&mut host, 3).await, b"SSH");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_the_configuration_leads_where_it_says() {
    let (listener, address): (TcpListener, SocketAddr) = listen().await;
    let gateway = Gateway::with(open(address, "")).await;
    let (tunnel, _host) = tokio::join!(Tunnel::open(&gateway, "s"), accept(&listener));
    assert_eq!(tunnel.status(), 200, "the operator's word needs no allow_private");
    // No other name leads there.
    let other = Tunnel::ask(&gateway, "localhost:443", Some(&basic("s", "")), b"").await;
    assert_eq!(other.refusal().await["error"]["code"], "address_blocked");
    let reverse = Call::get("/x").header("host", HOST).send(gateway.proxy()).await;
    assert_eq!(reverse.status(), 502, "a request for a path is routed as before");
}
