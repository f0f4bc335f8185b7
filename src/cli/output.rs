//! Output files of commands: a regular file is replaced whole or not at all; anything else is never replaced.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use uuid::Uuid;

/// Writes the output of `fill` to this path. A regular file, also behind a symbolic link, is replaced once everything is
/// written, and keeps its permissions; a device, a pipe or a dangling link is written to directly.
pub(super) fn write_file(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let found = match std::fs::metadata(path) {
        Err(missing) if missing.kind() == ErrorKind::NotFound => None,
        found => Some(found.with_context(cannot)?),
    };
    let place = match &found {
        Some(found) if found.is_file() => Some(path.canonicalize().with_context(cannot)?),
        Some(_) => None,
        None => (!path.is_symlink()).then(|| path.to_owned()),
    };
    let Some(place) = place else {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let mut sink = BufWriter::new(file.with_context(cannot)?);
        fill(&mut sink)?;
        return sink.flush().with_context(cannot);
    };
    let (draft, file) = draft(&place).with_context(cannot)?;
    let written = || -> anyhow::Result<()> {
        if let Some(found) = &found {
            file.set_permissions(found.permissions()).with_context(cannot)?;
        }
        let mut sink = BufWriter::new(&file);
        fill(&mut sink)?;
        sink.flush().and_then(|()| file.sync_all()).with_context(cannot)?;
        std::fs::rename(&draft, &place).with_context(cannot)
    };
    let written = written();
    if written.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(&draft);
    }
    written
}

/// Creates a temporary file beside `place`, under a unique name.
fn draft(place: &Path) -> anyhow::Result<(PathBuf, File)> {
    let Some(name) = place.file_name() else { bail!("this is not a file name") };
    let mut draft = std::ffi::OsString::from(".");
    draft.push(name);
    draft.push(format!(".{}.part", Uuid::new_v4().simple()));
    let draft = place.with_file_name(draft);
    let file = OpenOptions::new().write(true).create_new(true).open(&draft)?;
    Ok((draft, file))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn write(path: &Path, text: &str) -> anyhow::Result<()> {
        write_file(path, |sink| Ok(sink.write_all(text.as_bytes())?))
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_beside_it_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("out.ndjson"), folder.path().join("out.part"));
        std::fs::write(&other, "another's").unwrap();
        write(&file, "one").unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
        write(&file, "two").unwrap();
        let failed = write_file(&file, |sink| {
            sink.write_all(b"half")?;
            bail!("the answer broke off")
        });
        assert_eq!(failed.unwrap_err().to_string(), "the answer broke off");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "two");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "another's");
        assert_eq!(names(folder.path()), ["out.ndjson", "out.part"]);
    }

    #[test]
    fn a_link_stays_a_link_and_a_pipe_a_pipe() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        symlink(&target, &link).unwrap();
        // The first goes to nowhere yet.
        for text in ["one", "two"] {
            write(&link, text).unwrap();
            assert!(link.is_symlink());
            assert_eq!(std::fs::read_to_string(&target).unwrap(), text);
        }
        assert_eq!(names(folder.path()), ["link", "target"]);
        write(Path::new("/dev/null"), "nothing").unwrap();
        assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || std::fs::read_to_string(pipe).unwrap()
        });
        write(&pipe, "through").unwrap();
        assert_eq!(reader.join().unwrap(), "through");
        let fault = write(folder.path(), "x").unwrap_err().to_string();
        assert!(fault.starts_with("cannot write "), "{fault}");
    }
}
