//! Applies the messages of other instances. A kill order in a message is carried out at once; what has to be read from
//! the store follows behind, so that no kill waits for it.

use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::mpsc;
use tracing::warn;

use super::client_keys;
use super::order_broadcast::AT_ONCE;
use super::replicator::Replicator;
use crate::ids::{SessionKey, Uid};
use crate::redis::LinkError;
use crate::redis::signals::{Signal, Signals};
use crate::session::core::manager::Manager;
use crate::session::views::kill_order::KillOrder;

/// The most messages whose keys wait to be read. Beyond that everything is read again.
const WAITING: usize = 16_384;
/// Messages whose keys are read at once.
const BATCH: usize = 256;

/// What a message asks to read from the store.
enum Reading {
    /// The orders against a session, and the order in the message if it was carried out.
    Orders(SessionKey, Option<Box<KillOrder>>),
    /// The end of the incarnation that is active here.
    End(SessionKey),
}

/// Applies messages for as long as it is polled.
pub(super) async fn listen(manager: Arc<Manager>, replicator: Arc<Replicator>, messages: Signals) {
    let (readings, waiting) = mpsc::channel(WAITING);
    let (documents, announced) = mpsc::channel(WAITING);
    tokio::spawn(client_keys::learn(manager.clone(), announced));
    let queues = Queues { readings, documents };
    tokio::join!(receive(&manager, &replicator, messages, queues), read(&manager, &replicator, waiting));
}

/// What follows behind.
struct Queues {
    readings: mpsc::Sender<Reading>,
    documents: mpsc::Sender<String>,
}

async fn receive(manager: &Manager, replicator: &Replicator, mut messages: Signals, queues: Queues) {
    loop {
        let reading = match messages.next().await {
            Signal::Kills(hint) => match replicator.carry_out(manager, &hint) {
                Ok(order) => Reading::Orders(hint.key(), order.map(Box::new)),
                Err(_known) => continue,
            },
            Signal::Ended(hint) => Reading::End(hint.key()),
            Signal::Event(instance, event) => {
                if instance != replicator.store.instance() {
                    if let Some(uid) = recorded(&event) {
                        replicator.replay_log().forget_closed(uid);
                    }
                    manager.forward_event(&event);
                }
                continue;
            }
            Signal::Announcement(instance, announcement) => {
                if instance != replicator.store.instance() {
                    match Replicator::announced_client_key(&announcement) {
                        None => replicator.announcements.learn(&announcement),
                        Some(document) if queues.documents.try_send(document.to_owned()).is_ok() => {}
                        Some(_) => replicator.missed_client_keys(),
                    }
                }
                continue;
            }
            Signal::Everything => {
                replicator.missed_messages();
                replicator.announcements.missed();
                continue;
            }
        };
        if queues.readings.try_send(reading).is_err() {
            replicator.missed_messages();
        }
    }
}

async fn read(manager: &Manager, replicator: &Replicator, mut waiting: mpsc::Receiver<Reading>) {
    let mut batch = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        futures::stream::iter(batch.drain(..))
            .for_each_concurrent(AT_ONCE, async |reading| {
                let applied = match reading {
                    Reading::Orders(key, Some(order)) => replicator.confirm_order(manager, key, *order).await,
                    Reading::Orders(key, None) => replicator.reload_orders_of(manager, &[key]).await,
                    Reading::End(key) => replicator.apply_remote_end(manager, &key).await,
                };
                match applied {
                    Ok(()) => {}
                    Err(LinkError::Refused(why)) => warn!(why, "a message points at what cannot be read"),
                    // The next sync finds what was missed.
                    Err(away) => replicator.store_lost(manager, &away),
                }
            })
            .await;
    }
}

/// The incarnation whose record another instance has published, if this event says so.
fn recorded(event: &str) -> Option<Uid> {
    #[derive(serde::Deserialize)]
    struct Ended {
        uid: Uid,
    }
    if !event.starts_with(r#"{"type":"ended""#) {
        return None;
    }
    Some(serde_json::from_str::<Ended>(event).ok()?.uid)
}
