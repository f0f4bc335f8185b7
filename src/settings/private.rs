//! Files and folders that only their owner may access: they hold keys, prompts and the identity of callers.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Permission bits of group and others.
const OTHERS: u32 = 0o077;
/// The sticky bit: in such a folder, for example `/tmp`, users cannot replace files of other users.
const STICKY: u32 = 0o1000;

/// The most files of a folder that are checked.
const MAX_FILES: usize = 1000;

/// Creates the folder and its missing ancestors with access for the owner only. An existing folder is unchanged.
///
/// # Errors
/// The folder cannot be created.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Creates the file with access for the owner only, if it does not exist.
///
/// # Errors
/// The file cannot be created.
pub fn make_file(file: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(file) {
        Err(there) if there.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map(drop),
    }
}

/// Removes the permissions of group and others from the file, if it exists. Logs a warning when they cannot be changed,
/// for example on a file of another user.
pub fn narrow(file: &Path) {
    if is_wide(file)
        && let Err(fault) = fs::set_permissions(file, Permissions::from_mode(0o600))
    {
        let file = file.display();
        tracing::warn!(%file, %fault, "others may read this file, and its rights cannot be changed; run chmod 600");
    }
}

/// Whether group or others have permissions on this file or folder. False if it does not exist, and for a shared folder
/// with the sticky bit.
pub fn is_wide(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| {
        let mode = meta.permissions().mode();
        mode & OTHERS != 0 && !(meta.is_dir() && mode & STICKY != 0)
    })
}

/// Returns the files of this folder that may hold secrets, which excludes public keys and configuration files. Empty for a
/// shared folder, and for one that cannot be read.
fn secret_files(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let is_shared = fs::metadata(folder).is_ok_and(|meta| meta.permissions().mode() & STICKY != 0);
    let entries = fs::read_dir(folder).ok().filter(|_| !is_shared);
    let paths = entries.into_iter().flatten().take(MAX_FILES).flatten().map(|entry| entry.path());
    paths.filter(|path| path.is_file() && !is_open(path))
}

/// Whether group or others have permissions on this folder and it contains files that may hold secrets.
pub fn is_wide_folder(folder: &Path) -> bool {
    is_wide(folder) && secret_files(folder).next().is_some()
}

/// Returns the sorted names of such files in this folder on which group or others have permissions.
pub fn wide_files(folder: &Path) -> Vec<String> {
    let wide = secret_files(folder).filter(|path| is_wide(path));
    let mut names: Vec<String> =
        wide.filter_map(|path| path.file_name().map(|name| name.to_string_lossy().into_owned())).collect();
    names.sort_unstable();
    names
}

/// Whether this is a public key or a configuration file, which refers to secrets in files and variables.
fn is_open(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "pub" || ending == "yaml" || ending == "yml")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn what_is_made_is_for_its_owner_only_and_what_is_wide_is_narrowed() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("a/b");
        make_folder(&folder).unwrap();
        assert_eq!((mode(&folder), mode(folder.parent().unwrap())), (0o700, 0o700));
        let file = folder.join("file");
        make_file(&file).unwrap();
        assert_eq!((mode(&file), is_wide(&file)), (0o600, false));
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        assert!(is_wide(&file));
        fs::write(folder.join("key.pub"), "").unwrap();
        assert_eq!(wide_files(&folder), ["file"]);
        fs::write(&file, "kept").unwrap();
        make_file(&file).unwrap();
        narrow(&file);
        assert_eq!((mode(&file), fs::read_to_string(&file).unwrap().as_str()), (0o600, "kept"));
        narrow(&folder.join("missing"));
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        make_folder(&folder).unwrap();
        assert!(is_wide(&folder) && is_wide_folder(&folder));
        fs::set_permissions(&folder, Permissions::from_mode(0o1777)).unwrap();
        assert!(!is_wide(&folder));
    }
}
