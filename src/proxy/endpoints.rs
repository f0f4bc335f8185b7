//! Endpoints that servers with MCP's HTTP+SSE transport (version 2024-11-05) announce: the first event of the stream names the
//! path to which the client sends its messages. That path does not begin with the backend's name, and no byte of the event is
//! changed, so the gateway remembers which backend has announced it for as long as the stream is open.
//!
//! It holds for the caller who reads the stream, and for messages only: a server must not draw the requests of others, or
//! calls of a model with the caller's key, to itself by announcing their path. Of several servers that announce the same
//! path, the first one keeps it.
//!
//! Source: modelcontextprotocol.io/specification/2024-11-05/basic/transports.

use std::collections::HashMap;
use std::sync::Arc;

use http::Uri;
use parking_lot::RwLock;

use crate::ids::{BackendName, PrincipalId};
use crate::protocol::wire::sse::{Piece, SseReader};

/// Longest target that is remembered, in bytes.
const MAX_TARGET: usize = 2048;

/// The targets that backends have announced in streams that are open, each with the caller who reads the stream.
#[derive(Default)]
pub(crate) struct Endpoints(RwLock<HashMap<(PrincipalId, String), Target>>);

/// Who has announced a target.
struct Target {
    backend: BackendName,
    /// How many open streams announce it.
    streams: usize,
}

/// A target that is remembered until this is dropped.
pub(crate) struct Announced {
    of: Arc<Endpoints>,
    key: (PrincipalId, String),
}

/// What a stream announces.
pub(crate) enum Endpoint {
    /// The first event is not complete.
    Reading { events: SseReader, data: Vec<u8> },
    /// The first event announces this target.
    Announced { _until_dropped: Announced },
    /// The first event is another one.
    None,
}

impl Default for Endpoint {
    fn default() -> Self {
        Self::Reading { events: SseReader::default(), data: Vec::new() }
    }
}

impl Endpoints {
    /// Returns the backend that has announced this target to this caller.
    pub(crate) fn backend_of(&self, caller: &PrincipalId, target: &str) -> Option<BackendName> {
        let known = self.0.read();
        if known.is_empty() {
            None
        } else {
            known.get(&(caller.clone(), target.to_owned())).map(|target| target.backend.clone())
        }
    }

    /// Remembers what `backend` has announced: a path, or a URL. A path without a leading slash is below the one of the
    /// stream, which names the backend.
    fn announce(
        self: &Arc<Self>,
        announced: &str,
        caller: &PrincipalId,
        backend: &BackendName,
    ) -> Option<Announced> {
        let announced = announced.split('#').next().unwrap_or_default();
        let is_path = announced.starts_with('/') && !announced.starts_with("//");
        let uri: Uri = announced.parse().ok().filter(|uri: &Uri| is_path || uri.host().is_some())?;
        let key = (caller.clone(), uri.path_and_query()?.as_str().to_owned());
        // Paths such as /v1/files belong to the APIs of models.
        if key.1.split(['/', '?']).any(|part| part.starts_with("v1")) {
            return None;
        }
        let mut known = self.0.write();
        let target =
            known.entry(key.clone()).or_insert_with(|| Target { backend: backend.clone(), streams: 0 });
        if target.backend != *backend {
            return None;
        }
        target.streams += 1;
        Some(Announced { of: Arc::clone(self), key })
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        let mut known = self.of.0.write();
        if let Some(target) = known.get_mut(&self.key) {
            target.streams -= 1;
            if target.streams == 0 {
                known.remove(&self.key);
            }
        }
    }
}

impl Endpoint {
    /// Reads a chunk of the stream. Once the first event is complete, the target that it announces is remembered.
    pub(crate) fn feed(
        &mut self,
        chunk: &[u8],
        endpoints: &Arc<Endpoints>,
        caller: &PrincipalId,
        backend: &BackendName,
    ) {
        let Self::Reading { events, data } = self else { return };
        let mut is_endpoint = None;
        events.feed(chunk, |piece| match piece {
            _ if is_endpoint.is_some() => {}
            Piece::Data(more) => data.extend_from_slice(&more[..more.len().min(MAX_TARGET + 1)]),
            Piece::End { name } => is_endpoint = Some(name == b"endpoint"),
        });
        let is_too_long = data.len() > MAX_TARGET;
        if is_endpoint.is_none() && !is_too_long {
            return;
        }
        let announced = std::str::from_utf8(data).ok().filter(|_| is_endpoint == Some(true) && !is_too_long);
        let announced = announced.and_then(|target| endpoints.announce(target, caller, backend));
        *self = announced.map_or(Self::None, |target| Self::Announced { _until_dropped: target });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(name: &str) -> PrincipalId {
        PrincipalId::new(name)
    }

    /// Reads a stream in chunks of this size.
    fn announced(stream: &str, size: usize, endpoints: &Arc<Endpoints>) -> Option<Endpoint> {
        let mut endpoint = Endpoint::default();
        for chunk in stream.as_bytes().chunks(size) {
            endpoint.feed(chunk, endpoints, &caller("ada"), &BackendName::new("tools"));
        }
        Some(endpoint).filter(|endpoint| matches!(endpoint, Endpoint::Announced { .. }))
    }

    #[test]
    fn what_the_first_event_announces_is_known_while_the_stream_is_open() {
        let endpoints = Arc::new(Endpoints::default());
        for (data, target) in [
            ("/messages?sessionId=1", "/messages?sessionId=1"),
            ("/messages/?session_id=2#x", "/messages/?session_id=2"),
            ("https://gateway.example/m?3", "/m?3"),
        ] {
            let stream =
                format!(": hello\n\nevent: endpoint\r\ndata: {data}\r\n\r\nevent: message\ndata: x\n\n");
            for size in [1, 7, 1000] {
                let known = announced(&stream, size, &endpoints);
                assert!(known.is_some(), "{stream} {size}");
                assert_eq!(endpoints.backend_of(&caller("ada"), target), Some(BackendName::new("tools")));
                assert_eq!(endpoints.backend_of(&caller("eve"), target), None, "announced to another caller");
                drop(known);
                assert_eq!(endpoints.backend_of(&caller("ada"), target), None);
            }
        }
    }

    #[test]
    fn a_target_stays_with_the_first_who_announces_it_until_its_last_stream_ends() {
        let endpoints = Arc::new(Endpoints::default());
        let announce =
            |backend: &str| endpoints.announce("/message", &caller("ada"), &BackendName::new(backend));
        let known = || endpoints.backend_of(&caller("ada"), "/message");
        let first = announce("tools");
        assert!(first.is_some() && announce("other").is_none());
        let again = announce("tools");
        drop(first);
        assert_eq!(known(), Some(BackendName::new("tools")), "a client that has connected again");
        drop(again);
        assert_eq!(known(), None);
        assert!(announce("other").is_some());
        assert!(endpoints.announce("/v1/files", &caller("ada"), &BackendName::new("tools")).is_none());
    }

    #[test]
    fn other_events_and_targets_are_not_remembered() {
        let endpoints = Arc::new(Endpoints::default());
        for stream in [
            "event: message\ndata: /a\n\nevent: endpoint\ndata: /b\n\n".to_owned(),
            "event: endpoint\ndata: messages?sessionId=1\n\n".to_owned(),
            "event: endpoint\ndata: //other.example/x y\n\n".to_owned(),
            format!("event: endpoint\ndata: /{}\n\n", "x".repeat(MAX_TARGET)),
        ] {
            assert!(announced(&stream, 3, &endpoints).is_none(), "{stream}");
        }
    }
}
