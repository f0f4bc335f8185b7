//! Finished requests in few bytes: a client that invents session ids creates one for each id.

use jiff::Timestamp;

use crate::ids::{AgentId, BackendName, RequestId};
use crate::protocol::facts::tools::ToolCounts;
use crate::protocol::facts::usage::Usage;
use crate::session::views::request_line::{LegKind, RequestLine, clipped};
use crate::summary::SocketReport;

/// Number of strings in a line.
const TEXTS: usize = 11;

/// A [`RequestLine`]. Its strings, at most 256 bytes of each, are stored in one allocation; a missing one is empty.
#[derive(Clone, Debug)]
pub(in crate::session) struct PackedRequest {
    texts: Box<str>,
    ends: [u16; TEXTS],
    kind: LegKind,
    stream: bool,
    attempts: u8,
    tools_offered: u16,
    status: Option<u16>,
    input_tokens_estimate: u32,
    /// Milliseconds, up to 49 days.
    duration_ms: u32,
    queue_ms: Option<u32>,
    ttfb_ms: Option<u32>,
    /// Nanoseconds since 1970, up to the year 2262.
    started_at: i64,
    tools: ToolCounts,
    socket: Option<Box<SocketReport>>,
    bytes_in: u64,
    bytes_out: u64,
}

impl From<RequestLine> for PackedRequest {
    fn from(line: RequestLine) -> Self {
        let parts: [&str; TEXTS] = [
            line.request_id.as_str(),
            &line.method,
            &line.path,
            &line.outcome,
            line.agent.as_ref().map_or("", AgentId::as_str),
            line.backend.as_ref().map_or("", BackendName::as_str),
            line.model.as_deref().unwrap_or_default(),
            line.failover_from.as_ref().map_or("", BackendName::as_str),
            line.operation.as_deref().unwrap_or_default(),
            line.error.as_deref().unwrap_or_default(),
            line.stop_reason.as_deref().unwrap_or_default(),
        ]
        .map(clipped);
        let mut texts = String::with_capacity(parts.iter().map(|part| part.len()).sum());
        let ends = parts.map(|part| {
            texts.push_str(part);
            texts.len() as u16
        });
        Self {
            texts: texts.into(),
            ends,
            kind: line.kind,
            stream: line.stream,
            attempts: line.attempts.try_into().unwrap_or(u8::MAX),
            tools_offered: line.tools_offered.try_into().unwrap_or(u16::MAX),
            status: line.status,
            input_tokens_estimate: saturated(line.input_tokens_estimate),
            duration_ms: saturated(line.duration_ms),
            queue_ms: line.queue_ms.map(saturated),
            ttfb_ms: line.ttfb_ms.map(saturated),
            started_at: line.started_at.as_nanosecond().try_into().unwrap_or(i64::MAX),
            tools: line.tools,
            socket: line.socket,
            bytes_in: line.bytes_in,
            bytes_out: line.bytes_out,
        }
    }
}

impl PackedRequest {
    /// Unpacks the line.
    pub(in crate::session) fn line(&self) -> RequestLine {
        let [
            request_id,
            method,
            path,
            outcome,
            agent,
            backend,
            model,
            failover_from,
            operation,
            error,
            stop_reason,
        ] = self.texts();
        RequestLine {
            request_id: RequestId::new(request_id),
            kind: self.kind,
            method: method.into(),
            path: path.into(),
            agent: some(agent).map(AgentId::new),
            started_at: Timestamp::from_nanosecond(self.started_at.into()).unwrap_or_default(),
            backend: some(backend).map(BackendName::new),
            failover_from: some(failover_from).map(BackendName::new),
            attempts: self.attempts.into(),
            model: some(model).map(Into::into),
            operation: some(operation).map(Into::into),
            status: self.status,
            error: some(error).map(Into::into),
            outcome: outcome.to_owned().into(),
            tools_offered: self.tools_offered.into(),
            input_tokens_estimate: self.input_tokens_estimate.into(),
            stop_reason: some(stop_reason).map(Into::into),
            tools: self.tools.clone(),
            stream: self.stream,
            duration_ms: u64::from(self.duration_ms),
            queue_ms: self.queue_ms.map(u64::from),
            ttfb_ms: self.ttfb_ms.map(u64::from),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            socket: self.socket.clone(),
        }
    }

    /// Token counts of a socket's responses; `None` for other requests.
    pub(super) fn socket_usage(&self) -> Option<Usage> {
        self.socket.as_ref().map(|socket| socket.usage)
    }

    fn texts(&self) -> [&str; TEXTS] {
        let mut begin = 0;
        self.ends.map(|end| {
            let end = usize::from(end);
            &self.texts[std::mem::replace(&mut begin, end)..end]
        })
    }
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn saturated(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::wire::websocket::Traffic;

    fn begun(request_id: &str, path: &str) -> RequestLine {
        RequestLine::begun(
            LegKind::Socket,
            "POST".into(),
            path.to_owned(),
            RequestId::new(request_id),
            None,
            Timestamp::UNIX_EPOCH,
        )
    }

    #[test]
    fn a_line_comes_back_as_it_was() {
        let bare = begun("r-1", "/v1/messages");
        let mut full = begun("r-2", "/é");
        full.agent = Some(AgentId::new("a-1"));
        full.backend = Some(BackendName::new("b"));
        full.failover_from = Some(BackendName::new("other"));
        full.attempts = 2;
        full.model = Some("m".into());
        full.operation = Some("tools/call get_weather".into());
        full.status = Some(200);
        full.error = Some("client_gone".into());
        full.outcome = "killed".into();
        full.tools_offered = 3;
        full.started_at = Timestamp::now();
        full.input_tokens_estimate = u64::from(u32::MAX);
        full.stop_reason = Some("end_turn".into());
        full.tools.add("get_weather", 2);
        full.stream = true;
        full.duration_ms = 1234;
        full.queue_ms = Some(12);
        full.ttfb_ms = Some(0);
        (full.bytes_in, full.bytes_out) = (u64::MAX, 7);
        full.socket = Some(Box::new(SocketReport {
            from_client: Traffic::default(),
            from_backend: Traffic::default(),
            close_code: Some(1008),
            usage: Usage { input_tokens: 3, ..Usage::default() },
        }));
        for line in [bare, full] {
            assert_eq!(PackedRequest::from(line.clone()).line(), line);
        }
    }

    #[test]
    fn texts_of_any_length_keep_their_beginnings() {
        let long = "é".repeat(70_000);
        let mut line = begun(&long, "/");
        line.stop_reason = Some(long.as_str().into());
        let kept = PackedRequest::from(line).line();
        assert_eq!((kept.request_id.as_str().len(), kept.stop_reason.unwrap().len()), (256, 256));
        assert_eq!((&*kept.path, &*kept.outcome), ("/", "open"));
    }
}
