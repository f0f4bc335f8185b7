//! Checks listen addresses and folders before the start.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::history;
use crate::settings::fault::Faults;
use crate::settings::folder::why_not_writable;
use crate::settings::private;

/// First bytes of every SQLite file (<https://www.sqlite.org/fileformat2.html>).
const SQLITE: &[u8] = b"SQLite format 3\0";

/// The proxy and the control API cannot share a port.
pub(super) fn check_ports(proxy: Option<SocketAddr>, control: Option<SocketAddr>, faults: &mut Faults) {
    let (Some(proxy), Some(control)) = (proxy, control) else { return };
    if overlaps(proxy, control) {
        faults.add(
            "control.listen",
            format!("{control} is taken by the proxy, which listens on {proxy}"),
            "choose another port for one of the two",
        );
    }
}

/// True if only one of the two addresses can be bound (each port 0 is a different port).
fn overlaps(one: SocketAddr, other: SocketAddr) -> bool {
    // On Linux, `[::]` covers IPv4 as well.
    let covers = |wide: IpAddr, narrow: IpAddr| match wide {
        IpAddr::V6(address) => address.is_unspecified(),
        IpAddr::V4(address) => address.is_unspecified() && narrow.to_canonical().is_ipv4(),
    };
    let (a, b) = (one.ip(), other.ip());
    let same = a.to_canonical() == b.to_canonical() || covers(a, b) || covers(b, a);
    one.port() == other.port() && one.port() != 0 && same
}

/// The proxy works without a writable folder, so only an empty path is a fault.
pub(super) fn check_folders(data_dir: &str, history: Option<&history::Settings>, faults: &mut Faults) {
    check_data_dir(data_dir, faults);
    check_private(Path::new(data_dir), history, faults);
    if let Some(history) = history {
        check_history(history, Path::new(data_dir), faults);
    }
}

fn check_data_dir(folder: &str, faults: &mut Faults) {
    let hint = "choose a folder that ELIDA can write to";
    if folder.is_empty() {
        faults.add("data_dir", "the path is empty", hint);
    } else if let Some(why) = why_not_writable(Path::new(folder)) {
        faults.warn("data_dir", format!("nothing can be stored in {folder}: {why}"), hint);
    }
}

/// Warns if other users can read the data folder, which holds keys and prompts.
fn check_private(folder: &Path, history: Option<&history::Settings>, faults: &mut Faults) {
    let shown = folder.display();
    if private::is_wide_folder(folder) {
        let message = format!("other users can look into {shown}, which holds keys, records and prompts");
        faults.warn("data_dir", message, format!("run: chmod 700 {shown}"));
    }
    let mut wide = private::wide_files(folder);
    if let Some(file) = history.and_then(|history| history.file(folder))
        && file.is_file()
        && private::is_wide(&file)
        && file.parent() != Some(folder)
    {
        wide.push(file.display().to_string());
    }
    if !wide.is_empty() {
        let message = format!("other users can read files in {shown}: {}", wide.join(", "));
        faults.warn("data_dir", message, "run chmod 600 on them; ELIDA does so with its own files at start");
    }
}

fn check_history(settings: &history::Settings, data_dir: &Path, faults: &mut Faults) {
    let Some(file) = settings.file(data_dir) else { return };
    if let Some(why) = why_not_kept(&file, data_dir) {
        let message = format!("no history is kept, and kills do not outlive a restart: {why}");
        faults.warn("history.file", message, "choose another file, or set history.enabled: false");
    }
}

/// Returns why `file` cannot hold the history; `None` if it can. Creates and changes nothing.
fn why_not_kept(file: &Path, data_dir: &Path) -> Option<String> {
    if !file.exists() {
        let folder = file.parent().filter(|folder| *folder != data_dir)?;
        return why_not_writable(folder);
    }
    let shown = file.display();
    if !file.is_file() {
        return Some(format!("{shown} is not a file"));
    }
    match OpenOptions::new().read(true).write(true).open(file) {
        Err(error) => Some(format!("{shown} cannot be written to: {error}")),
        Ok(file) => (!is_database(file)).then(|| format!("{shown} is not an SQLite database")),
    }
}

fn is_database(file: File) -> bool {
    let mut head = Vec::with_capacity(SQLITE.len());
    // A new database is an empty file.
    file.take(SQLITE.len() as u64).read_to_end(&mut head).is_ok_and(|_| head.is_empty() || head == SQLITE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_addresses_overlap_where_the_kernel_says_so() {
        for (one, other, expected) in [
            ("127.0.0.1:8080", "127.0.0.1:8080", true),
            ("0.0.0.0:8080", "127.0.0.1:8080", true),
            ("[::]:8080", "127.0.0.1:8080", true),
            ("[::]:8080", "0.0.0.0:8080", true),
            ("[::ffff:127.0.0.1]:8080", "127.0.0.1:8080", true),
            ("0.0.0.0:8080", "[::1]:8080", false),
            ("127.0.0.1:8080", "127.0.0.2:8080", false),
            ("127.0.0.1:8080", "127.0.0.1:8081", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!((overlaps(one, other), overlaps(other, one)), (expected, expected), "{one} {other}");
        }
    }

    #[test]
    fn a_history_that_cannot_be_kept_is_noticed_before_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let why = |name: &str| why_not_kept(&path(name), folder.path()).unwrap_or_default();
        assert_eq!(why("new.db"), "");
        assert_eq!(why("below/new.db"), "");
        std::fs::write(path("junk.db"), "no database at all").unwrap();
        assert!(why("junk.db").ends_with("is not an SQLite database"), "{}", why("junk.db"));
        assert!(why("junk.db/new.db").ends_with("junk.db is not a folder"), "{}", why("junk.db/new.db"));
        std::fs::write(path("empty.db"), "").unwrap();
        assert_eq!(why("empty.db"), "");
        std::fs::create_dir(path("folder.db")).unwrap();
        assert!(why("folder.db").ends_with("is not a file"), "{}", why("folder.db"));
        assert!(!path("new.db").exists());
    }
}
