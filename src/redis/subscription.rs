//! The connection on which messages arrive. In a cluster any server hands on what is published at another, so it
//! is made to one of them, and to another one when that is gone.

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

use super::connect::{ANSWER, DEAF};
use super::plan::Plan;

/// Messages that wait for a reader.
const MESSAGES: usize = 1024;

/// What is heard.
#[derive(Clone, Debug)]
pub enum Heard {
    /// A message.
    Message(Message),
    /// Messages may have been missed.
    Gap,
}

/// What to hear: patterns of channels, and channels.
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
    heard: Sender<Heard>,
    channels: Arc<Mutex<Channels>>,
    place: Mutex<Place>,
}

#[derive(Default)]
struct Place {
    ear: Option<Ear>,
    /// Which of the servers of a cluster comes next.
    turn: usize,
}

struct Ear {
    server: Option<Server>,
    client: SubscriberClient,
    listening: JoinHandle<()>,
    since: Instant,
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.listening.abort();
        let client = self.client.clone();
        // Without a runtime its connection has ended already.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { client.quit().await });
        }
    }
}

impl Subscription {
    pub(super) fn new(plan: Plan) -> Self {
        // Instances begin at different servers.
        let place = Mutex::new(Place { ear: None, turn: usize::try_from(std::process::id()).unwrap_or(0) });
        Self { plan, heard: broadcast::channel(MESSAGES).0, channels: Arc::default(), place }
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock()
    }

    /// The connection: to one of these servers of a cluster, or (`None`) to the one that the settings lead to.
    pub(super) fn client(&self, servers: Option<&[Server]>) -> Result<SubscriberClient, Error> {
        let mut place = self.place();
        if let Some(ear) = &place.ear {
            let is_there = match (servers, &ear.server) {
                (Some(servers), Some(server)) => servers.contains(server),
                _ => true,
            };
            if is_there {
                return Ok(ear.client.clone());
            }
        }
        place.ear = None;
        let server = match servers {
            None => None,
            Some([]) => {
                return Err(Error::new(ErrorKind::IO, "no server of the cluster is known"));
            }
            Some(servers) => Some(servers[place.turn % servers.len()].clone()),
        };
        let client = self.plan.subscriber(server.as_ref())?;
        let listening = tokio::spawn(listen(client.clone(), self.channels.clone(), self.heard.clone()));
        drop(client.connect());
        place.ear = Some(Ear { server, client: client.clone(), listening, since: Instant::now() });
        Ok(client)
    }

    /// Whether the connection answers. In a cluster, one that does not is given up for one to another server.
    pub(super) async fn ping(&self, servers: Option<&[Server]>) -> Result<(), Error> {
        let answer = self.client(servers)?.ping::<()>(None).await;
        if answer.is_err() && servers.is_some() {
            let mut place = self.place();
            // A new one has some time.
            if place.ear.as_ref().is_some_and(|ear| ear.since.elapsed() >= DEAF) {
                place.ear = None;
                place.turn = place.turn.wrapping_add(1);
            }
        }
        answer
    }

    /// Hears these channels from now on, and no others.
    pub(super) async fn subscribe(
        &self,
        servers: Option<&[Server]>,
        channels: Channels,
    ) -> Result<Receiver<Heard>, Error> {
        let heard = self.heard.subscribe();
        *self.channels.lock() = channels.clone();
        channels.subscribe(&self.client(servers)?).await?;
        Ok(heard)
    }

    /// Ends the connection.
    pub(super) async fn quit(&self) {
        let ear = self.place().ear.take();
        if let Some(ear) = ear {
            drop(ear.client.quit().await);
        }
    }
}

/// Hands on what a connection hears, and subscribes anew whenever it was made anew.
async fn listen(client: SubscriberClient, channels: Arc<Mutex<Channels>>, heard: Sender<Heard>) {
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
                Heard::Gap
            }
            message = messages.recv() => match message {
                Ok(message) => Heard::Message(message),
                Err(RecvError::Lagged(_)) => Heard::Gap,
                Err(RecvError::Closed) => return,
            },
        };
        // Fails while nobody listens.
        let _ = heard.send(message);
    }
}
