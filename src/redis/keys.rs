//! Names of keys and channels.
//!
//! The name of a session is its id, followed by `@` and its scope if it has one (a scope contains no `@`). In a
//! Redis Cluster the id is enclosed in braces, so that all keys of an id are in one slot and one script can use
//! them. Redis hashes the text between the first `{` and the next `}`, unless it is empty; inside the braces, `}`
//! in an id is therefore written as `%7D`, and `%` as `%25`.

use super::settings::Settings;
use crate::ids::{SessionKey, Uid};

/// Builds names of keys and channels.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: String,
    root: String,
    braces: bool,
}

impl Keys {
    /// Names below the configured prefix.
    pub fn new(settings: &Settings) -> Self {
        Self { prefix: settings.prefix.clone(), root: settings.root.clone(), braces: settings.is_cluster() }
    }

    fn id(&self, id: &str) -> String {
        match self.braces {
            true => format!("{{{}}}", id.replace('%', "%25").replace('}', "%7D")),
            false => id.to_owned(),
        }
    }

    fn name(&self, key: &SessionKey) -> String {
        match key.scope.as_str() {
            "" => self.id(key.id.as_str()),
            scope => format!("{}@{scope}", self.id(key.id.as_str())),
        }
    }

    /// The JSON of a session's newest incarnation.
    pub fn session(&self, key: &SessionKey) -> String {
        format!("{}{}", self.prefix, self.name(key))
    }

    /// The hash of kill orders against a session and its agents.
    pub fn killed(&self, key: &SessionKey) -> String {
        format!("{}killed:{}", self.root, self.name(key))
    }

    /// Prefix of the names of [`Keys::incarnation`] of a session.
    pub fn incarnations(&self, key: &SessionKey) -> String {
        format!("{}incarnation:{}:", self.root, self.name(key))
    }

    /// The hash with the shares of an incarnation.
    pub fn incarnation(&self, key: &SessionKey, uid: Uid) -> String {
        format!("{}{uid}", self.incarnations(key))
    }

    /// The set of incarnations of an id, in all scopes.
    pub fn by_id(&self, id: &str) -> String {
        format!("{}ids:{}", self.root, self.id(id))
    }

    /// The JSON of an ended incarnation.
    pub fn ended(&self, id: &str, uid: Uid) -> String {
        format!("{}ended:{}:{uid}", self.root, self.id(id))
    }

    /// The names of the instances, by their last heartbeat.
    pub fn instances(&self) -> String {
        format!("{}instances", self.root)
    }

    /// The set of active incarnations.
    pub fn sessions(&self) -> String {
        format!("{}sessions", self.root)
    }

    /// The set of active incarnations, by last activity.
    pub fn activity(&self) -> String {
        format!("{}sessions:activity", self.root)
    }

    /// The set of ended incarnations, by the time of their end.
    pub fn gone(&self) -> String {
        format!("{}sessions:gone", self.root)
    }

    /// The set of ended incarnations.
    pub fn all_ended(&self) -> String {
        format!("{}sessions:ended", self.root)
    }

    /// The set of sessions whose kill orders changed, by the time of the change.
    pub fn kills(&self) -> String {
        format!("{}kills", self.root)
    }

    /// The heartbeat of an instance.
    pub fn instance(&self, instance: &str) -> String {
        format!("{}instance:{instance}", self.root)
    }

    /// The name of the instance that looks after dead ones.
    pub fn sweeper(&self) -> String {
        format!("{}sweeper", self.root)
    }

    /// The key that turns credentials into principals.
    pub fn principals(&self) -> String {
        format!("{}principals", self.root)
    }

    /// The hash of client keys.
    pub fn client_keys(&self) -> String {
        format!("{}keys", self.root)
    }

    /// The hash of people's accounts and log-ins.
    pub fn people(&self) -> String {
        format!("{}people", self.root)
    }

    /// The hash of approvals of held calls.
    pub fn approvals(&self) -> String {
        format!("{}approvals", self.root)
    }

    /// Since when the fleet has agreed on [`Keys::principals`]; in the same slot.
    pub fn agreed(&self) -> String {
        format!("{}agreed:{{{}}}", self.root, self.principals())
    }

    /// The hash of the instances that use budgets. All names of budgets are in one slot.
    pub fn budget_instances(&self) -> String {
        format!("{}{{b}}:instances", self.root)
    }

    /// The set of accounts of budgets, by the time of their last change.
    pub fn budget_changes(&self) -> String {
        format!("{}{{b}}:changed", self.root)
    }

    /// Prefix of the accounts of budgets.
    pub fn budget_accounts(&self) -> String {
        format!("{}{{b}}:account:", self.root)
    }

    /// Prefix of the sets of accounts of which an instance holds something.
    pub fn budget_holdings(&self) -> String {
        format!("{}{{b}}:of:", self.root)
    }

    /// The hash of the instances that use rates. All names of rates are in one slot.
    pub fn rate_instances(&self) -> String {
        format!("{}{{r}}:instances", self.root)
    }

    /// Prefix of the rates of limits.
    pub fn rates(&self) -> String {
        format!("{}{{r}}:rate:", self.root)
    }

    /// Prefix of the sets of rates of which an instance was granted something.
    pub fn rate_holdings(&self) -> String {
        format!("{}{{r}}:of:", self.root)
    }

    /// A stored answer, by its digest.
    pub fn answer(&self, id: &str) -> String {
        format!("{}cache:{id}", self.root)
    }

    /// The hash of the stored answers of a URL, by its digest.
    pub fn answers_of_url(&self, id: &str) -> String {
        format!("{}cache:url:{id}", self.root)
    }

    /// The sorted set of the URLs of a host of which answers are stored.
    pub fn answers_of_host(&self, host: &str) -> String {
        format!("{}cache:host:{host}", self.root)
    }

    /// The sorted set of those hosts.
    pub fn answer_hosts(&self) -> String {
        format!("{}cache:hosts", self.root)
    }

    /// The channel for kills and resumes.
    pub fn kill_channel(&self) -> String {
        format!("{}kill", self.root)
    }

    /// The channel for all events.
    pub fn event_channel(&self) -> String {
        format!("{}events", self.root)
    }

    /// The channel for what instances announce.
    pub fn announcement_channel(&self) -> String {
        format!("{}announced", self.root)
    }

    /// The channel for other ends of sessions.
    pub fn end_channel(&self) -> String {
        format!("{}end", self.root)
    }
}

#[cfg(test)]
mod tests {
    use fred::util::redis_keyslot;

    use super::*;
    use crate::ids::{Scope, SessionId};
    use crate::redis::RedisConfig;
    use crate::settings::fault::Faults;

    fn keys(url: &str) -> Keys {
        let written: RedisConfig = serde_yaml::from_str(&format!("url: '{url}'")).unwrap();
        Keys::new(&written.compile(&mut Faults::default()).unwrap())
    }

    #[test]
    fn all_keys_of_an_id_are_in_one_slot_whatever_the_id_is() {
        let (keys, uid) = (keys("redis-cluster://a:1"), Uid::fresh());
        let mut names = std::collections::HashSet::new();
        let ids = ["plain", "}", "}x", "a}b", "{a}b", "{}", "{", "}{", "%7Dx", "%", "a@b", "a b", "{plain}"];
        for id in ids {
            let key = SessionKey { scope: Scope::new("cred:1"), id: SessionId::new(id) };
            let all = [
                keys.session(&key),
                keys.killed(&key),
                keys.incarnation(&key, uid),
                keys.by_id(id),
                keys.ended(id, uid),
            ];
            let slots: std::collections::HashSet<u16> =
                all.iter().map(|name| redis_keyslot(name.as_bytes())).collect();
            assert_eq!(slots.len(), 1, "{all:?}");
            assert!(all.into_iter().all(|name| names.insert(name)), "{id}: another id has the same name");
        }
    }

    #[test]
    fn a_server_that_is_called_cluster_is_none() {
        let (key, plain) = (SessionKey { scope: Scope::new(""), id: SessionId::new("a}%") }, "redis://a:1");
        assert_eq!(keys("redis://my-cluster:6379/0").session(&key), keys(plain).session(&key));
        assert_eq!(keys(plain).session(&key), "elida:session:a}%");
    }
}
