use std::net::SocketAddr;
use std::process::Command;

use tokio::net::TcpListener;

use crate::support::{Call, Connection, Gateway, RawBackend};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";

/// What `many.example` has in the gateway's own /etc/hosts.
const HOSTS: [&str; 3] = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];

async fn answer_once(mut connection: Connection) {
    if connection.request().await.is_some() {
        let _ = connection.send(OK).await;
    }
}

/// A port at which exactly these of [`HOSTS`] accept connections, as bits.
async fn port_at(alive: usize) -> (u16, Vec<RawBackend>) {
    'ports: loop {
        let free = TcpListener::bind((HOSTS[0], 0)).await.expect("a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let mut backends = Vec::new();
        for (at, host) in HOSTS.iter().enumerate() {
            let address: SocketAddr = format!("{host}:{port}").parse().expect("an address");
            let Ok(listener) = TcpListener::bind(address).await else { continue 'ports };
            if alive & (1 << at) != 0 {
                backends.push(RawBackend::on(listener, answer_once));
            }
        }
        return (port, backends);
    }
}

/// A line of shell that gives the program an /etc/hosts of its own; `None` where the kernel permits no user namespace.
fn own_hosts(file: &std::path::Path) -> Option<String> {
    let bind = format!("mount --bind {} /etc/hosts", file.display());
    let isolated = |then: &str| ["-rm".to_owned(), "sh".to_owned(), "-c".to_owned(), format!("{bind}{then}")];
    let is_permitted =
        Command::new("unshare").args(isolated("")).status().is_ok_and(|status| status.success());
    is_permitted.then(|| format!("exec unshare -rm sh -c '{bind}; exec \"$0\" \"$@\"' \"$0\" \"$@\""))
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_addresses_are_down_a_living_one_answers_and_the_backend_stays_healthy() {
    let folder = tempfile::tempdir().expect("a folder");
    let hosts = folder.path().join("hosts");
    std::fs::write(&hosts, HOSTS.map(|host| format!("{host} many.example\n")).concat()).expect("hosts");
    let Some(line) = own_hosts(&hosts) else {
        eprintln!("not run: no user namespace here; upstream::addresses has the property test");
        return;
    };
    let mut yaml = "backends:\n".to_owned();
    let mut all = Vec::new();
    for alive in 0..8 {
        let (port, backends) = port_at(alive).await;
        let probed = if alive == 0 { "" } else { ", health: { interval: 100ms, unhealthy_after: 1 }" };
        yaml += &format!("  b{alive}: {{ url: 'http://many.example:{port}', type: openai{probed} }}\n");
        all.push(backends);
    }
    let gateway = Gateway::with_limit(&yaml.replacen("openai", "openai, default: true", 1), &line).await;
    for (alive, backends) in all.iter().enumerate() {
        let name = format!("b{alive}");
        for _ in 0..6 {
            let answer = Call::post("/v1/x").header("x-backend", &name).send(gateway.proxy()).await;
            let expected = if backends.is_empty() { 502 } else { 200 };
            assert_eq!(answer.status(), expected, "{alive:03b}: {}", answer.text());
        }
        let served: usize = backends.iter().map(|backend| backend.requests().len()).sum();
        assert_eq!(served, if backends.is_empty() { 0 } else { 6 });
        if let [only, ..] = &backends[..] {
            // Probes look for a living address, too.
            let seen = only.connections();
            only.until("probes", |backend| backend.connections() > seen + 2).await;
            let healthy = gateway.metric(&format!("elida_backend_healthy{{backend={name:?}}}")).await;
            assert_eq!(healthy, 1.0, "{alive:03b}");
        }
    }
}
