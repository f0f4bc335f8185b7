//! The demo provider inside the test process.

use std::net::SocketAddr;
use std::sync::Arc;

use elida::demo::{Ledger, Provider};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{Backend, within};

/// The provider and the task that serves it.
pub struct Demo {
    provider: Arc<Provider>,
    address: SocketAddr,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Demo {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let provider = Provider::new();
        let serving = tokio::spawn(Arc::clone(&provider).serve(listener, std::future::pending()));
        Self { provider, address, serving }
    }

    /// The requests that it received.
    pub fn ledger(&self) -> &Ledger {
        self.provider.ledger()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until `done` holds.
    pub async fn until(&self, what: &str, done: impl Fn(&Ledger) -> bool) {
        within(what, self.ledger().until(done)).await;
    }
}

impl Backend for Demo {
    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
