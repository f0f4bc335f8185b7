//! Whether a folder of the configuration can be used.

use std::path::Path;

use rustix::fs::{Access, access};

/// Why nothing can be written to `folder`, in words; `None` when something can. A folder that is not
/// there yet is judged by the nearest one above it that is. Nothing is made.
pub fn why_not_writable(folder: &Path) -> Option<String> {
    let existing = folder.ancestors().find(|above| above.exists()).unwrap_or(Path::new("."));
    // A relative path has the empty one above it: that is where this program runs.
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
