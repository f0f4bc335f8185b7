//! System calls of a process, counted by strace.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Counts the system calls of a process until [`Strace::finish`].
pub(crate) struct Strace {
    child: Child,
    file: tempfile::NamedTempFile,
}

impl Strace {
    /// Attaches to all threads of a process.
    ///
    /// # Errors
    /// strace is not installed; of the kind `PermissionDenied`, when the machine lets no process trace another.
    pub(crate) fn attach(pid: u32) -> io::Result<Self> {
        let file = tempfile::NamedTempFile::new()?;
        let mut command = Command::new("strace");
        command.args(["-f", "-c", "-p", &pid.to_string(), "-o"]).arg(file.path());
        let mut child = command.stderr(Stdio::piped()).spawn().map_err(|error| {
            io::Error::other(format!("strace: {error}; on Debian: apt-get install strace"))
        })?;
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        if !first.contains("attached") {
            child.wait()?;
            let is_forbidden = first.contains("not permitted");
            let kind = if is_forbidden { io::ErrorKind::PermissionDenied } else { io::ErrorKind::Other };
            return Err(io::Error::new(kind, format!("strace cannot attach: {first}")));
        }
        // It reports each new thread: it would end if nobody read that.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, file })
    }

    /// Detaches; returns the number of calls by name.
    ///
    /// # Errors
    /// The table cannot be read.
    pub(crate) fn finish(mut self) -> io::Result<BTreeMap<String, f64>> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        self.child.wait()?;
        let table = std::fs::read_to_string(self.file.path())?;
        // `% time  seconds  usecs/call  calls  [errors]  syscall`
        let rows = table.lines().filter_map(|line| {
            let cells: Vec<&str> = line.split_whitespace().collect();
            let calls = cells.get(3)?.parse().ok()?;
            Some(((*cells.last()?).to_owned(), calls))
        });
        Ok(rows.filter(|(name, _)| name != "total").collect())
    }
}
