//! Tickets: for the URL of a stream, where a program cannot send a header field. A ticket is valid for a short time, once, and for one
//! path, so that a URL in a log or a history is of no use.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::identity::key_text::{self, KeyDigest};
use crate::settings::secret::Secret;

/// How long a ticket is valid.
pub const VALID: Duration = Duration::from_secs(30);
/// Most tickets that are valid at the same time.
const MAX: usize = 10_000;
/// Most of them for one operator, so that nobody takes those of the others.
const MAX_OWN: usize = 100;

/// The tickets of this process.
#[derive(Default)]
pub struct Tickets(Mutex<HashMap<KeyDigest, Ticket>>);

/// The credential and the path for which a ticket was issued.
struct Ticket {
    path: String,
    /// The principal of the one who asked for it.
    operator: String,
    /// The credential of the one who asked for it. It is looked up again when the ticket is used.
    credential: Arc<[u8]>,
    until: Instant,
}

impl Tickets {
    /// Makes a ticket of an operator for this path; `None` while there are too many.
    ///
    /// # Errors
    /// The operating system has no random numbers.
    pub fn issue(
        &self,
        path: String,
        operator: &str,
        credential: Arc<[u8]>,
        prefix: &str,
    ) -> io::Result<Option<Secret>> {
        let text = key_text::generate(prefix)?;
        let now = Instant::now();
        let mut tickets = self.0.lock();
        let own = |tickets: &HashMap<_, Ticket>| {
            tickets.values().filter(|ticket| ticket.operator == operator).count()
        };
        if own(&tickets) >= MAX_OWN || tickets.len() >= MAX {
            tickets.retain(|_, ticket| now < ticket.until);
        }
        if own(&tickets) >= MAX_OWN || tickets.len() >= MAX {
            return Ok(None);
        }
        let ticket = Ticket { path, operator: operator.to_owned(), credential, until: now + VALID };
        tickets.insert(KeyDigest::of(text.reveal().as_bytes()), ticket);
        Ok(Some(text))
    }

    /// Redeems a ticket and returns the credential of its owner. The ticket is invalid afterwards, even if the path is wrong.
    pub fn take(&self, text: &str, path: &str) -> Option<Arc<[u8]>> {
        let ticket = self.0.lock().remove(&KeyDigest::of(text.as_bytes()))?;
        (Instant::now() < ticket.until && ticket.path == path).then_some(ticket.credential)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_used_once_and_for_its_path() {
        let tickets = Tickets::default();
        let of = |operator: &str| {
            tickets.issue("/control/events".into(), operator, b"key".as_slice().into(), "elida_").unwrap()
        };
        let issue = || of("user:ada@elida").unwrap();
        let one = issue();
        assert_eq!(tickets.take(one.reveal(), "/control/events").as_deref(), Some(b"key".as_slice()));
        assert!(tickets.take(one.reveal(), "/control/events").is_none(), "a second use");
        let other = issue();
        assert!(tickets.take(other.reveal(), "/control/sessions").is_none(), "another path");
        assert!(tickets.take(other.reveal(), "/control/events").is_none(), "used up");
        let old = issue();
        tickets.0.lock().values_mut().for_each(|ticket| ticket.until = Instant::now());
        assert!(tickets.take(old.reveal(), "/control/events").is_none(), "too late");
        for _ in 0..MAX_OWN {
            issue();
        }
        assert!(of("user:ada@elida").is_none(), "too many of one operator");
        for other in MAX_OWN..MAX {
            assert!(of(&(other / MAX_OWN).to_string()).is_some());
        }
        assert!(of("user:eve@elida").is_none(), "too many");
        tickets.0.lock().values_mut().for_each(|ticket| ticket.until = Instant::now());
        assert!(of("user:ada@elida").is_some(), "they are over");
    }
}
