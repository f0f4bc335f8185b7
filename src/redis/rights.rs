//! Checks at startup whether the user has the rights that ELIDA needs, because the errors of scripts do not name a
//! missing right.

use super::call::Script;
use super::connect::{Link, LinkError};
use super::keys::Keys;
use crate::ids::{Scope, SessionId, SessionKey, Uid};

/// Runs commands and returns those that the user may not run.
const CHECK: &str = include_str!("check_rights.lua");

/// Every command that is sent or used in a script, on a scratch key. For `PUBLISH`, a message is sent that no
/// instance interprets.
const COMMANDS: &[&str] = &[
    "DEL KEY",
    "HSET KEY f v",
    "PEXPIRE KEY 5000",
    "HSETNX KEY f v",
    "HGET KEY f",
    "HGETALL KEY",
    "HKEYS KEY",
    "HLEN KEY",
    "HSTRLEN KEY f",
    "HEXISTS KEY f",
    "HDEL KEY f",
    "TYPE KEY",
    "EXISTS KEY",
    "TIME",
    "PERSIST KEY",
    "PTTL KEY",
    "SET KEY v PX 5000",
    "GET KEY",
    "STRLEN KEY",
    "DEL KEY",
    "SADD KEY m",
    "SREM KEY m",
    "SSCAN KEY 0",
    "ZADD KEY 0 m",
    "ZREM KEY m",
    "ZRANGEBYSCORE KEY 0 1",
    "ZRANGEBYLEX KEY - +",
    "ZREVRANGEBYLEX KEY + -",
    "DEL KEY",
];

/// A read and a write that change nothing, whatever the key holds.
const TOUCH: [&str; 2] = ["TYPE KEY", "HDEL KEY elida-rights"];

/// Prefix of the error for a missing right.
const NOPERM: &str = "NOPERM";

/// The check of one user.
struct Check<'a> {
    link: &'a Link,
    script: Script,
    /// Commands, keys and channels that the user lacks.
    lacks: Vec<String>,
}

impl Check<'_> {
    /// Runs commands on a key and returns those that the user may not run.
    async fn run(&self, key: String, commands: Vec<String>) -> Result<Vec<String>, LinkError> {
        match self.link.run(&self.script, vec![key], commands).await {
            Err(LinkError::Away(why)) if why.contains(NOPERM) => {
                Err(LinkError::Away(format!("of its user '{}': {why}", self.link.user())))
            }
            done => done,
        }
    }

    async fn commands(&mut self, scratch: String) -> Result<(), LinkError> {
        let commands = COMMANDS.iter().map(|command| (*command).to_owned()).collect();
        for refused in self.run(scratch, commands).await? {
            let name = refused.split(' ').next().unwrap_or_default().to_ascii_lowercase();
            if !self.lacks.contains(&name) {
                self.lacks.push(name);
            }
        }
        Ok(())
    }

    /// A script does not start if the user may not use its key.
    async fn key(&mut self, key: String, shown: String) -> Result<(), LinkError> {
        let lacks_it = match self.run(key, TOUCH.map(str::to_owned).to_vec()).await {
            Ok(refused) => !refused.is_empty(),
            Err(LinkError::Away(why)) if why.contains(NOPERM) => true,
            Err(other) => return Err(other),
        };
        if lacks_it {
            self.lacks.push(format!("the key {shown}"));
        }
        Ok(())
    }

    async fn channels(&mut self, scratch: String, channels: [String; 4]) -> Result<(), LinkError> {
        let publish = channels.iter().map(|channel| format!("PUBLISH {channel} rights")).collect();
        for refused in self.run(scratch, publish).await? {
            let channel = refused.split(' ').nth(1).unwrap_or_default();
            self.lacks.push(format!("publish on the channel {channel}"));
        }
        Ok(())
    }
}

/// Checks that the user has every right that ELIDA needs.
///
/// # Errors [`LinkError::Away`] names the user and each command, key and channel it lacks, or Redis does not
/// answer.
pub async fn check(link: &Link, keys: &Keys) -> Result<(), LinkError> {
    let mut check = Check { link, script: Script::new(CHECK), lacks: Vec::new() };
    let (session, uid) =
        (SessionKey { scope: Scope::new("SCOPE"), id: SessionId::new("elida-rights") }, Uid::fresh());
    let scratch = keys.incarnation(&session, uid);
    check.commands(scratch.clone()).await?;
    // If these two are missing anyway, keys cannot be checked.
    if check.lacks.iter().all(|name| name != "type" && name != "hdel") {
        let id = session.id.as_str();
        for key in [
            keys.session(&session),
            keys.killed(&session),
            keys.by_id(id),
            keys.ended(id, uid),
            keys.sessions(),
            keys.activity(),
            keys.gone(),
            keys.all_ended(),
            keys.kills(),
            keys.instance("rights"),
            keys.sweeper(),
            keys.principals(),
            keys.agreed(),
            keys.client_keys(),
            keys.people(),
            keys.budget_instances(),
            keys.budget_changes(),
            format!("{}NAME", keys.budget_accounts()),
            format!("{}INSTANCE", keys.budget_holdings()),
            keys.rate_instances(),
            format!("{}NAME", keys.rates()),
            format!("{}INSTANCE", keys.rate_holdings()),
            keys.answer("DIGEST"),
            keys.answers_of_url("DIGEST"),
            keys.answers_of_host("HOST"),
            keys.answer_hosts(),
        ] {
            let shown = key.replace(&uid.to_string(), "UID").replace(id, "ID");
            check.key(key, shown).await?;
        }
    }
    let channels =
        [keys.kill_channel(), keys.end_channel(), keys.event_channel(), keys.announcement_channel()];
    check.channels(scratch, channels).await?;
    if check.lacks.is_empty() {
        return Ok(());
    }
    Err(LinkError::Away(format!(
        "its user '{}' lacks rights: {}; use the ACL rule in docs/operations.md (ACL SETUSER or the ACL file)",
        link.user(),
        check.lacks.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::COMMANDS;

    #[test]
    fn every_command_that_is_used_is_checked_and_no_other() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = vec![sources.join("session/store/redis.rs")];
        for folder in ["redis", "session/store/redis"] {
            let entries = std::fs::read_dir(sources.join(folder)).unwrap();
            files.extend(entries.map(|entry| entry.unwrap().path()));
        }
        let mut used = BTreeSet::new();
        files.retain(|file| !file.ends_with("tests.rs") && !file.ends_with("testing.rs"));
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            for begin in ["redis.call('", "Call::new(\""] {
                let words = text.split(begin).skip(1);
                let name = |rest: &str| rest.split(['\'', '"']).next().unwrap().to_owned();
                used.extend(words.map(name).filter(|name| name.chars().all(|c| c.is_ascii_uppercase())));
            }
        }
        // Checked separately, by their first use, or not needed.
        for elsewhere in ["PUBLISH", "INFO", "X", ""] {
            used.remove(elsewhere);
        }
        let checked: BTreeSet<String> =
            COMMANDS.iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
        assert_eq!(used, checked);
    }
}
