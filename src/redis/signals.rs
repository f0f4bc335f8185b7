//! Messages between instances. A message says where to look; the key is the source of truth. Only a kill order is
//! also contained in its message, so that it takes effect even if Redis takes no writes.

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::connect::{Link, LinkError};
use super::keys::Keys;
use super::subscription::Delivery;
use crate::ids::{Scope, SessionId, SessionKey, Uid};

/// The session that a message is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// Its id.
    pub session_id: SessionId,
    /// Its scope; absent means the empty scope.
    #[serde(default = "everybody")]
    pub scope: Scope,
    /// The incarnation, if the message is about only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The kill order in the form of its key; it takes effect even if it cannot be written there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<serde_json::Value>,
}

fn everybody() -> Scope {
    Scope::new("")
}

impl Hint {
    /// A message about a session, or about one of its incarnations.
    pub fn new(key: &SessionKey, uid: Option<Uid>) -> Self {
        Self {
            session_id: key.id.clone(),
            scope: key.scope.clone(),
            uid: uid.map(|uid| uid.to_string()),
            order: None,
        }
    }

    /// The session.
    pub fn key(&self) -> SessionKey {
        SessionKey { scope: self.scope.clone(), id: self.session_id.clone() }
    }
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The kill orders of this session changed; the message may contain the order.
    Kills(Hint),
    /// This incarnation ended.
    Ended(Hint),
    /// An event of an instance: its name, and the JSON of the event.
    Event(String, String),
    /// What an instance announces: its name, and the announcement.
    Announcement(String, String),
    /// Messages may have been missed: everything must be read again.
    Everything,
}

/// Incoming messages.
pub struct Signals {
    heard: Receiver<Delivery>,
    kill: String,
    end: String,
    event: String,
    announcement: String,
}

impl Signals {
    /// Subscribes to `kill*` (the bare channel, and one channel for each session), `end`, `events` and `announced`.
    ///
    /// # Errors Redis does not answer.
    pub async fn subscribe(link: &Link, keys: &Keys) -> Result<Self, LinkError> {
        let (kill, end, event) = (keys.kill_channel(), keys.end_channel(), keys.event_channel());
        let announcement = keys.announcement_channel();
        let names = vec![end.clone(), event.clone(), announcement.clone()];
        let heard = link.subscribe(vec![format!("{kill}*")], names).await?;
        Ok(Self { heard, kill, end, event, announcement })
    }

    /// The next message; never returns when the subscription has ended.
    pub async fn next(&mut self) -> Signal {
        loop {
            let message = match self.heard.recv().await {
                Ok(Delivery::Message(message)) => message,
                Ok(Delivery::Gap) | Err(RecvError::Lagged(_)) => return Signal::Everything,
                Err(RecvError::Closed) => std::future::pending().await,
            };
            let text = message.value.as_bytes().unwrap_or_default();
            let is_event = *message.channel == *self.event;
            if is_event || *message.channel == *self.announcement {
                let text = std::str::from_utf8(text).ok();
                if let Some((instance, text)) = text.and_then(|text| text.split_once(' ')) {
                    let signal = if is_event { Signal::Event } else { Signal::Announcement };
                    return signal(instance.to_owned(), text.to_owned());
                }
                continue;
            }
            if let Some(signal) = read(&self.kill, &self.end, &message.channel, text) {
                return signal;
            }
        }
    }
}

/// Parses a message on a channel; `None` if it is not a message of ELIDA.
fn read(kill: &str, end: &str, channel: &str, text: &[u8]) -> Option<Signal> {
    let hint = || serde_json::from_slice::<Hint>(text).ok();
    if channel == end {
        return hint().map(Signal::Ended);
    }
    match channel.strip_prefix(kill)? {
        "" => hint().map(Signal::Kills),
        // `elida:kill:{session_id}`, whatever the message says.
        name => {
            let name = name.strip_prefix(':')?;
            let (id, scope) = name.rsplit_once('@').unwrap_or((name, ""));
            let key = SessionKey { scope: Scope::new(scope), id: SessionId::new(id) };
            Some(Signal::Kills(Hint::new(&key, None)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_version_reads_a_message_with_an_order_and_the_other_way_round() {
        #[derive(Deserialize)]
        struct Older {
            session_id: String,
            #[serde(default)]
            scope: String,
        }
        let key = SessionKey { scope: Scope::new("cred:1"), id: SessionId::new("a") };
        let order = serde_json::json!({"v": 1, "rev": 7, "order": {}});
        let hint = Hint { order: Some(order), ..Hint::new(&key, None) };
        let text = serde_json::to_string(&hint).unwrap();
        let Older { session_id, scope } = serde_json::from_str(&text).unwrap();
        assert_eq!((session_id.as_str(), scope.as_str()), ("a", "cred:1"));
        assert_eq!(serde_json::from_str::<Hint>(&text).unwrap(), hint);
        let older = r#"{"session_id":"a","scope":"cred:1"}"#;
        assert_eq!(serde_json::from_str::<Hint>(older).unwrap(), Hint::new(&key, None));
    }

    #[test]
    fn both_spellings_of_a_kill_and_no_junk() {
        let look = |channel: &str, text: &str| read("elida:kill", "elida:end", channel, text.as_bytes());
        let key = SessionKey { scope: Scope::new("cred:1"), id: SessionId::new("a:b") };
        let json = serde_json::to_string(&Hint::new(&key, None)).unwrap();
        assert_eq!(look("elida:kill", &json), Some(Signal::Kills(Hint::new(&key, None))));
        assert_eq!(look("elida:kill:a:b@cred:1", "x"), Some(Signal::Kills(Hint::new(&key, None))));
        let bare = SessionKey { scope: Scope::new(""), id: SessionId::new("a") };
        assert_eq!(look("elida:kill:a", ""), Some(Signal::Kills(Hint::new(&bare, None))));
        assert_eq!(look("elida:kill", r#"{"session_id":"a"}"#), Some(Signal::Kills(Hint::new(&bare, None))));
        assert_eq!(look("elida:kill", "junk"), None);
        assert_eq!(look("elida:killer", "x"), None);
        assert!(matches!(look("elida:end", &json), Some(Signal::Ended(_))));
    }
}
