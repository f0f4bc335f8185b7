//! The roles of this program as its own child: the backends, or the bare Pingora proxy.
//! A child exits when its standard input ends, so none outlives the bench.

use std::io::Read;
use std::net::SocketAddr;

use async_trait::async_trait;
use elida::demo::Provider;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{RunArgs, Server};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};
use tokio::net::TcpListener;

use super::{collector, files, source};

/// The backends.
pub(crate) const BACKENDS: &str = "backends";
/// The bare proxy.
pub(crate) const BARE: &str = "bare-pingora";

/// The number of idle connections that a proxy keeps to its backends, as in ELIDA.
const POOL: usize = 4096;

/// The path prefix of the paced source; other paths go to the demo provider.
pub(crate) const PACED: &str = "/paced";

/// Runs a role until standard input ends.
pub(crate) fn play(role: &str, arguments: &[String]) {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let addresses: Vec<SocketAddr> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    match (role, addresses.as_slice()) {
        (BACKENDS, []) => backends(),
        (BARE, [listen, demo, paced]) => {
            let threads = arguments.get(3).and_then(|threads| threads.parse().ok());
            bare(*listen, threads, Bare { demo: *demo, paced: *paced });
        }
        _ => panic!("no such role: {role} {arguments:?}"),
    }
}

/// The demo provider, the paced source, the collector and the files; the first lines of the output are their addresses.
fn backends() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let demo = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let paced = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", demo.local_addr().expect("an address"));
        let control = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", paced.local_addr().expect("an address"));
        println!("{}", control.local_addr().expect("an address"));
        let stored = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", stored.local_addr().expect("an address"));
        tokio::spawn(source::serve(paced));
        tokio::spawn(collector::serve(control));
        tokio::spawn(files::serve(stored));
        Provider::quiet().serve(demo, std::future::pending()).await.expect("the provider serves");
    });
}

/// Pingora's proxy that only selects a backend.
struct Bare {
    demo: SocketAddr,
    paced: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(
        &self,
        session: &mut Session,
        _context: &mut (),
    ) -> pingora_core::Result<Box<HttpPeer>> {
        let is_paced = session.req_header().uri.path().starts_with(PACED);
        let address = if is_paced { self.paced } else { self.demo };
        Ok(Box::new(HttpPeer::new(address, false, String::new())))
    }
}

/// Runs the bare proxy with this number of threads, or one per core.
fn bare(listen: SocketAddr, threads: Option<usize>, proxy: Bare) {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let conf = ServerConf {
        threads: threads.unwrap_or_else(cores),
        upstream_keepalive_pool_size: POOL,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, proxy);
    service.add_tcp(&listen.to_string());
    server.add_service(service);
    server.run(RunArgs::default());
}
