//! SIGQUIT: a new process of the (perhaps replaced) program takes over the listening sockets; when it
//! serves, this one drains. If it does not come up, this one goes on as if nothing had happened.

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

use super::handover::{self, Name};
use super::notify;
use super::signals::Wish;
use crate::session::Manager;

/// A new process that does not serve after this time has failed.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// Starts the process that takes this one's place.
pub(super) struct Upgrade {
    program: PathBuf,
    /// Copies of the listening sockets. As long as they are here the ports stay open.
    sockets: Mutex<Vec<(Name, TcpListener)>>,
    /// The new process, from its start until it serves.
    heir: Mutex<Option<Child>>,
    /// Hears of the new process' success.
    wishes: UnboundedSender<Wish>,
    /// What both processes talk about.
    sessions: Arc<Manager>,
}

impl Upgrade {
    /// An upgrade that may come, of this program with these sockets.
    pub(super) fn new(
        sockets: Vec<(Name, TcpListener)>,
        wishes: UnboundedSender<Wish>,
        sessions: Arc<Manager>,
    ) -> Arc<Self> {
        let (sockets, heir) = (Mutex::new(sockets), Mutex::default());
        Arc::new(Self { program: program(), sockets, heir, wishes, sessions })
    }

    /// Starts the new process; inside a runtime, which carries the line to it. The outcome comes as a
    /// [`Wish::Leave`], or is in the log.
    pub(super) fn begin(self: &Arc<Self>) {
        if std::process::id() == 1 {
            error!("no upgrade as process 1: its end ends the container; replace the container instead");
            return;
        }
        let mut heir = self.heir();
        if heir.is_some() {
            warn!("an upgrade is under way already");
            return;
        }
        match self.start() {
            Ok((child, line)) => {
                info!(pid = child.id(), program = %self.program.display(), "starting the new process");
                *heir = Some(child);
                let upgrade = Arc::clone(self);
                // A thread, since waiting for a process blocks.
                thread::spawn(move || upgrade.wait(&line));
            }
            Err(error) => {
                error!(%error, program = %self.program.display(), "cannot start the new process, this one goes on");
            }
        }
    }

    /// Gives up an upgrade that is not done, and the sockets: nobody will take this process' place.
    pub(super) fn abandon(&self) {
        self.sockets.lock().clear();
        if let Some(mut heir) = self.heir().take() {
            warn!(pid = heir.id(), "this process ends before the new one was ready, so both do");
            end(&mut heir);
        }
    }

    fn start(&self) -> io::Result<(Child, UnixStream)> {
        let (here, there) = UnixStream::pair()?;
        let (ours, theirs) = UnixStream::pair()?;
        let sockets = self.sockets.lock();
        handover::give(&here, &sockets, &theirs)?;
        let child = Command::new(&self.program)
            .args(env::args_os().skip(1))
            .env(handover::VARIABLE, std::process::id().to_string())
            .stdin(OwnedFd::from(there))
            .spawn()?;
        // It ends with the new process, whenever that does.
        self.sessions.connect_successor(ours)?;
        Ok((child, here))
    }

    fn wait(&self, line: &UnixStream) {
        let outcome = handover::wait_until_ready(line, READY_LIMIT);
        let Some(mut child) = self.heir().take() else {
            return;
        };
        match outcome {
            Ok(()) => {
                info!(pid = child.id(), "the new process serves, this one leaves");
                notify::main_process(child.id());
                let _ = self.wishes.send(Wish::Leave);
            }
            Err(why) => {
                let status = end(&mut child);
                error!(%why, status, "the new process did not get ready, this one goes on");
            }
        }
    }

    fn heir(&self) -> MutexGuard<'_, Option<Child>> {
        self.heir.lock()
    }
}

/// Ends a process, if it has not ended by itself, and says how it did.
fn end(child: &mut Child) -> String {
    let _ = child.kill();
    child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
}

/// The program as it was called, so that a replaced file or link is followed; when it was found by
/// `PATH`, the file that it was then.
fn program() -> PathBuf {
    let called = env::args_os().next().map(PathBuf::from).unwrap_or_default();
    if called.components().count() > 1 {
        return called;
    }
    env::current_exe().unwrap_or(called)
}
