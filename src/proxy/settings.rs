//! The `server:` section: threads, protocols, timeouts and limits of the proxy listener, and the proxies before it.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::forwarded::Forwarding;
use super::tls::{ServerTlsConfig, Tls};
use crate::settings::fault::Faults;
use crate::settings::origin::origins;
use crate::settings::units::{ByteSize, DurationText};

/// The `server:` section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Server")]
pub struct ServerConfig {
    /// Worker threads; 0 for one per core. Needs a restart.
    pub threads: usize,
    /// Certificate and key of the listener.
    pub tls: ServerTlsConfig,
    /// True: a listener without TLS also takes HTTP/2, from clients that begin with it.
    pub h2c: bool,
    /// How long each party may be silent.
    pub timeouts: ServerTimeoutsConfig,
    /// How large a request may be, and how many clients.
    pub limits: ServerLimitsConfig,
    /// Proxies before this gateway, as networks; only they are believed when they say who the client is.
    pub trusted_proxies: Vec<String>,
    /// True: backends are told the client's address and the host it asked for.
    pub forwarded_headers: bool,
    /// Which web pages may connect.
    pub cors: ServerCorsConfig,
}

/// `server.cors`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "ServerCors")]
pub struct ServerCorsConfig {
    /// Origins whose pages may open WebSockets and call MCP servers, such as `https://app.example.com`, beside
    /// those of the very host that is asked (WebSockets) or of the caller's own machine (MCP).
    pub allow_origins: Vec<String>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            threads: 0,
            tls: ServerTlsConfig::default(),
            h2c: true,
            timeouts: ServerTimeoutsConfig::default(),
            limits: ServerLimitsConfig::default(),
            trusted_proxies: Vec::new(),
            forwarded_headers: false,
            cors: ServerCorsConfig::default(),
        }
    }
}

/// `server.timeouts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "ServerTimeouts")]
pub struct ServerTimeoutsConfig {
    /// For a client to send the whole request head, a TLS handshake before it included, and between two pieces
    /// of its body.
    pub read: DurationText,
    /// For a client to take one piece of the answer.
    pub write: DurationText,
    /// For a client's connection between two requests.
    pub idle: DurationText,
    /// For the TCP and TLS handshake with a backend.
    pub upstream_connect: DurationText,
    /// From the whole request at the backend to the first byte of its answer.
    pub upstream_first_byte: DurationText,
    /// Between two pieces of a backend's answer.
    pub stream_idle: DurationText,
    /// An event stream that has been silent for so long is sent a comment; 0 is never.
    pub stream_keep_alive: DurationText,
    /// From SIGTERM until open requests are cut.
    pub shutdown_grace: DurationText,
}

impl Default for ServerTimeoutsConfig {
    fn default() -> Self {
        Self {
            read: DurationText::secs(30),
            write: DurationText::secs(30),
            idle: DurationText::secs(120),
            upstream_connect: DurationText::secs(5),
            upstream_first_byte: DurationText::secs(600),
            stream_idle: DurationText::secs(300),
            stream_keep_alive: DurationText::secs(0),
            shutdown_grace: DurationText::secs(30),
        }
    }
}

/// `server.limits`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "ServerLimits")]
pub struct ServerLimitsConfig {
    /// Bytes of the request target; 414 above.
    pub max_uri: ByteSize,
    /// Bytes of all header lines together; 431 above.
    pub max_header_bytes: ByteSize,
    /// Number of header lines; 431 above.
    pub max_header_count: usize,
    /// Bytes of a request body; 413 above.
    pub max_body: ByteSize,
    /// Bytes of a request body on the path of a model API; 413 above.
    pub max_body_llm: ByteSize,
    /// Connections of clients at a time; further ones are closed at once. As many HTTP/2 requests at a time.
    pub max_connections: usize,
    /// Requests at a time on one HTTP/2 connection.
    pub max_streams: u32,
    /// Requests on one HTTP/2 connection that its client may cancel unanswered, one after another. A tenth of it comes
    /// back each second, and four for each answered request; beyond, the client has to open another connection.
    pub max_cancelled_streams: u32,
}

impl Default for ServerLimitsConfig {
    fn default() -> Self {
        Self {
            max_uri: ByteSize(8192),
            max_header_bytes: ByteSize::kib(16),
            max_header_count: 128,
            max_body: ByteSize::mib(10),
            max_body_llm: ByteSize::mib(32),
            max_connections: 20_000,
            max_streams: 100,
            max_cancelled_streams: 100,
        }
    }
}

/// The compiled section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    threads: usize,
    tls: Option<Tls>,
    h2c: bool,
    timeouts: Timeouts,
    limits: Limits,
    forwarding: Forwarding,
    allow_origins: Arc<Vec<String>>,
}

/// How long each party may be silent; all of them longer than zero but `shutdown_grace`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a client to send the whole request head, and between two pieces of its body.
    pub read: Duration,
    /// For a client to take one piece of the answer.
    pub write: Duration,
    /// For a client's connection between two requests.
    pub idle: Duration,
    /// For the TCP and TLS handshake with a backend.
    pub upstream_connect: Duration,
    /// From the whole request at the backend to the first byte of its answer.
    pub upstream_first_byte: Duration,
    /// Between two pieces of a backend's answer.
    pub stream_idle: Duration,
    /// An event stream that has been silent for so long is sent a comment.
    pub stream_keep_alive: Option<Duration>,
    /// From SIGTERM until open requests are cut.
    pub shutdown_grace: Duration,
}

/// How large a request may be, and how many clients; all of them larger than zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the request target; 414 above.
    pub max_uri: usize,
    /// Bytes of all header lines together; 431 above.
    pub max_header_bytes: usize,
    /// Number of header lines; 431 above.
    pub max_header_count: usize,
    /// Bytes of a request body; 413 above.
    pub max_body: usize,
    /// Bytes of a request body on the path of a model API; 413 above.
    pub max_body_llm: usize,
    /// Connections of clients at a time; further ones are closed at once. As many HTTP/2 requests at a time.
    pub max_connections: usize,
    /// Requests at a time on one HTTP/2 connection.
    pub max_streams: u32,
    /// Requests on one HTTP/2 connection that its client may cancel unanswered, one after another.
    pub max_cancelled_streams: u32,
}

impl Settings {
    /// Worker threads, at least one.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Certificate and key; `None` for a plain listener.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Whether a plain listener takes HTTP/2.
    pub fn h2c(&self) -> bool {
        self.h2c
    }

    /// How long each party may be silent.
    pub fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// How large a request may be, and how many clients.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Which proxies are believed, and what backends are told.
    pub fn forwarding(&self) -> &Forwarding {
        &self.forwarding
    }

    /// The origins whose pages may open WebSockets, exactly as browsers send them.
    pub fn allow_origins(&self) -> &Arc<Vec<String>> {
        &self.allow_origins
    }
}

impl ServerConfig {
    /// Compiles the section.
    pub fn compile(self, faults: &mut Faults) -> Option<Settings> {
        let tls = self.tls.compile(faults);
        let timeouts = self.timeouts.compile(faults);
        let limits = self.limits.compile(faults);
        let forwarding = Forwarding::compile(&self.trusted_proxies, self.forwarded_headers, faults);
        let origins = origins("server.cors.allow_origins", self.cors.allow_origins, faults);
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = if self.threads == 0 { cores() } else { self.threads };
        if threads > MAX_THREADS {
            let hint = "0 means one per core";
            faults.add("server.threads", format!("{threads} threads are more than {MAX_THREADS}"), hint);
            return None;
        }
        Some(Settings {
            threads,
            tls: tls?,
            h2c: self.h2c,
            timeouts: timeouts?,
            limits: limits?,
            forwarding: forwarding?,
            allow_origins: Arc::new(origins?),
        })
    }
}

/// Unacknowledged bytes end a connection after `timeouts.write`, which the kernel counts in milliseconds in a signed
/// number (TCP_USER_TIMEOUT, tcp(7)).
const MAX_WRITE: Duration = Duration::from_millis(i32::MAX as u64);

/// More worker threads than any machine has cores: a mistyped number.
const MAX_THREADS: usize = 4096;

impl ServerTimeoutsConfig {
    fn compile(self, faults: &mut Faults) -> Option<Timeouts> {
        let must_be_positive = [
            ("read", self.read),
            ("write", self.write),
            ("idle", self.idle),
            ("upstream_connect", self.upstream_connect),
            ("upstream_first_byte", self.upstream_first_byte),
            ("stream_idle", self.stream_idle),
        ];
        let mut good = true;
        for (key, _) in must_be_positive.iter().filter(|(_, span)| span.limit().is_none()) {
            good = false;
            let hint = "write a time such as 30s; a silent peer must go away at some time";
            faults.add(format!("server.timeouts.{key}"), "zero would cut every request", hint);
        }
        if self.write.0 > MAX_WRITE {
            good = false;
            let message = format!("{} is longer than a socket can wait", self.write);
            faults.add("server.timeouts.write", message, "write 24d or less");
        }
        good.then_some(Timeouts {
            read: self.read.0,
            write: self.write.0,
            idle: self.idle.0,
            upstream_connect: self.upstream_connect.0,
            upstream_first_byte: self.upstream_first_byte.0,
            stream_idle: self.stream_idle.0,
            stream_keep_alive: self.stream_keep_alive.limit(),
            shutdown_grace: self.shutdown_grace.0,
        })
    }
}

impl ServerLimitsConfig {
    fn compile(self, faults: &mut Faults) -> Option<Limits> {
        let limits = Limits {
            max_uri: self.max_uri.as_len(),
            max_header_bytes: self.max_header_bytes.as_len(),
            max_header_count: self.max_header_count,
            max_body: self.max_body.as_len(),
            max_body_llm: self.max_body_llm.as_len(),
            max_connections: self.max_connections,
            max_streams: self.max_streams,
            max_cancelled_streams: self.max_cancelled_streams,
        };
        let must_be_positive = [
            ("max_uri", limits.max_uri),
            ("max_header_bytes", limits.max_header_bytes),
            ("max_header_count", limits.max_header_count),
            ("max_body", limits.max_body),
            ("max_body_llm", limits.max_body_llm),
            ("max_connections", limits.max_connections),
            ("max_streams", limits.max_streams as usize),
            ("max_cancelled_streams", limits.max_cancelled_streams as usize),
        ];
        let mut good = true;
        for (key, _) in must_be_positive.iter().filter(|(_, limit)| *limit == 0) {
            good = false;
            let hint = "write a number above zero";
            faults.add(format!("server.limits.{key}"), "zero would refuse every request", hint);
        }
        good.then_some(limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_compile() {
        let mut faults = Faults::default();
        let settings = ServerConfig::default().compile(&mut faults).unwrap();
        assert!(faults.is_empty(), "{faults}");
        assert!(settings.threads() >= 1);
        assert_eq!(settings.limits().max_body_llm, 32 << 20);
        assert_eq!(settings.timeouts().upstream_first_byte, Duration::from_secs(600));
    }

    #[test]
    fn zeros_are_refused_all_at_once() {
        let mut written = ServerConfig { threads: 5000, ..ServerConfig::default() };
        written.timeouts.read = DurationText::secs(0);
        written.timeouts.write = DurationText::secs(25 * 24 * 3600);
        written.timeouts.shutdown_grace = DurationText::secs(0);
        written.limits.max_uri = ByteSize(0);
        let mut faults = Faults::default();
        assert_eq!(written.compile(&mut faults), None);
        assert_eq!(
            faults.to_string(),
            "server.timeouts.read: zero would cut every request \
             (write a time such as 30s; a silent peer must go away at some time)\n\
             server.timeouts.write: 25days is longer than a socket can wait (write 24d or less)\n\
             server.limits.max_uri: zero would refuse every request (write a number above zero)\n\
             server.threads: 5000 threads are more than 4096 (0 means one per core)"
        );
    }
}
