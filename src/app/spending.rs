//! Keeps what was spent of budgets in `state.db`, on a thread of its own: each second and at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use tracing::{error, info};

use crate::history::state::State;
use crate::limits::ledger::Ledger;

/// How often it is written.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often accounts of old periods are removed.
const PRUNE: Duration = Duration::from_secs(3600);
/// How long the end waits for the file.
const CLOSING_TIME: Duration = Duration::from_secs(5);

/// The thread that writes.
pub(super) struct SpendingFile {
    closing: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl SpendingFile {
    /// Loads the ledger from the file, and keeps what is spent from now on in it.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(super) fn open(state: Arc<State>, ledger: Arc<Ledger>) -> std::io::Result<Arc<Self>> {
        let mut keeper = Keeper { state, ledger, version: None, pruned: Instant::now(), is_failing: false };
        keeper.round();
        let closing = Arc::<AtomicBool>::default();
        let is_closing = Arc::clone(&closing);
        let thread = std::thread::Builder::new().name("spending".into()).spawn(move || {
            while !is_closing.load(Ordering::Acquire) {
                std::thread::park_timeout(INTERVAL);
                keeper.round();
            }
        })?;
        Ok(Arc::new(Self { closing, thread: Mutex::new(Some(thread)) }))
    }

    /// Writes what is left, and ends. Blocks for a bounded time only, so that a full disk does not delay the shutdown.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        let Some(thread) = self.thread.lock().take() else { return };
        thread.thread().unpark();
        let until = Instant::now() + CLOSING_TIME;
        while !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        if !thread.is_finished() || thread.join().is_err() {
            error!("state.db could not be written at the end: what was spent last of budgets is lost");
        }
    }
}

struct Keeper {
    state: Arc<State>,
    ledger: Arc<Ledger>,
    /// The version of the file that was read last.
    version: Option<i64>,
    /// When accounts of old periods were last removed.
    pruned: Instant,
    is_failing: bool,
}

impl Keeper {
    fn round(&mut self) {
        let done = self.write().and_then(|()| self.read());
        let was_failing = std::mem::replace(&mut self.is_failing, done.is_err());
        match done {
            Ok(()) if was_failing => info!("state.db can be used again: what was spent of budgets is in it"),
            Err(fault) if !was_failing => error!(
                fault = format!("{fault:#}"),
                "state.db cannot be used: what is spent of budgets is forgotten if this process ends before that is \
                 mended (check data_dir, its permissions and the disk)"
            ),
            Ok(()) | Err(_) => {}
        }
    }

    /// Writes what was spent.
    fn write(&mut self) -> anyhow::Result<()> {
        let changed = self.ledger.take_changed();
        if changed.is_empty() {
            return Ok(());
        }
        let totals = self.state.add_spending(&changed);
        let totals = totals.inspect_err(|_| self.ledger.change_again(changed.iter().map(|(key, _)| key)))?;
        for ((key, account), total) in changed.iter().zip(totals) {
            self.ledger.saved(key, account.own, total);
        }
        Ok(())
    }

    /// Reads the file if another process has written to it, or nothing was read yet.
    fn read(&mut self) -> anyhow::Result<()> {
        if self.version.is_none() && !self.state.exists() {
            return Ok(());
        }
        if self.pruned.elapsed() >= PRUNE {
            self.pruned = Instant::now();
            self.state.prune_spending(Timestamp::now().as_second())?;
        }
        let version = Some(self.state.version()?);
        if version != self.version {
            for (key, lasts, spent) in self.state.spending(Timestamp::now().as_second())? {
                self.ledger.load(key, lasts, spent);
            }
            self.version = version;
        }
        Ok(())
    }
}
