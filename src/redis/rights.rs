//! Whether this user may do what ELIDA does: asked at the start, because inside a script Redis does not name
//! the right that is missing.

use super::call::Script;
use super::connect::{Link, LinkError};
use super::keys::Keys;
use crate::ids::{Scope, SessionId, SessionKey, Uid};

/// KEYS one key. ARGV commands, `KEY` stands for the key. Gives those that this user may not run; nothing else that
/// is wrong with them counts.
const CHECK: &str = r#"
local refused = {}
for _, line in ipairs(ARGV) do
  local words = {}
  for word in string.gmatch(line, '%S+') do words[#words + 1] = word == 'KEY' and KEYS[1] or word end
  local answer = redis.pcall(unpack(words))
  local fault = type(answer) == 'table' and answer.err or ''
  if string.find(fault, 'ACL failure', 1, true) or string.find(fault, 'NOPERM', 1, true)
    or string.find(fault, 'The user executing the script', 1, true) then
    refused[#refused + 1] = line
  end
end
return refused
"#;

/// Every command that is sent or stands in a script, on a key that holds nothing of a session. `PUBLISH` is sent
/// what no instance understands.
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
    "SET KEY v PX 5000",
    "GET KEY",
    "STRLEN KEY",
    "DEL KEY",
    "SADD KEY m",
    "SREM KEY m",
    "SMEMBERS KEY",
    "ZADD KEY 0 m",
    "ZREM KEY m",
    "ZRANGEBYSCORE KEY 0 1",
    "ZRANGEBYLEX KEY - +",
    "ZREVRANGEBYLEX KEY + -",
    "DEL KEY",
];

/// A read and a write that changes nothing, whatever the key holds.
const TOUCH: [&str; 2] = ["TYPE KEY", "HDEL KEY elida-rights"];

/// What an answer begins with when a right is missing.
const NOPERM: &str = "NOPERM";

/// Makes sure that this user has every right that ELIDA needs.
///
/// # Errors
/// [`LinkError::Away`] names the user and each command, key and channel it lacks, or Redis does not answer.
pub async fn check(link: &Link, keys: &Keys) -> Result<(), LinkError> {
    let script = Script::new(CHECK);
    let run = async |key: String, commands: Vec<String>| -> Result<Vec<String>, LinkError> {
        match link.run(&script, vec![key], commands).await {
            Err(LinkError::Away(why)) if why.contains(NOPERM) => {
                Err(LinkError::Away(format!("of its user '{}': {why}", link.user())))
            }
            done => done,
        }
    };
    let session = SessionKey { scope: Scope::new("rights"), id: SessionId::new("elida-rights") };
    let (id, uid) = (session.id.as_str(), Uid::fresh());
    let scratch = keys.incarnation(&session, uid);
    let mut lacks: Vec<String> = Vec::new();
    let commands = COMMANDS.iter().map(|command| (*command).to_owned()).collect();
    for refused in run(scratch, commands).await? {
        let name = refused.split(' ').next().unwrap_or_default().to_ascii_lowercase();
        if !lacks.contains(&name) {
            lacks.push(name);
        }
    }
    // Where these two are missing anyway, a key tells nothing more.
    if lacks.iter().all(|name| name != "type" && name != "hdel") {
        let patterns = [
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
        ];
        for key in patterns {
            let touch = TOUCH.map(str::to_owned).to_vec();
            // A script that is given a key it may not use does not begin.
            let lacks_it = match run(key.clone(), touch).await {
                Ok(refused) => !refused.is_empty(),
                Err(LinkError::Away(why)) if why.contains(NOPERM) => true,
                Err(other) => return Err(other),
            };
            if lacks_it {
                lacks.push(format!("the key {key}"));
            }
        }
    }
    let channels = [keys.kill_channel(), keys.end_channel(), keys.event_channel()];
    let publish = channels.iter().map(|channel| format!("PUBLISH {channel} rights")).collect();
    for refused in run(keys.incarnation(&session, uid), publish).await? {
        let channel = refused.split(' ').nth(1).unwrap_or_default();
        lacks.push(format!("publish on the channel {channel}"));
    }
    if lacks.is_empty() {
        return Ok(());
    }
    Err(LinkError::Away(format!(
        "its user '{}' lacks rights: {}; give it the line of docs/operations.md (ACL SETUSER or the ACL file)",
        link.user(),
        lacks.join(", ")
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
        files.retain(|file| !file.ends_with("tests.rs"));
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            for begin in ["redis.call('", "Call::new(\""] {
                let words = text.split(begin).skip(1);
                let name = |rest: &str| rest.split(['\'', '"']).next().unwrap().to_owned();
                used.extend(words.map(name).filter(|name| name.chars().all(|c| c.is_ascii_uppercase())));
            }
        }
        // Each by its own check, by its first use, or not needed.
        for elsewhere in ["PUBLISH", "INFO", "X", ""] {
            used.remove(elsewhere);
        }
        let checked: BTreeSet<String> =
            COMMANDS.iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
        assert_eq!(used, checked);
    }
}
