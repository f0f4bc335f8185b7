//! Signal handlers. They are installed before anything else starts, since an unhandled SIGHUP would end the process.

use std::io;
use std::sync::mpsc;
use std::thread;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What a signal, or a finished upgrade, asks this process to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGTERM: let open requests finish, then end.
    Drain,
    /// SIGINT: end now.
    Stop,
    /// SIGQUIT: start a new process of the program that takes over.
    Upgrade,
    /// The new process serves and owns the ports: drain. Sent by `upgrade`, not by a signal.
    Replaced,
}

/// Queue of signals that were not handled yet.
pub(super) struct Signals {
    signals: Mutex<UnboundedReceiver<Signal>>,
    sender: UnboundedSender<Signal>,
}

impl Signals {
    /// Installs the handlers; no signal after this call is lost.
    ///
    /// # Errors
    /// The thread or a handler cannot be created.
    pub(super) fn install() -> io::Result<Self> {
        let (sender, signals) = unbounded_channel();
        let (ready, installed) = mpsc::channel();
        let to_thread = sender.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(listen(&to_thread, &ready));
        })?;
        installed.recv().map_err(io::Error::other)??;
        Ok(Self { signals: Mutex::new(signals), sender })
    }

    /// Returns a sender for signals that are not signals.
    pub(super) fn sender(&self) -> UnboundedSender<Signal> {
        self.sender.clone()
    }

    /// Waits for the next signal. Never returns `None` while `self` exists, since it holds a sender.
    pub(super) async fn next(&self) -> Option<Signal> {
        self.signals.lock().await.recv().await
    }
}

async fn listen(sender: &UnboundedSender<Signal>, ready: &mpsc::Sender<io::Result<()>>) {
    let handlers = (|| {
        Ok((
            signal(SignalKind::hangup())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::quit())?,
        ))
    })();
    let (mut hangup, mut terminate, mut interrupt, mut quit) = match handlers {
        Ok(handlers) => handlers,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let _ = ready.send(Ok(()));
    loop {
        let received = tokio::select! {
            _ = hangup.recv() => Signal::Reload,
            _ = terminate.recv() => Signal::Drain,
            _ = interrupt.recv() => Signal::Stop,
            _ = quit.recv() => Signal::Upgrade,
        };
        if sender.send(received).is_err() {
            return;
        }
    }
}
