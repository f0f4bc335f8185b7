//! Writes OCSF events to a file and to syslog.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

use tracing::warn;

use super::settings::OcsfTarget;
use crate::settings::private;
use crate::telemetry::metrics::Metrics;

/// Events that may wait.
const WAITING: usize = 4096;
/// Severity and facility of a syslog message (RFC 5424, 6.2.1): facility 13 (log audit), severity 5 (notice).
const PRIORITY: u8 = 13 * 8 + 5;

/// The thread that writes.
pub(super) struct Output {
    sender: SyncSender<String>,
    metrics: Arc<Metrics>,
}

impl Output {
    /// Starts the thread; `None` if nothing is to be written.
    pub(super) fn start(target: &OcsfTarget, metrics: &Arc<Metrics>) -> Option<Self> {
        if target.file.is_none() && target.syslog.is_none() {
            return None;
        }
        let (sender, events) = sync_channel(WAITING);
        let (target, counted) = (target.clone(), Arc::clone(metrics));
        let started =
            thread::Builder::new().name("ocsf".into()).spawn(move || write(&target, &events, &counted));
        match started {
            Ok(_) => Some(Self { sender, metrics: Arc::clone(metrics) }),
            Err(fault) => {
                warn!(%fault, "OCSF events have no thread, and are not written");
                None
            }
        }
    }

    /// Queues an event; never waits.
    pub(super) fn push(&self, event: String) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.sender.try_send(event) {
            self.metrics.ocsf_event("lost");
        }
    }
}

/// Writes until a reload or the end of the program. The file is opened anew for each batch, so that it may be moved away.
fn write(target: &OcsfTarget, events: &Receiver<String>, metrics: &Metrics) {
    let socket = target
        .syslog
        .as_ref()
        .and_then(|_| UdpSocket::bind("[::]:0").or_else(|_| UdpSocket::bind("0.0.0.0:0")).ok());
    let mut has_warned = false;
    while let Ok(first) = events.recv() {
        let batch: Vec<String> = std::iter::once(first).chain(events.try_iter().take(WAITING)).collect();
        let mut fault = None;
        if let Some(path) = &target.file {
            let text: String = batch.iter().flat_map(|event| [event.as_str(), "\n"]).collect();
            let mut options = OpenOptions::new();
            options.append(true);
            let written = private::make_file(path)
                .and_then(|()| options.open(path))
                .and_then(|mut file| file.write_all(text.as_bytes()));
            fault = written.err().map(|fault| fault.to_string());
        }
        if let Some(address) = &target.syslog {
            for event in &batch {
                let sent =
                    socket.as_ref().map(|socket| socket.send_to(message(event).as_bytes(), &**address));
                if !matches!(sent, Some(Ok(_))) {
                    fault = Some(format!("syslog at {address} cannot be sent to"));
                }
            }
        }
        for _ in &batch {
            metrics.ocsf_event(if fault.is_some() { "lost" } else { "written" });
        }
        if let Some(why) = fault.as_ref().filter(|_| !has_warned) {
            warn!(why, "OCSF events are lost");
        }
        has_warned = fault.is_some();
    }
}

/// A message of RFC 5424.
fn message(event: &str) -> String {
    let now = jiff::Timestamp::now();
    format!("<{PRIORITY}>1 {now:.3} - elida {} ocsf - {event}", std::process::id())
}
