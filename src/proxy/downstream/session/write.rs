//! Writes to the client: each has a time limit, and none blocks after a cut.

use std::future::Future;
use std::time::Duration;

use pingora_core::{Error, ErrorType, Result};
use tokio::time::{sleep, timeout};

use crate::proxy::downstream::handle::RequestHandle;

/// The error with which every wait ends when the leg is cut.
pub(crate) const LEG_CUT: ErrorType = ErrorType::Custom("leg_cut");

/// A write that is still blocked this long after the cut is abandoned; shorter than the hard cut, so that the gateway
/// can still record the request.
pub(super) const STUCK_WRITE: Duration = Duration::from_millis(20);

/// Returns the error of a leg that was cut.
pub(super) fn cut<T>() -> Result<T> {
    Error::e_explain(LEG_CUT, "the leg was cut")
}

/// Runs a write within `server.timeouts.write`. A cut does not refuse it, since the closing frames are written then,
/// but ends it after [`STUCK_WRITE`].
///
/// Sets `broken` when the write was abandoned: the response is then incomplete, and further writes fail.
pub(super) async fn write<T>(
    handle: &RequestHandle,
    broken: &mut bool,
    write: impl Future<Output = Result<T>>,
) -> Result<T> {
    if *broken {
        return cut();
    }
    let stuck = async {
        handle.cut.soft().await;
        sleep(STUCK_WRITE).await;
    };
    let ended = async {
        tokio::select! {
            biased;
            written = timeout(handle.settings.timeouts.write, write) => written.unwrap_or_else(|_| {
                *broken = true;
                Err(Error::explain(ErrorType::WriteTimedout, "the client does not read").into_down())
            }),
            () = stuck => {
                *broken = true;
                cut()
            }
        }
    };
    handle.backpressure.hold(ended).await
}
