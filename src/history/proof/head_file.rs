//! The head file: what the gateway signed last. It is kept beside the signing key, with the key's permissions, and apart
//! from the history. An attacker who can write to the history but not to this folder cannot make the gateway sign records
//! that it did not write: records up to the head in this file have the digests that it leads to, and each later one has a
//! seal, which takes the key.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::hash_chain::Tip;
use super::signature::Head;
use super::statement::Statement;
use crate::settings::{key_file, private};

/// The content of the head file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::history) struct SignedState {
    /// Incremented with each change, so that a process notices the change of another one.
    pub(in crate::history) serial: u64,
    /// The last signed head; `None` before the first one.
    pub(in crate::history) head: Option<Head>,
    /// Records up to this one may be deleted, or are not vouched for; `None` if the chain is complete from record 1.
    pub(in crate::history) base: Option<Statement>,
    /// Every key hand-over and acceptance, in order; exports include them.
    pub(in crate::history) marks: Vec<Statement>,
    /// The public keys that were in use before the current one.
    pub(in crate::history) former_keys: Vec<String>,
    /// Until then an older version of the program, which neither signs what it deletes nor seals records, may still write
    /// (during an upgrade); `None` if there is none.
    pub(in crate::history) older_until: Option<Timestamp>,
    /// True once a version that seals records has used the history.
    pub(in crate::history) is_sealed: bool,
    /// Evidence of tampering that was neither repaired nor accepted since.
    pub(in crate::history) breach: Option<Breach>,
}

/// Why the history does not continue from what was signed. It ends once the file contains the right records again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::history) struct Breach {
    /// What is wrong: a sentence.
    pub(in crate::history) what: String,
    /// The number and digest of the last trusted record before it, and the number of the record at which it was found;
    /// `None` if every check covers it anyway.
    pub(in crate::history) range: Option<(u64, String, u64)>,
    /// The number and digest of a record that must be in the file; `None` if no particular one is missing.
    pub(in crate::history) expects: Option<(u64, String)>,
    /// Only an operator can end it, since the last signature is unknown.
    pub(in crate::history) is_lasting: bool,
}

impl Breach {
    /// A breach that every check finds again.
    pub(in crate::history) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), range: None, expects: None, is_lasting: false }
    }

    /// A breach at record `at`, after the trusted position `sure`.
    pub(in crate::history) fn between(what: String, sure: &Tip, at: u64) -> Self {
        Self { range: Some((sure.seq, sure.hash.clone(), at)), ..Self::new(what) }
    }

    /// A record that the gateway wrote is missing.
    pub(in crate::history) fn missing(what: String, tip: &Tip) -> Self {
        Self { expects: Some((tip.seq, tip.hash.clone())), ..Self::new(what) }
    }

    /// The last signature is unknown.
    pub(in crate::history) fn lasting(what: String) -> Self {
        Self { is_lasting: true, ..Self::new(what) }
    }
}

impl SignedState {
    /// The position after which records are vouched for.
    pub(in crate::history) fn base(&self) -> Tip {
        self.base.as_ref().map(Statement::tip).unwrap_or_default()
    }

    /// Returns true while an older version of the program may still write.
    pub(in crate::history) fn may_be_older(&self) -> bool {
        self.older_until.is_some_and(|until| Timestamp::now() < until)
    }

    /// The position of the last signed head; before the first record if there is none.
    pub(in crate::history) fn head(&self) -> Tip {
        self.head.as_ref().map(Head::tip).unwrap_or_default()
    }
}

/// Identifies a version of the head file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::history) struct FileStamp {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

/// The head file of one history.
#[derive(Debug)]
pub(in crate::history) struct HeadFile {
    folder: PathBuf,
    name: String,
}

impl HeadFile {
    /// The head file of `history` in `folder`. Removes the permissions of other users.
    pub(in crate::history) fn new(folder: &Path, history: &Path) -> Self {
        let name = history.file_name().unwrap_or_default().to_string_lossy();
        let file = Self { folder: folder.to_owned(), name: format!("cdr-head-{name}.json") };
        private::narrow(&file.path());
        file
    }

    /// The folder, which also contains the signing key.
    pub(in crate::history) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of the file.
    pub(in crate::history) fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// Identifies the current version; `None` if the file does not exist.
    pub(in crate::history) fn stamp(&self) -> Option<FileStamp> {
        let found = std::fs::metadata(self.path()).ok()?;
        Some(FileStamp {
            device: found.dev(),
            inode: found.ino(),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }

    /// Reads the file; `None` if it does not exist.
    ///
    /// # Errors
    /// A sentence: it cannot be read, or a signature in it is invalid.
    pub(in crate::history) fn load(&self) -> Result<Option<SignedState>, String> {
        let text = match std::fs::read(self.path()) {
            Ok(text) => text,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(fault) => return Err(format!("{} cannot be read: {fault}", self.path().display())),
        };
        let state: SignedState = serde_json::from_slice(&text)
            .map_err(|fault| format!("{} cannot be read: {fault}", self.path().display()))?;
        let is_genuine = state.head.iter().all(Head::is_genuine)
            && state.base.iter().chain(&state.marks).all(Statement::is_genuine);
        match is_genuine {
            true => Ok(Some(state)),
            false => Err(format!("a signature in {} is invalid", self.path().display())),
        }
    }

    /// Replaces the file atomically, with access for its owner only, and synced to disk.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(in crate::history) fn store(&self, state: &SignedState) -> io::Result<()> {
        key_file::replace(&self.folder, &self.name, &serde_json::to_vec_pretty(state)?)
    }
}
