//! What the gateway signed last, kept apart from the history: a file beside the signing key, with the key's rights.
//! Whoever can write to the history but not to this folder cannot make the gateway sign what it did not write.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::chain::Tip;
use super::seal::Head;
use super::statement::Statement;
use crate::settings::{key_file, private};

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Kept {
    /// Grows with each change, so that of two processes the one that comes later is known.
    pub(super) serial: u64,
    /// The last signed head; `None` before the first.
    pub(super) head: Option<Head>,
    /// Records up to this one may be gone, or are not vouched for; `None` when none are.
    pub(super) base: Option<Statement>,
    /// Every hand-over and every acceptance, in order: they go into exports.
    pub(super) marks: Vec<Statement>,
    /// The public keys that signed before the one in use.
    pub(super) former_keys: Vec<String>,
    /// Until then a program that signs no pruning points may still write (SIGQUIT); `None` when there is none.
    pub(super) older_until: Option<Timestamp>,
    /// What was found that does not lead here, and not mended or accepted since.
    pub(super) breach: Option<Breach>,
}

/// Why the history does not lead to what was signed. It is over once the file holds what it should again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Breach {
    /// A sentence.
    pub(super) what: String,
    /// The sure position before it, and the record at which it was found; `None` when each check looks there anyway.
    pub(super) range: Option<(u64, String, u64)>,
    /// The record that must be there; `None` when the rest says it.
    pub(super) expects: Option<(u64, String)>,
    /// Only an operator ends it: what was signed last is not known.
    pub(super) is_lasting: bool,
}

impl Breach {
    /// One that each check finds again by itself.
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), range: None, expects: None, is_lasting: false }
    }

    /// One at the record `at`, behind a position that is sure.
    pub(super) fn between(what: String, sure: &Tip, at: u64) -> Self {
        Self { range: Some((sure.seq, sure.hash.clone(), at)), ..Self::new(what) }
    }

    /// This record, which was known, is not there.
    pub(super) fn without(what: String, tip: &Tip) -> Self {
        Self { expects: Some((tip.seq, tip.hash.clone())), ..Self::new(what) }
    }

    /// What was signed last is not known.
    pub(super) fn unknown(what: String) -> Self {
        Self { is_lasting: true, ..Self::new(what) }
    }
}

impl Kept {
    /// Where the records that are vouched for begin.
    pub(super) fn base(&self) -> Tip {
        self.base.as_ref().map(Statement::tip).unwrap_or_default()
    }

    /// Where the last head was signed; before the first record when there is none.
    pub(super) fn head(&self) -> Tip {
        self.head.as_ref().map(Head::tip).unwrap_or_default()
    }
}

/// Which file it is, and which state of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

/// The file.
#[derive(Debug)]
pub(super) struct HeadFile {
    folder: PathBuf,
    name: String,
}

impl HeadFile {
    /// That of this history, in this folder. Rights that others have on it are taken away.
    pub(super) fn new(folder: &Path, history: &Path) -> Self {
        let name = history.file_name().unwrap_or_default().to_string_lossy();
        let file = Self { folder: folder.to_owned(), name: format!("cdr-head-{name}.json") };
        private::narrow(&file.path());
        file
    }

    /// The folder, in which the signing key lies, too.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its path.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// Which file lies there now; `None` when there is none.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        let found = std::fs::metadata(self.path()).ok()?;
        Some(Stamp { device: found.dev(), inode: found.ino(), changed: (found.ctime(), found.ctime_nsec()) })
    }

    /// Reads it; `None` when there is none.
    ///
    /// # Errors
    /// A sentence when it cannot be read, or was changed.
    pub(super) fn load(&self) -> Result<Option<Kept>, String> {
        let text = match std::fs::read(self.path()) {
            Ok(text) => text,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(fault) => return Err(format!("{} cannot be read: {fault}", self.path().display())),
        };
        let kept: Kept = serde_json::from_slice(&text)
            .map_err(|fault| format!("{} cannot be read: {fault}", self.path().display()))?;
        let is_genuine = kept.head.iter().all(Head::is_genuine)
            && kept.base.iter().chain(&kept.marks).all(Statement::is_genuine);
        match is_genuine {
            true => Ok(Some(kept)),
            false => Err(format!("a signature in {} does not fit", self.path().display())),
        }
    }

    /// Puts this in its place: whole, private, and on the disk when it returns.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub(super) fn store(&self, kept: &Kept) -> io::Result<()> {
        key_file::replace(&self.folder, &self.name, &serde_json::to_vec_pretty(kept)?)?;
        File::open(&self.folder)?.sync_all()
    }
}
