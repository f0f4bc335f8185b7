//! Writes to the client: each has its time, and none is stuck after a cut.

use std::future::Future;
use std::time::Duration;

use pingora_core::{Error, ErrorType, Result};
use tokio::time::{sleep, timeout};

use super::session::CUT;
use super::ticket::Ticket;

/// A write that is still stuck this long after the cut is given up; shorter than the hard cut, so
/// that the proxy can still do its accounts.
pub(super) const STUCK_WRITE: Duration = Duration::from_millis(20);

/// The error of a leg that was cut.
pub(super) fn cut<T>() -> Result<T> {
    Error::e_explain(CUT, "the leg was cut")
}

/// Runs a write; the client has `server.timeouts.write` for it. It is not refused after a cut, since the
/// last words are written then; but it may not be stuck.
pub(super) async fn write<T>(
    ticket: &Ticket,
    broken: &mut bool,
    write: impl Future<Output = Result<T>>,
) -> Result<T> {
    if *broken {
        return cut();
    }
    let stuck = async {
        ticket.cut.soft().await;
        sleep(STUCK_WRITE).await;
    };
    let ended = async {
        tokio::select! {
            biased;
            written = timeout(ticket.settings.timeouts.write, write) => written.unwrap_or_else(|_| {
                *broken = true;
                Err(Error::explain(ErrorType::WriteTimedout, "the client does not read").into_down())
            }),
            () = stuck => {
                *broken = true;
                cut()
            }
        }
    };
    ticket.pace.hold(ended).await
}
