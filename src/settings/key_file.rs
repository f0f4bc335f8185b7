//! Stores a key in a file: written atomically, readable by its owner only, and the same for all processes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::private;

/// Reads the file `name` in `folder`; creates it with the bytes that `fresh` returns if it does not exist.
///
/// # Errors
/// The folder is not writable, or the file cannot be read.
pub fn load_or_make(
    folder: &Path,
    name: &str,
    fresh: impl FnOnce() -> io::Result<Vec<u8>>,
) -> io::Result<Vec<u8>> {
    let path = folder.join(name);
    match File::open(&path) {
        Ok(file) => {
            private::narrow(&path);
            read(file)
        }
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
            private::make_folder(folder)?;
            make(folder, name, &path, &fresh()?)
        }
        Err(other) => Err(other),
    }
}

/// Replaces the file `name` atomically; the change is on disk when it returns.
///
/// # Errors
/// The folder is not writable.
pub fn replace(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    std::fs::rename(draft(folder, name, bytes)?, folder.join(name))?;
    File::open(folder)?.sync_all()
}

/// Writes a draft and hard-links it to `path`, so that a key is never read half written, and two processes that start
/// at once use the same key.
fn make(folder: &Path, name: &str, path: &Path, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let draft = draft(folder, name, bytes)?;
    let placed = std::fs::hard_link(&draft, path);
    std::fs::remove_file(&draft)?;
    match placed {
        Err(taken) if taken.kind() != io::ErrorKind::AlreadyExists => Err(taken),
        _ => read(File::open(path)?),
    }
}

/// Writes a private file with these bytes beside its final path, and returns its path.
fn draft(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    let draft = folder.join(format!("{name}.{}", Uuid::now_v7().simple()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&draft)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        std::fs::remove_file(&draft)?;
    }
    written.map(|()| draft)
}

fn read(mut file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
