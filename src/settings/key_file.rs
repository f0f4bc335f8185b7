//! A secret that is kept in a folder: whole, readable by its owner only, and the same for all who ask.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::private;

/// The bytes of the file `name` in `folder`; what `fresh` gives is put there when there is none.
///
/// # Errors
/// The folder cannot be written to, or the file cannot be read.
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

/// Puts these bytes in the place of the file `name`.
///
/// # Errors
/// The folder cannot be written to.
pub fn replace(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    std::fs::rename(draft(folder, name, bytes)?, folder.join(name))
}

/// Writes beside the place and links it there, so that nobody ever reads half a key and of two processes that
/// start together both take the same one.
fn make(folder: &Path, name: &str, path: &Path, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let draft = draft(folder, name, bytes)?;
    let placed = std::fs::hard_link(&draft, path);
    std::fs::remove_file(&draft)?;
    match placed {
        Err(taken) if taken.kind() != io::ErrorKind::AlreadyExists => Err(taken),
        _ => read(File::open(path)?),
    }
}

/// A file with these bytes, whole and private, beside its place.
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
