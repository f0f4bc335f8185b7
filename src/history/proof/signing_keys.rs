//! Which keys may sign an export: those that the auditor gives, and those connected to them by hand-overs.

use super::statement::Statement;

/// The keys of an export, collected while it is read.
#[derive(Debug, Default)]
pub(in crate::history) struct SigningKeys {
    given: Vec<String>,
    /// Each key that signed, with the number of the first record that it signed.
    used: Vec<(String, u64)>,
    /// The previous key, the new key, and whether the previous one countersigned.
    handovers: Vec<(String, String, bool)>,
}

impl SigningKeys {
    /// Creates the set from the keys that the auditor gives. If empty, the first key in the file is trusted.
    pub(in crate::history) fn new(given: &[String]) -> Self {
        Self { given: given.to_vec(), ..Self::default() }
    }

    /// Adds a signature of `key` for record `seq`.
    pub(in crate::history) fn add_signature(&mut self, key: &str, seq: u64) {
        match self.used.last() {
            Some((last, _)) if last == key => {}
            _ => self.used.push((key.to_owned(), seq)),
        }
    }

    /// Adds a genuine hand-over.
    pub(in crate::history) fn add_handover(&mut self, said: &Statement) {
        if let Some(former) = &said.former_key {
            self.handovers.push((former.clone(), said.key.clone(), said.former_signature.is_some()));
        }
    }

    /// Checks that `key` may sign.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub(in crate::history) fn check_allowed(&self, key: &str) -> Result<(), String> {
        match self.allowed().iter().any(|allowed| allowed == key) {
            true => Ok(()),
            false => Err(format!("the given head is signed with another key: {key}")),
        }
    }

    /// Returns all keys that signed, in order.
    ///
    /// # Errors
    /// A sentence that names a key that was neither given nor announced.
    pub(in crate::history) fn finish(self) -> Result<Vec<String>, String> {
        let allowed = self.allowed();
        if let Some((key, seq)) = self.used.iter().find(|(key, _)| !allowed.contains(key)) {
            return Err(format!(
                "what was signed for record {seq} is signed with another key: {key}; if it is the gateway's, give it \
                 with one more --key"
            ));
        }
        let mut keys: Vec<String> = Vec::new();
        for (key, _) in self.used {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        Ok(keys)
    }

    /// A previous key is trusted because its successor has signed the chain that it signed. A successor is trusted only if
    /// the previous key countersigned, or if no key was given and the file is checked for consistency only.
    fn allowed(&self) -> Vec<String> {
        let mut allowed = self.given.clone();
        let is_open = allowed.is_empty();
        if is_open {
            allowed.extend(self.used.first().map(|(key, _)| key.clone()));
        }
        let mut count = 0;
        while count < allowed.len() {
            count = allowed.len();
            for (former, key, is_announced) in &self.handovers {
                let has = |key: &String| allowed.contains(key);
                match (has(former), has(key)) {
                    (true, false) if *is_announced || is_open => allowed.push(key.clone()),
                    (false, true) => allowed.push(former.clone()),
                    _ => {}
                }
            }
        }
        allowed
    }
}
