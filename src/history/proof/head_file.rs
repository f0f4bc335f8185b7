//! What the gateway signed last, state apart from the history: a file beside the signing key, with the key's rights.
//! Whoever can write to the history but not to this folder cannot make the gateway sign what it did not write.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::hash_chain::Tip;
use super::signature::Head;
use super::statement::Statement;
use crate::settings::{key_file, private};

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::history) struct SignedState {
    /// Grows with each change, so that of two processes the one that comes later is known.
    pub(in crate::history) serial: u64,
    /// The last signed head; `None` before the first.
    pub(in crate::history) head: Option<Head>,
    /// Records up to this one may be gone, or are not vouched for; `None` when none are.
    pub(in crate::history) base: Option<Statement>,
    /// Every hand-over and every acceptance, in order: they go into exports.
    pub(in crate::history) marks: Vec<Statement>,
    /// The public keys that signed before the one in use.
    pub(in crate::history) former_keys: Vec<String>,
    /// Until then a program that signs no pruning points may still write (SIGQUIT); `None` when there is none.
    pub(in crate::history) older_until: Option<Timestamp>,
    /// What was found that does not lead here, and not mended or accepted since.
    pub(in crate::history) breach: Option<Breach>,
}

/// Why the history does not lead to what was signed. It is over once the file holds what it should again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::history) struct Breach {
    /// A sentence.
    pub(in crate::history) what: String,
    /// The sure position before it, and the record at which it was found; `None` when each check looks there anyway.
    pub(in crate::history) range: Option<(u64, String, u64)>,
    /// The record that must be there; `None` when the rest says it.
    pub(in crate::history) expects: Option<(u64, String)>,
    /// Only an operator ends it: what was signed last is not known.
    pub(in crate::history) is_lasting: bool,
}

impl Breach {
    /// One that each check finds again by itself.
    pub(in crate::history) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), range: None, expects: None, is_lasting: false }
    }

    /// One at the record `at`, behind a position that is sure.
    pub(in crate::history) fn between(what: String, sure: &Tip, at: u64) -> Self {
        Self { range: Some((sure.seq, sure.hash.clone(), at)), ..Self::new(what) }
    }

    /// This record, which was known, is not there.
    pub(in crate::history) fn missing(what: String, tip: &Tip) -> Self {
        Self { expects: Some((tip.seq, tip.hash.clone())), ..Self::new(what) }
    }

    /// What was signed last is not known.
    pub(in crate::history) fn lasting(what: String) -> Self {
        Self { is_lasting: true, ..Self::new(what) }
    }
}

impl SignedState {
    /// Where the records that are vouched for begin.
    pub(in crate::history) fn base(&self) -> Tip {
        self.base.as_ref().map(Statement::tip).unwrap_or_default()
    }

    /// Where the last head was signed; before the first record when there is none.
    pub(in crate::history) fn head(&self) -> Tip {
        self.head.as_ref().map(Head::tip).unwrap_or_default()
    }
}

/// Which file it is, and which state of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::history) struct FileStamp {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

/// The file.
#[derive(Debug)]
pub(in crate::history) struct HeadFile {
    folder: PathBuf,
    name: String,
}

impl HeadFile {
    /// That of this history, in this folder. Rights that others have on it are taken away.
    pub(in crate::history) fn new(folder: &Path, history: &Path) -> Self {
        let name = history.file_name().unwrap_or_default().to_string_lossy();
        let file = Self { folder: folder.to_owned(), name: format!("cdr-head-{name}.json") };
        private::narrow(&file.path());
        file
    }

    /// The folder, in which the signing key lies, too.
    pub(in crate::history) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its path.
    pub(in crate::history) fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// Which file lies there now; `None` when there is none.
    pub(in crate::history) fn stamp(&self) -> Option<FileStamp> {
        let found = std::fs::metadata(self.path()).ok()?;
        Some(FileStamp {
            device: found.dev(),
            inode: found.ino(),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }

    /// Reads it; `None` when there is none.
    ///
    /// # Errors
    /// A sentence when it cannot be read, or was changed.
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
            false => Err(format!("a signature in {} does not fit", self.path().display())),
        }
    }

    /// Puts this in its place: whole, private, and on the disk when it returns.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub(in crate::history) fn store(&self, state: &SignedState) -> io::Result<()> {
        key_file::replace(&self.folder, &self.name, &serde_json::to_vec_pretty(state)?)?;
        File::open(&self.folder)?.sync_all()
    }
}
