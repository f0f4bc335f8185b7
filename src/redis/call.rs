//! Commands and scripts, and what the sender has to do after an answer.

use std::time::Duration;

use bytes::Bytes;
use fred::prelude::*;
use fred::types::config::Server;
use fred::types::{ClusterHash, CustomCommand};
use fred::util::redis_keyslot;

/// A Lua script, which Redis runs atomically.
#[derive(Debug)]
pub struct Script {
    text: &'static str,
    hash: String,
}

impl Script {
    /// A script, with the digest by which it is called.
    pub fn new(text: &'static str) -> Self {
        Self { text, hash: fred::util::sha1_hash(text) }
    }
}

/// A command.
#[derive(Debug)]
pub struct Call {
    name: &'static str,
    arguments: Vec<Value>,
    /// The index of the argument whose slot decides which server of a cluster receives the command.
    key: usize,
    /// The text of a script that is called by its digest.
    text: Option<&'static str>,
}

impl Call {
    /// A command whose first argument is its key.
    pub fn new(name: &'static str, arguments: impl IntoIterator<Item = String>) -> Self {
        Self { name, arguments: arguments.into_iter().map(Value::from).collect(), key: 0, text: None }
    }

    /// Stores bytes under a key for some time.
    pub fn set(key: String, value: Bytes, kept: Duration) -> Self {
        let kept = kept.as_millis().max(1).to_string();
        let arguments = vec![key.into(), Value::Bytes(value), "PX".into(), kept.into()];
        Self { arguments, ..Self::new("SET", []) }
    }

    /// A call of a script; a server that does not know it receives its text.
    pub fn script(script: &Script, keys: Vec<String>, arguments: Vec<String>) -> Self {
        // The digest and the number of keys precede the first key.
        let before = [script.hash.clone(), keys.len().to_string()];
        let all = before.into_iter().chain(keys).chain(arguments);
        Self { key: 2, text: Some(script.text), ..Self::new("EVALSHA", all) }
    }

    /// The slot of the first key, out of the 16,384 slots of a cluster.
    pub(super) fn slot(&self) -> u16 {
        self.arguments.get(self.key).and_then(Value::as_bytes).map_or(0, redis_keyslot)
    }

    /// Sends the text of the script instead of its digest.
    pub(super) fn use_text(&mut self) {
        if let Some(text) = self.text.take() {
            self.name = "EVAL";
            if let Some(first) = self.arguments.first_mut() {
                *first = Value::from_static_str(text);
            }
        }
    }

    /// The command in the form of the client crate. Sending a command again does not copy its arguments.
    pub(super) fn command(&self) -> (CustomCommand, Vec<Value>) {
        (command(self.name), self.arguments.clone())
    }
}

/// A command without arguments. The server is chosen here, so the client need not hash anything.
pub(super) fn command(name: &'static str) -> CustomCommand {
    CustomCommand::new_static(name, ClusterHash::Random, false)
}

/// What the sender has to do after an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextStep {
    /// Nothing: the answer is final.
    Done,
    /// Send to this server, which owns the slot now.
    Moved(Server),
    /// Send to this server with `ASKING`: the slot is being moved there, and the key has been.
    Ask(Server),
    /// Send again soon: the keys of the slot are on two servers at the moment.
    Wait,
    /// Send the text of the script, which the server does not know.
    SendText,
}

impl NextStep {
    /// Interprets an answer; `asked` is the server of a cluster that gave it.
    pub(super) fn of(answer: &Result<Value, Error>, call: &Call, asked: Option<&Server>) -> Self {
        let Err(error) = answer else { return Self::Done };
        let told = error.details();
        let mut words = told.split(' ');
        match (words.next(), asked) {
            (Some("NOSCRIPT"), _) if call.text.is_some() => Self::SendText,
            (Some("MOVED"), Some(asked)) => other(words.nth(1), asked).map_or(Self::Done, Self::Moved),
            (Some("ASK"), Some(asked)) => other(words.nth(1), asked).map_or(Self::Done, Self::Ask),
            (Some("TRYAGAIN"), Some(_)) => Self::Wait,
            (_, Some(_)) if is_between_servers(told) => Self::Wait,
            _ => Self::Done,
        }
    }
}

/// True if a script used a key that has been moved before the others of its slot.
pub(super) fn is_between_servers(told: &str) -> bool {
    told.contains("access a non local key")
}

/// Parses `HOST:PORT`; an empty host means the server that answered.
fn other(address: Option<&str>, asked: &Server) -> Option<Server> {
    let (host, port) = address?.rsplit_once(':')?;
    let host = if host.is_empty() { asked.host.to_string() } else { host.to_owned() };
    Some(Server::new(host, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(told: &str, call: &Call) -> NextStep {
        let answer = Err(Error::new(ErrorKind::Unknown, told.to_owned()));
        NextStep::of(&answer, call, Some(&Server::new("here", 1)))
    }

    #[test]
    fn a_script_is_routed_by_its_first_key_and_not_by_its_digest() {
        let script = Script::new("return 1");
        for key in ["elida:session:{a}@x", "elida:sessions", "{b}"] {
            let call = Call::script(&script, vec![key.to_owned(), "other".to_owned()], vec!["1".to_owned()]);
            assert_eq!(call.slot(), redis_keyslot(key.as_bytes()), "{key}");
            assert_eq!(call.slot(), Call::new("GET", [key.to_owned()]).slot(), "{key}");
        }
    }

    #[test]
    fn answers_say_where_to_go() {
        let (call, script) = (Call::new("GET", ["a".to_owned()]), Script::new("return 1"));
        let to = |host: &str| Server::new(host.to_owned(), 6381);
        assert_eq!(next("MOVED 3999 127.0.0.1:6381", &call), NextStep::Moved(to("127.0.0.1")));
        assert_eq!(next("ASK 3999 ::1:6381", &call), NextStep::Ask(to("::1")));
        assert_eq!(next("MOVED 3999 :6381", &call), NextStep::Moved(to("here")));
        assert_eq!(next("MOVED", &call), NextStep::Done);
        assert_eq!(next("TRYAGAIN Multiple keys request during rehashing of slot", &call), NextStep::Wait);
        assert_eq!(
            next("ERR Script attempted to access a non local key in a cluster node", &call),
            NextStep::Wait
        );
        assert_eq!(next("WRONGTYPE Operation against a key", &call), NextStep::Done);
        let mut scripted = Call::script(&script, vec!["a".to_owned()], Vec::new());
        assert_eq!(next("NOSCRIPT No matching script.", &scripted), NextStep::SendText);
        let slot = scripted.slot();
        scripted.use_text();
        assert_eq!((scripted.name, scripted.slot()), ("EVAL", slot));
        assert_eq!(next("NOSCRIPT No matching script.", &scripted), NextStep::Done);
        let moved = Err(Error::new(ErrorKind::Cluster, "MOVED 3999 127.0.0.1:6381"));
        assert_eq!(
            NextStep::of(&moved, &call, None),
            NextStep::Done,
            "without a cluster there is nowhere to go"
        );
    }
}
