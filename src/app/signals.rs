//! Signals, heard before anything else starts: a SIGHUP that nobody handles would end the process.

use std::io;
use std::sync::mpsc;
use std::thread;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGTERM: let open requests finish, then end.
    Drain,
    /// SIGINT: end now.
    Stop,
    /// SIGQUIT: let a new process of the program take this one's place.
    Upgrade,
    /// The new process serves: drain, as it has the ports now. No signal; `upgrade` wishes it.
    Leave,
}

/// The signals that have come and were not yet heeded.
pub(super) struct Signals {
    wishes: Mutex<UnboundedReceiver<Wish>>,
    heard: UnboundedSender<Wish>,
}

impl Signals {
    /// Takes over the signals; when this returns, they are heard.
    ///
    /// # Errors
    /// The system refuses a thread or a handler.
    pub(super) fn install() -> io::Result<Self> {
        let (heard, wishes) = unbounded_channel();
        let (ready, installed) = mpsc::channel();
        let sender = heard.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(listen(&sender, &ready));
        })?;
        installed.recv().map_err(io::Error::other)??;
        Ok(Self { wishes: Mutex::new(wishes), heard })
    }

    /// For wishes that do not come as signals.
    pub(super) fn sender(&self) -> UnboundedSender<Wish> {
        self.heard.clone()
    }

    /// The next wish; waits for one. `None` cannot be while the program runs.
    pub(super) async fn next(&self) -> Option<Wish> {
        self.wishes.lock().await.recv().await
    }
}

async fn listen(heard: &UnboundedSender<Wish>, ready: &mpsc::Sender<io::Result<()>>) {
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
        let wish = tokio::select! {
            _ = hangup.recv() => Wish::Reload,
            _ = terminate.recv() => Wish::Drain,
            _ = interrupt.recv() => Wish::Stop,
            _ = quit.recv() => Wish::Upgrade,
        };
        if heard.send(wish).is_err() {
            return;
        }
    }
}
