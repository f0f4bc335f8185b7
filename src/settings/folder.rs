//! Checks whether a configured folder is usable.

use std::path::Path;

use rustix::fs::{Access, access};

/// Returns a sentence that says why `folder` is not writable; `None` if it is. For a folder that does not exist yet, checks
/// its nearest existing ancestor. Creates nothing.
pub fn why_not_writable(folder: &Path) -> Option<String> {
    let existing = folder.ancestors().find(|above| above.exists()).unwrap_or(Path::new("."));
    // The last ancestor of a relative path is empty and means the working directory.
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    if !existing.is_dir() {
        return Some(format!("{} is not a folder", existing.display()));
    }
    let error = access(existing, Access::WRITE_OK | Access::EXEC_OK).err()?;
    Some(format!("{}: {}", existing.display(), std::io::Error::from(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_judged_before_it_is_made() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(why_not_writable(folder.path()), None);
        assert_eq!(why_not_writable(&folder.path().join("a/b")), None);
        assert!(!folder.path().join("a").exists());
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let told = why_not_writable(&file.join("below")).unwrap();
        assert_eq!(told, format!("{} is not a folder", file.display()));
        // /proc takes no new files, not even from root.
        assert!(why_not_writable(Path::new("/proc/1/elida")).is_some() || !Path::new("/proc/1").exists());
    }
}
