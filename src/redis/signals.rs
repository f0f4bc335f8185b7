//! Messages between instances. A message says where to look; what is true is what the key holds.

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::connect::{Link, LinkError};
use super::keys::Keys;
use super::subscription::Heard;
use crate::ids::{Scope, SessionId, SessionKey, Uid};

/// Which session to look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hint {
    /// Its id.
    pub session_id: SessionId,
    /// Its scope; absent is the empty one.
    #[serde(default = "everybody")]
    pub scope: Scope,
    /// The incarnation, when only one is concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

fn everybody() -> Scope {
    Scope::new("")
}

impl Hint {
    /// A hint at a session, or at one of its incarnations.
    pub fn new(key: &SessionKey, uid: Option<Uid>) -> Self {
        Self { session_id: key.id.clone(), scope: key.scope.clone(), uid: uid.map(|uid| uid.to_string()) }
    }

    /// The session.
    pub fn key(&self) -> SessionKey {
        SessionKey { scope: self.scope.clone(), id: self.session_id.clone() }
    }
}

/// What a message means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The kill orders of this session changed.
    Kills(Hint),
    /// This incarnation ended.
    Ended(Hint),
    /// Something happened at an instance: its name, and the event as it wrote it.
    Event(String, String),
    /// Messages may have been missed: look at everything.
    Everything,
}

/// The messages that arrive.
pub struct Signals {
    heard: Receiver<Heard>,
    kill: String,
    end: String,
    event: String,
}

impl Signals {
    /// Subscribes to `kill*` (both spellings: the bare channel, and one for each session) and `end`.
    ///
    /// # Errors
    /// Redis does not answer.
    pub async fn subscribe(link: &Link, keys: &Keys) -> Result<Self, LinkError> {
        let (kill, end, event) = (keys.kill_channel(), keys.end_channel(), keys.event_channel());
        let heard = link.subscribe(vec![format!("{kill}*")], vec![end.clone(), event.clone()]).await?;
        Ok(Self { heard, kill, end, event })
    }

    /// The next one; waits for ever when the connection is given up.
    pub async fn next(&mut self) -> Signal {
        loop {
            let message = match self.heard.recv().await {
                Ok(Heard::Message(message)) => message,
                Ok(Heard::Gap) | Err(RecvError::Lagged(_)) => return Signal::Everything,
                Err(RecvError::Closed) => std::future::pending().await,
            };
            let text = message.value.as_bytes().unwrap_or_default();
            if *message.channel == *self.event {
                if let Some((instance, event)) =
                    std::str::from_utf8(text).ok().and_then(|text| text.split_once(' '))
                {
                    return Signal::Event(instance.to_owned(), event.to_owned());
                }
                continue;
            }
            if let Some(signal) = read(&self.kill, &self.end, &message.channel, text) {
                return signal;
            }
        }
    }
}

/// What a message on a channel means; nothing when it is not one of ours.
fn read(kill: &str, end: &str, channel: &str, text: &[u8]) -> Option<Signal> {
    let hint = || serde_json::from_slice::<Hint>(text).ok();
    if channel == end {
        return hint().map(Signal::Ended);
    }
    match channel.strip_prefix(kill)? {
        "" => hint().map(Signal::Kills),
        // `elida:kill:{session_id}`, whatever it says.
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
