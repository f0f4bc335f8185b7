//! Step 7: the head of the answer. Nothing of it is changed; the session's and request's ids are added.

use std::time::Duration;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use pingora_core::Result;
use pingora_http::ResponseHeader;

use super::arrive::{Arrival, REQUEST_ID};
use super::dispatch::Route;
use crate::protocol::framing::Framing;
use crate::protocol::tap::ResponseTap;
use crate::session::Leg;

/// The answer so far.
#[derive(Default)]
pub(crate) struct Answer {
    /// Status sent to the client.
    pub(crate) status: Option<u16>,
    /// From the arrival to the head of the answer.
    pub(crate) first_byte: Option<Duration>,
    /// How its body is divided.
    pub(crate) framing: Option<Framing>,
    /// Reads the usage as the body passes.
    pub(crate) tap: Option<ResponseTap>,
    /// Body bytes passed on to the client.
    pub(crate) sent: u64,
    /// The body was passed on to its end.
    pub(crate) whole: bool,
}

impl Answer {
    /// Begins an answer of the backend's: from here on silence is counted as silence in a stream.
    pub(crate) fn begin(arrival: &Arrival, route: &Route, head: &ResponseHeader) -> Self {
        let ticket = &arrival.ticket;
        ticket.bear_silence(ticket.snapshot.timeouts.stream_idle);
        let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let framing = Framing::of(text(CONTENT_TYPE), text(CONTENT_ENCODING));
        let reads_usage = route.dialect.is_llm() && head.status.is_success();
        Self {
            status: Some(head.status.as_u16()),
            first_byte: Some(ticket.arrived.elapsed()),
            framing: Some(framing),
            tap: reads_usage.then(|| ResponseTap::new(route.dialect, framing)),
            sent: 0,
            whole: false,
        }
    }
}

/// Adds the ids to the answer's head. A backend's own request id is left as it is: SDKs show it.
///
/// # Errors
/// A header of ours cannot be set; that would be a fault of ours.
pub(crate) fn inbound(head: &mut ResponseHeader, arrival: &Arrival, leg: &Leg) -> Result<()> {
    let header = arrival.ticket.snapshot.identity.header().clone();
    head.insert_header(header, leg.session().key().id.as_str())?;
    if !head.headers.contains_key(REQUEST_ID) {
        head.insert_header(REQUEST_ID, arrival.request_id.as_str())?;
    }
    Ok(())
}
