//! Several instances that share sessions and kill orders through Redis (docs/adr/0014).
//!
//! Each instance writes its share of a session under its own field, as sums since it joined, so that a write that
//! arrives twice or late changes nothing. A script in the store opens or joins a session. A session that is active
//! here is joined without asking the store: changes made by other instances arrive as messages and are read again
//! after every gap. While the store is unavailable this instance continues alone and writes its changes later.
//!
//! * [`sync_loop`] runs everything: health, pending work; [`listener`] applies messages.
//! * [`orders`] applies kill orders from the store, [`order_broadcast`] sends them, [`comparison`] finds orders that
//!   the store has lost, [`name_resolution`] resolves names that were killed while the store was unavailable.
//! * [`shares`] closes shares, [`share_writer`] decides when shares are written, [`ends`] writes ends,
//!   [`orphans`] closes shares of dead instances, [`replay_log`] keeps what a promoted replica may lack.
//! * [`client_keys`] exchanges the keys of clients.
//! * [`event_publisher`] publishes events, [`announcements`] what the proxy announces, [`store_health`] reports problems of the store.

mod announcements;
mod client_keys;
mod comparison;
mod core_interface;
mod ends;
mod event_publisher;
mod event_queue;
mod listener;
mod name_resolution;
mod order_broadcast;
mod orders;
mod orphans;
mod pending_orders;
mod principals_key;
mod replay_log;
mod replicator;
mod share_schedule;
mod share_writer;
mod shares;
mod store_health;
mod sync_loop;
#[cfg(test)]
mod tests;

pub use announcements::{Announcer, REPEAT};
pub use replicator::Replicator;
pub use store_health::OwnKey;
pub use sync_loop::serve;
