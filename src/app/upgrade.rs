//! Graceful upgrade by SIGQUIT: a new process of the (possibly replaced) program takes over the listening sockets, and
//! this one drains once the new one serves. If the new process fails to start, this one continues unchanged.

use std::env;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::mpsc::UnboundedSender;
use tracing::{error, info, warn};

use super::fd_passing::{self, SocketName};
use super::sd_notify;
use super::signals::Signal;
use crate::session::Manager;

/// How long the new process may take until it serves.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// Starts the process that takes over.
pub(super) struct Upgrade {
    program: PathBuf,
    /// Copies of the listening sockets; they keep the ports open.
    sockets: Mutex<Vec<(SocketName, TcpListener)>>,
    /// The new process, until it serves.
    successor: Mutex<Option<Child>>,
    /// Receives [`Signal::Replaced`] when the new process serves.
    signals: UnboundedSender<Signal>,
    /// The sessions that the session channel shares with the new process.
    sessions: Arc<Manager>,
}

impl Upgrade {
    /// Prepares an upgrade of this program with these sockets.
    pub(super) fn new(
        sockets: Vec<(SocketName, TcpListener)>,
        signals: UnboundedSender<Signal>,
        sessions: Arc<Manager>,
    ) -> Arc<Self> {
        let (sockets, successor) = (Mutex::new(sockets), Mutex::default());
        Arc::new(Self { program: program(), sockets, successor, signals, sessions })
    }

    /// Starts the new process. Needs a runtime, which drives the session channel. Success is reported as
    /// [`Signal::Replaced`], a failure is logged.
    pub(super) fn begin(self: &Arc<Self>) {
        if std::process::id() == 1 {
            error!("no upgrade as process 1: its end ends the container; replace the container instead");
            return;
        }
        let mut successor = self.successor();
        if successor.is_some() {
            warn!("an upgrade is under way already");
            return;
        }
        match self.start() {
            Ok((child, line)) => {
                info!(pid = child.id(), program = %self.program.display(), "starting the new process");
                *successor = Some(child);
                let upgrade = Arc::clone(self);
                // A thread, since waiting for a process blocks.
                thread::spawn(move || upgrade.wait(&line));
            }
            Err(error) => {
                error!(%error, program = %self.program.display(), "cannot start the new process, this one goes on");
            }
        }
    }

    /// Aborts an upgrade in progress and closes the sockets.
    pub(super) fn abandon(&self) {
        self.sockets.lock().clear();
        if let Some(mut successor) = self.successor().take() {
            warn!(pid = successor.id(), "this process ends before the new one was ready, so both do");
            end(&mut successor);
        }
    }

    fn start(&self) -> io::Result<(Child, UnixStream)> {
        let (here, there) = UnixStream::pair()?;
        let (ours, theirs) = UnixStream::pair()?;
        let sockets = self.sockets.lock();
        fd_passing::send(&here, &sockets, &theirs)?;
        let child = Command::new(&self.program)
            .args(env::args_os().skip(1))
            .env(fd_passing::VARIABLE, std::process::id().to_string())
            .stdin(OwnedFd::from(there))
            .spawn()?;
        // The channel closes when the new process ends.
        self.sessions.connect_successor(ours)?;
        Ok((child, here))
    }

    fn wait(&self, line: &UnixStream) {
        let outcome = fd_passing::wait_until_ready(line, READY_LIMIT);
        let Some(mut child) = self.successor().take() else {
            return;
        };
        match outcome {
            Ok(()) => {
                info!(pid = child.id(), "the new process serves, this one leaves");
                sd_notify::main_process(child.id());
                let _ = self.signals.send(Signal::Replaced);
            }
            Err(why) => {
                let status = end(&mut child);
                error!(%why, status, "the new process did not get ready, this one goes on");
            }
        }
    }

    fn successor(&self) -> MutexGuard<'_, Option<Child>> {
        self.successor.lock()
    }
}

/// KillRecovery a process that is still running; returns its exit status as text.
fn end(child: &mut Child) -> String {
    let _ = child.kill();
    child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
}

/// Returns the path by which the program was called, so that a replaced file or link takes effect; the current
/// executable if it was found through `PATH`.
fn program() -> PathBuf {
    let called = env::args_os().next().map(PathBuf::from).unwrap_or_default();
    if called.components().count() > 1 {
        return called;
    }
    env::current_exe().unwrap_or(called)
}
