//! Endpoints that servers with MCP's HTTP+SSE transport (version 2024-11-05) announce: the first event of the stream names the
//! path to which the client sends its messages. That path does not begin with the backend's name, and no byte of the event is
//! changed, so the gateway remembers which backend has announced it for as long as the stream is open.
//!
//! It holds for the caller who reads the stream, and for messages only: a server must not draw the requests of others, or
//! calls of a model with the caller's key, to itself by announcing their path. Of several servers that announce the same
//! path, the first one keeps it.
//!
//! With Redis the instances tell each other what was announced, so that a message may arrive at another one than the stream.
//!
//! Source: modelcontextprotocol.io/specification/2024-11-05/basic/transports.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::Uri;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::runtime_settings::SharedSettings;
use crate::cache::PurgePattern;
use crate::ids::{BackendName, PrincipalId};
use crate::protocol::wire::sse::{Piece, SseReader};
use crate::redis::answers::CacheNews;
use crate::session::replication::{Announcer, REPEAT, Replicator};

/// Longest target that is remembered, in bytes.
const MAX_TARGET: usize = 2048;

/// How long an announcement of another instance is remembered after it was last repeated.
const FORGOTTEN: Duration = REPEAT.saturating_mul(3);
/// The most announcements of other instances that are remembered, some 300 bytes each.
const LEARNT_MAX: usize = 32 << 10;

/// A caller, and the target that was announced to them.
type Key = (PrincipalId, String);

/// The targets that backends have announced in streams that are open, each with the caller who reads the stream.
#[derive(Default)]
pub(crate) struct Endpoints {
    /// In streams through this instance.
    own: RwLock<HashMap<Key, Target>>,
    /// In streams through other instances: the backend, and until when that is remembered.
    learnt: RwLock<HashMap<Key, (BackendName, Instant)>>,
    /// Takes announcements for other instances; unset without them.
    others: OnceLock<mpsc::Sender<String>>,
}

/// An announcement, as instances send it to each other.
#[derive(Serialize, Deserialize)]
struct Announcement {
    caller: PrincipalId,
    target: String,
    backend: BackendName,
}

/// Who has announced a target.
struct Target {
    backend: BackendName,
    /// How many open streams announce it.
    streams: usize,
}

/// A target that is remembered until this is dropped.
pub(crate) struct Announced {
    of: Arc<Endpoints>,
    key: Key,
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
        let (own, learnt) = (self.own.read(), self.learnt.read());
        if own.is_empty() && learnt.is_empty() {
            return None;
        }
        let key = (caller.clone(), target.to_owned());
        let learnt =
            || learnt.get(&key).filter(|(_, until)| Instant::now() < *until).map(|(backend, _)| backend);
        own.get(&key).map(|target| &target.backend).or_else(learnt).cloned()
    }

    /// Shares what is announced with other instances. What they say of the HTTP cache is for that in `live`.
    pub(crate) fn share(self: &Arc<Self>, replicator: &Replicator, live: &SharedSettings) {
        let news = News { endpoints: Arc::clone(self), live: Arc::clone(live) };
        let _ = self.others.set(replicator.announce_for(Arc::new(news)));
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
        if self
            .learnt
            .read()
            .get(&key)
            .is_some_and(|(other, until)| other != backend && Instant::now() < *until)
        {
            return None;
        }
        let mut known = self.own.write();
        let target =
            known.entry(key.clone()).or_insert_with(|| Target { backend: backend.clone(), streams: 0 });
        if target.backend != *backend {
            return None;
        }
        target.streams += 1;
        if let (Some(others), Some(text)) = (self.others.get(), written(&key, backend)) {
            // One that finds no room is repeated soon.
            let _ = others.try_send(text);
        }
        Some(Announced { of: Arc::clone(self), key })
    }
}

/// What instances tell each other: endpoints, and what the HTTP cache must forget.
struct News {
    endpoints: Arc<Endpoints>,
    live: SharedSettings,
}

impl Announcer for News {
    fn held(&self) -> Vec<String> {
        self.endpoints.held()
    }

    fn learn(&self, announcement: &str) {
        match CacheNews::read(announcement) {
            None => self.endpoints.learn(announcement),
            Some(news) => {
                if let Some(cache) = &self.live.load().cache {
                    cache.told(&news);
                }
            }
        }
    }

    /// Entries are in Redis, too, so that little is lost by forgetting all of them here.
    fn missed(&self) {
        if let Some(cache) = self.live.load().cache.as_ref().filter(|cache| cache.settings().is_remote()) {
            cache.purge(&PurgePattern::everything());
        }
    }
}

impl Endpoints {
    fn held(&self) -> Vec<String> {
        let now = Instant::now();
        self.learnt.write().retain(|_, (_, until)| now < *until);
        self.own.read().iter().filter_map(|(key, target)| written(key, &target.backend)).collect()
    }

    fn learn(&self, announcement: &str) {
        let Ok(Announcement { caller, target, backend }) = serde_json::from_str(announcement) else { return };
        let now = Instant::now();
        let mut learnt = self.learnt.write();
        if target.len() > MAX_TARGET || learnt.len() >= LEARNT_MAX {
            return;
        }
        let known = learnt.entry((caller, target)).or_insert_with(|| (backend.clone(), now));
        if known.0 == backend || known.1 <= now {
            *known = (backend, now + FORGOTTEN);
        }
    }
}

/// Returns the announcement for other instances.
fn written((caller, target): &Key, backend: &BackendName) -> Option<String> {
    let announcement =
        Announcement { caller: caller.clone(), target: target.clone(), backend: backend.clone() };
    serde_json::to_string(&announcement).ok()
}

impl Drop for Announced {
    fn drop(&mut self) {
        let mut known = self.of.own.write();
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
    fn what_another_instance_has_announced_is_known_here_for_a_time() {
        let [there, here] = [Arc::new(Endpoints::default()), Arc::new(Endpoints::default())];
        let known = |caller_name: &str| here.backend_of(&caller(caller_name), "/message");
        let announced = there.announce("/message", &caller("ada"), &BackendName::new("tools"));
        let held = there.held();
        assert_eq!(held.len(), 1);
        here.learn(&held[0]);
        assert_eq!((known("ada"), known("eve")), (Some(BackendName::new("tools")), None));
        here.learn(&held[0].replace("tools", "other"));
        assert_eq!(known("ada"), Some(BackendName::new("tools")), "the first one keeps it");
        assert!(here.announce("/message", &caller("ada"), &BackendName::new("other")).is_none());
        drop(announced);
        assert!(there.held().is_empty());
        here.learnt.write().values_mut().for_each(|(_, until)| *until = Instant::now());
        assert_eq!(known("ada"), None, "it was not repeated");
        assert!(here.held().is_empty() && here.learnt.read().is_empty());
        for junk in ["", "{}", "[]", &held[0].replace("/message", &"x".repeat(MAX_TARGET + 1))] {
            here.learn(junk);
        }
        assert!(here.learnt.read().is_empty());
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
