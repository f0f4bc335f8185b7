//! The connection for messages. In a cluster any server forwards what is published at another, so it is made to one
//! of them, and to another when that one is gone.

use std::sync::Arc;
use std::time::Instant;

use fred::clients::SubscriberClient;
use fred::prelude::*;
use fred::types::Message;
use fred::types::config::Server;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{self, Receiver, Sender};
use tokio::task::JoinHandle;

use super::connect::{ANSWER, UNRESPONSIVE};
use super::plan::Plan;

/// Messages that wait for a reader.
const MESSAGES: usize = 1024;

/// An incoming message, or a gap.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// A message.
    Message(Message),
    /// Messages may have been missed.
    Gap,
}

/// Patterns and names of channels.
#[derive(Clone, Debug, Default)]
pub(super) struct Channels {
    pub(super) patterns: Vec<String>,
    pub(super) names: Vec<String>,
}

impl Channels {
    async fn subscribe(&self, client: &SubscriberClient) -> Result<(), Error> {
        if !self.patterns.is_empty() {
            client.psubscribe(self.patterns.clone()).await?;
        }
        if !self.names.is_empty() {
            client.subscribe(self.names.clone()).await?;
        }
        Ok(())
    }
}

/// The connection for messages.
pub(super) struct Subscription {
    plan: Plan,
    heard: Sender<Delivery>,
    channels: Arc<Mutex<Channels>>,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    connection: Option<Connection>,
    /// Index of the server of a cluster that is used next.
    turn: usize,
}

struct Connection {
    server: Option<Server>,
    client: SubscriberClient,
    listening: JoinHandle<()>,
    since: Instant,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.listening.abort();
        let client = self.client.clone();
        // Without a runtime the connection has already ended.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { client.quit().await });
        }
    }
}

impl Subscription {
    pub(super) fn new(plan: Plan) -> Self {
        // Instances start at different servers.
        let current =
            Mutex::new(Current { connection: None, turn: usize::try_from(std::process::id()).unwrap_or(0) });
        Self { plan, heard: broadcast::channel(MESSAGES).0, channels: Arc::default(), current }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock()
    }

    /// The connection, to one of these servers of a cluster, or with `None` to the server in the settings.
    pub(super) fn client(&self, servers: Option<&[Server]>) -> Result<SubscriberClient, Error> {
        let mut current = self.current();
        if let Some(connection) = &current.connection {
            let is_there = match (servers, &connection.server) {
                (Some(servers), Some(server)) => servers.contains(server),
                _ => true,
            };
            if is_there {
                return Ok(connection.client.clone());
            }
        }
        current.connection = None;
        let server = match servers {
            None => None,
            Some([]) => {
                return Err(Error::new(ErrorKind::IO, "no server of the cluster is known"));
            }
            Some(servers) => Some(servers[current.turn % servers.len()].clone()),
        };
        let client = self.plan.subscriber(server.as_ref())?;
        let listening = tokio::spawn(listen(client.clone(), self.channels.clone(), self.heard.clone()));
        drop(client.connect());
        current.connection =
            Some(Connection { server, client: client.clone(), listening, since: Instant::now() });
        Ok(client)
    }

    /// Checks that the connection answers. In a cluster one that does not is replaced by one to another server.
    pub(super) async fn ping(&self, servers: Option<&[Server]>) -> Result<(), Error> {
        let answer = self.client(servers)?.ping::<()>(None).await;
        if answer.is_err() && servers.is_some() {
            let mut current = self.current();
            // A new connection is given some time.
            if current
                .connection
                .as_ref()
                .is_some_and(|connection| connection.since.elapsed() >= UNRESPONSIVE)
            {
                current.connection = None;
                current.turn = current.turn.wrapping_add(1);
            }
        }
        answer
    }

    /// Subscribes to these channels, in place of earlier ones.
    pub(super) async fn subscribe(
        &self,
        servers: Option<&[Server]>,
        channels: Channels,
    ) -> Result<Receiver<Delivery>, Error> {
        let heard = self.heard.subscribe();
        *self.channels.lock() = channels.clone();
        channels.subscribe(&self.client(servers)?).await?;
        Ok(heard)
    }

    /// Closes the connection.
    pub(super) async fn quit(&self) {
        let connection = self.current().connection.take();
        if let Some(connection) = connection {
            drop(connection.client.quit().await);
        }
    }
}

/// Forwards messages of a connection, and subscribes again after each reconnect.
async fn listen(client: SubscriberClient, channels: Arc<Mutex<Channels>>, heard: Sender<Delivery>) {
    let (mut messages, mut made) = (client.message_rx(), client.reconnect_rx());
    loop {
        let message = tokio::select! {
            made = made.recv() => {
                if matches!(made, Err(RecvError::Closed)) {
                    return;
                }
                let channels = channels.lock().clone();
                while let Err(error) = channels.subscribe(&client).await {
                    tracing::debug!(%error, "channels of redis are subscribed to again later");
                    tokio::time::sleep(ANSWER).await;
                }
                Delivery::Gap
            }
            message = messages.recv() => match message {
                Ok(message) => Delivery::Message(message),
                Err(RecvError::Lagged(_)) => Delivery::Gap,
                Err(RecvError::Closed) => return,
            },
        };
        // Fails while nobody is subscribed.
        let _ = heard.send(message);
    }
}
