//! The `server:` section (threads, protocols, timeouts and limits of the proxy listener, trusted proxies) and the
//! `models:` section.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::compression_settings::CompressionConfig;
use super::forwarded::Forwarding;
use super::http_settings::{self, HttpSettings};
use super::security_headers::SecurityHeadersConfig;
use super::tls::{ServerTlsConfig, Tls};
use crate::settings::acl::AclConfig;
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
    /// Whether a listener without TLS also accepts HTTP/2 with prior knowledge (RFC 9113, 3.3).
    pub h2c: bool,
    /// Timeouts.
    pub timeouts: ServerTimeoutsConfig,
    /// Sizes and counts.
    pub limits: ServerLimitsConfig,
    /// Networks of proxies in front of this gateway. Only their `X-Forwarded-For` and `Forwarded` are used.
    pub trusted_proxies: Vec<String>,
    /// Whether backends get the client's address and the requested host (`X-Forwarded-*`, `Forwarded`).
    pub forwarded_headers: bool,
    /// Web pages that may connect.
    pub cors: ServerCorsConfig,
    /// Header fields that tell browsers what not to do with an answer.
    pub security_headers: SecurityHeadersConfig,
}

/// `server.cors`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "ServerCors")]
pub struct ServerCorsConfig {
    /// Origins whose pages may open WebSockets and call MCP servers, such as `https://app.example.com`. Pages of the
    /// requested host (WebSockets) and of the caller's own machine (MCP) always may.
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
            security_headers: SecurityHeadersConfig::default(),
        }
    }
}

/// `server.timeouts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "ServerTimeouts")]
pub struct ServerTimeoutsConfig {
    /// For a client to send the whole request head, including a TLS handshake before it, and between two reads of its
    /// body.
    pub read: DurationText,
    /// For a client to accept one write of the response.
    pub write: DurationText,
    /// Idle time of a client's connection between two requests.
    pub idle: DurationText,
    /// For the TCP and TLS handshake with a backend.
    pub upstream_connect: DurationText,
    /// From the end of the request to the first byte of the backend's response.
    pub upstream_first_byte: DurationText,
    /// Between two reads of the backend's response.
    pub stream_idle: DurationText,
    /// Interval of comments in an event stream that is silent; 0 disables them.
    pub stream_keep_alive: DurationText,
    /// From SIGTERM until open requests are cut off.
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
    /// Maximum bytes of the request target; more get 414.
    pub max_uri: ByteSize,
    /// Maximum bytes of all header lines together; more get 431.
    pub max_header_bytes: ByteSize,
    /// Maximum number of header lines; more get 431.
    pub max_header_count: usize,
    /// Maximum bytes of a request body; more get 413.
    pub max_body: ByteSize,
    /// Maximum bytes of a request body on the path of a model API; more get 413.
    pub max_body_llm: ByteSize,
    /// Maximum bytes of a form or a file that is uploaded to a model backend; more get 413. It is streamed: what has to be
    /// held of it to find its model is limited by `max_body_llm`.
    pub max_upload: ByteSize,
    /// Maximum concurrent client connections; further ones are closed at once. Also the maximum of concurrent HTTP/2
    /// requests.
    pub max_connections: usize,
    /// Maximum concurrent requests on one HTTP/2 connection.
    pub max_streams: u32,
    /// Unanswered requests that a client may cancel in a row on one HTTP/2 connection. A tenth of this number is credited
    /// each second, and four for each answered request. When it is used up, the client has to open another connection.
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
            max_upload: ByteSize::mib(512),
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
    http: HttpSettings,
}

/// Timeouts; all of them longer than zero except `shutdown_grace`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a client to send the whole request head, and between two pieces of its body.
    pub read: Duration,
    /// For a client to accept one write of the response.
    pub write: Duration,
    /// Idle time of a client's connection between two requests.
    pub idle: Duration,
    /// For the TCP and TLS handshake with a backend.
    pub upstream_connect: Duration,
    /// From the end of the request to the first byte of the backend's response.
    pub upstream_first_byte: Duration,
    /// Between two reads of the backend's response.
    pub stream_idle: Duration,
    /// Interval of comments in an event stream that is silent; `None` disables them.
    pub stream_keep_alive: Option<Duration>,
    /// From SIGTERM until open requests are cut off.
    pub shutdown_grace: Duration,
}

/// Sizes and counts; all of them larger than zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum bytes of the request target; more get 414.
    pub max_uri: usize,
    /// Maximum bytes of all header lines together; more get 431.
    pub max_header_bytes: usize,
    /// Maximum number of header lines; more get 431.
    pub max_header_count: usize,
    /// Maximum bytes of a request body; more get 413.
    pub max_body: usize,
    /// Maximum bytes of a request body on the path of a model API; more get 413.
    pub max_body_llm: usize,
    /// Maximum bytes of a form or a file that is uploaded to a model backend; more get 413.
    pub max_upload: usize,
    /// Maximum concurrent client connections; further ones are closed at once. Also the maximum of concurrent HTTP/2
    /// requests.
    pub max_connections: usize,
    /// Maximum concurrent requests on one HTTP/2 connection.
    pub max_streams: u32,
    /// Unanswered requests that a client may cancel in a row on one HTTP/2 connection.
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

    /// Whether a listener without TLS accepts HTTP/2.
    pub fn h2c(&self) -> bool {
        self.h2c
    }

    /// Timeouts.
    pub fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Sizes and counts.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Trusted proxies, and whether backends get forwarding headers.
    pub fn forwarding(&self) -> &Forwarding {
        &self.forwarding
    }

    /// Origins whose pages may open WebSockets, exactly as browsers send them.
    pub fn allow_origins(&self) -> &Arc<Vec<String>> {
        &self.allow_origins
    }

    /// Security headers, compression, and whose requests are accepted.
    pub fn http(&self) -> &HttpSettings {
        &self.http
    }
}

impl ServerConfig {
    /// Compiles the section, and with it `security.acl` and `compression`.
    pub fn compile(self, acl: AclConfig, coding: CompressionConfig, faults: &mut Faults) -> Option<Settings> {
        let tls = self.tls.compile(faults);
        let (timeouts, limits) = (self.timeouts.compile(faults), self.limits.compile(faults));
        let forwarding = Forwarding::compile(&self.trusted_proxies, self.forwarded_headers, faults);
        let http = http_settings::compile(self.security_headers, acl, coding, faults);
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
            http: http?,
        })
    }
}

/// The longest `timeouts.write`: the kernel takes it as a signed number of milliseconds (TCP_USER_TIMEOUT, tcp(7)).
const MAX_WRITE: Duration = Duration::from_millis(i32::MAX as u64);

/// The largest number of worker threads; more is taken for a typing mistake.
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

/// Pingora's own limits of a head over HTTP/1.1: fields, and bytes in all.
const PINGORA_FIELDS: usize = 256;
const PINGORA_HEAD: usize = (1 << 20) - 1;

/// The longest target that the `http` crate parses, in bytes.
const LONGEST_URI: usize = u16::MAX as usize - 1;

impl ServerLimitsConfig {
    fn compile(self, faults: &mut Faults) -> Option<Limits> {
        let limits = Limits {
            max_uri: self.max_uri.as_len(),
            max_header_bytes: self.max_header_bytes.as_len(),
            max_header_count: self.max_header_count,
            max_body: self.max_body.as_len(),
            max_body_llm: self.max_body_llm.as_len(),
            max_upload: self.max_upload.as_len(),
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
            ("max_upload", limits.max_upload),
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
        let lower = [
            ("max_uri", limits.max_uri, LONGEST_URI, "bytes of a request target"),
            ("max_header_count", limits.max_header_count, PINGORA_FIELDS, "header lines"),
            (
                "max_header_bytes",
                limits.max_header_bytes,
                PINGORA_HEAD.saturating_sub(limits.max_uri.min(LONGEST_URI)),
                "bytes of header lines beside server.limits.max_uri",
            ),
        ];
        for (key, written, most, what) in lower.into_iter().filter(|(_, written, most, _)| written > most) {
            good = false;
            let message = format!("{written} cannot be kept: more than {most} {what} are never read");
            faults.add(format!("server.limits.{key}"), message, format!("write {most} or less"));
        }
        good.then_some(limits)
    }
}

/// The `models:` section.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Models")]
pub struct ModelsConfig {
    /// Which model list `GET /v1/models` returns.
    pub discovery: Discovery,
}

/// `models.discovery`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Discovery {
    /// That of the backend to which the request is routed.
    #[default]
    Proxy,
    /// The models of all backends, merged.
    Merged,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_compile() {
        let mut faults = Faults::default();
        let settings =
            ServerConfig::default().compile(Default::default(), Default::default(), &mut faults).unwrap();
        assert!(faults.is_empty(), "{faults}");
        assert!(settings.threads() >= 1);
        assert_eq!(settings.limits().max_body_llm, 32 << 20);
        assert_eq!(settings.timeouts().upstream_first_byte, Duration::from_secs(600));
    }

    #[test]
    fn limits_that_cannot_be_kept_are_refused() {
        let of = |change: fn(&mut ServerLimitsConfig)| {
            let mut written = ServerConfig::default();
            change(&mut written.limits);
            let mut faults = Faults::default();
            let is_refused = written.compile(Default::default(), Default::default(), &mut faults).is_none();
            assert_eq!(is_refused, !faults.is_empty());
            faults.to_string()
        };
        assert_eq!(
            of(|limits| limits.max_header_count = 1000),
            "server.limits.max_header_count: 1000 cannot be kept: more than 256 header lines are never read \
             (write 256 or less)"
        );
        let uri = of(|limits| limits.max_uri = ByteSize::kib(64));
        assert!(
            uri.starts_with("server.limits.max_uri: 65536 cannot be kept: more than 65534 bytes"),
            "{uri}"
        );
        let head = of(|limits| limits.max_header_bytes = ByteSize::mib(1));
        assert!(
            head.starts_with("server.limits.max_header_bytes: 1048576 cannot be kept: more than 1040383 "),
            "{head}"
        );
        assert_eq!(of(|limits| limits.max_header_count = 256), "");
    }

    #[test]
    fn zeros_are_refused_all_at_once() {
        let mut written = ServerConfig { threads: 5000, ..ServerConfig::default() };
        written.timeouts.read = DurationText::secs(0);
        written.timeouts.write = DurationText::secs(25 * 24 * 3600);
        written.timeouts.shutdown_grace = DurationText::secs(0);
        written.limits.max_uri = ByteSize(0);
        let mut faults = Faults::default();
        assert_eq!(written.compile(Default::default(), Default::default(), &mut faults), None);
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
