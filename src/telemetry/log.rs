//! The log: lines on stdout, written by one thread, so that nobody waits for a slow reader.
//!
//! Records (access lines, CDRs, "listening") go through [`Log::line`] and are always written. Diagnostics
//! come from the `tracing` macros and, since Pingora speaks it, from the `log` crate; the level filters them
//! and can be changed while the program runs. When the reader is so slow that the queue is full, lines are
//! dropped and counted; a closed pipe is borne in silence.

use std::fmt::{self, Write as _};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use serde::{Serialize, Serializer};
use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, filter::LevelFilter};

use self::sink::{Sink, SinkGuard};
use super::access::{AccessLine, CLIPPED, FIELD_MAX, MESSAGE};
use super::settings::{Format, Level, Settings};

mod line;
pub(super) mod sink;

/// More lines than this waiting to be written are dropped.
const QUEUE_LINES: usize = 16 << 10;

/// Crates whose own diagnostics are of use as warnings only.
const NOISY: [&str; 11] =
    ["pingora", "h2", "hyper", "rustls", "mio", "tokio", "tonic", "tower", "ureq", "axum", "opentelemetry"];

/// The upper-case word in a line.
pub(super) fn label(level: Level) -> &'static str {
    match level {
        Level::Error => "ERROR",
        Level::Warn => "WARN",
        Level::Info => "INFO",
        Level::Debug => "DEBUG",
    }
}

fn level_of(level: tracing::Level) -> Option<Level> {
    match level {
        tracing::Level::ERROR => Some(Level::Error),
        tracing::Level::WARN => Some(Level::Warn),
        tracing::Level::INFO => Some(Level::Info),
        tracing::Level::DEBUG => Some(Level::Debug),
        tracing::Level::TRACE => None,
    }
}

/// The log of one process.
pub struct Log {
    sink: Sink,
    format: AtomicU8,
    level: AtomicU8,
    access: AtomicBool,
    installed: AtomicBool,
}

/// Writes what is still queued when it is dropped; keep it until the end of `main`.
#[must_use = "the log stops when this is dropped"]
pub struct LogGuard {
    _sink: SinkGuard,
}

impl Log {
    /// A log on stdout.
    pub fn stdout(settings: &Settings) -> (Arc<Self>, LogGuard) {
        Self::to(std::io::stdout(), settings)
    }

    /// A log that goes to `writer`.
    pub fn to(writer: impl Write + Send + 'static, settings: &Settings) -> (Arc<Self>, LogGuard) {
        let (sink, guard) = Sink::new(writer, QUEUE_LINES);
        let log = Self {
            sink,
            format: AtomicU8::new(settings.format() as u8),
            level: AtomicU8::new(settings.level() as u8),
            access: AtomicBool::new(settings.access_log()),
            installed: AtomicBool::new(false),
        };
        (Arc::new(log), LogGuard { _sink: guard })
    }

    /// Makes this the log of the process' diagnostics (`tracing` and `log`); once per process.
    pub fn install(self: &Arc<Self>) -> Result<(), TryInitError> {
        tracing_subscriber::registry().with(Diagnostics(Arc::clone(self))).try_init()?;
        self.installed.store(true, Ordering::Release);
        self.announce_level();
        Ok(())
    }

    /// Changes level, format and whether requests leave a line, from the next line on.
    pub fn reconfigure(&self, settings: &Settings) {
        self.access.store(settings.access_log(), Ordering::Relaxed);
        self.format.store(settings.format() as u8, Ordering::Relaxed);
        self.level.store(settings.level() as u8, Ordering::Relaxed);
        self.announce_level();
    }

    /// Both macro crates keep their own idea of the highest level anybody wants.
    fn announce_level(&self) {
        tracing::callsite::rebuild_interest_cache();
        if !self.installed.load(Ordering::Acquire) {
            return;
        }
        log::set_max_level(match self.level() {
            Level::Error => log::LevelFilter::Error,
            Level::Warn => log::LevelFilter::Warn,
            Level::Info => log::LevelFilter::Info,
            Level::Debug => log::LevelFilter::Debug,
        });
    }

    /// Writes a record: timestamp, level, message, then `fields` (a struct or a map), flat.
    pub fn line(&self, level: Level, message: &str, fields: &impl Serialize) {
        self.write(&line::line(self.format(), level, None, message, fields));
    }

    /// Writes a request's access line, if requests leave one.
    pub fn access(&self, line: &AccessLine<'_>) {
        if self.access.load(Ordering::Relaxed) {
            self.line(Level::Info, MESSAGE, line);
        }
    }

    /// The queue, which counts the lines it had to drop.
    pub(super) fn sink(&self) -> Sink {
        self.sink.clone()
    }

    fn write(&self, line: &[u8]) {
        self.sink.push(line);
    }

    fn level(&self) -> Level {
        let level = self.level.load(Ordering::Relaxed);
        let known = [Level::Debug, Level::Info, Level::Warn, Level::Error];
        known.into_iter().find(|known| *known as u8 == level).unwrap_or(Level::Info)
    }

    fn format(&self) -> Format {
        match self.format.load(Ordering::Relaxed) == Format::Text as u8 {
            true => Format::Text,
            false => Format::Json,
        }
    }

    fn wants(&self, level: tracing::Level, target: &str) -> bool {
        let noisy = NOISY.iter().any(|name| target.starts_with(name));
        let least = if noisy { self.level().max(Level::Warn) } else { self.level() };
        level_of(level).is_some_and(|level| level >= least)
    }
}

/// The end of `tracing`'s pipe.
struct Diagnostics(Arc<Log>);

impl<S: Subscriber> Layer<S> for Diagnostics {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // Asked again after each change of the level; the target of a `log` record is known only then.
        match level_of(*metadata.level()).is_some_and(|level| level >= self.0.level()) {
            true => Interest::sometimes(),
            false => Interest::never(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.0.wants(*metadata.level(), metadata.target())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match self.0.level() {
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
        })
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let target = fields.target.as_deref().unwrap_or(event.metadata().target());
        let level = level_of(*event.metadata().level()).unwrap_or(Level::Debug);
        let line = line::line(self.0.format(), level, Some(target), &fields.message, &fields);
        self.0.write(&line);
    }
}

/// The fields of one diagnostic.
#[derive(Default)]
struct Fields {
    message: String,
    /// A record of the `log` crate tells its target in a field.
    target: Option<String>,
    rest: Vec<(&'static str, serde_json::Value)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: serde_json::Value) {
        match (field.name(), value) {
            ("message", serde_json::Value::String(text)) => self.message = text,
            ("log.target", serde_json::Value::String(text)) => self.target = Some(text),
            (name, _) if name.starts_with("log.") => {}
            // A line has these once.
            ("timestamp" | "level" | "target", value) => self.rest.push(("field", value)),
            (name, value) => self.rest.push((name, value)),
        }
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.rest.iter().map(|(name, value)| (name, value)))
    }
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, super::access::clip(value).into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = Clipping(String::new());
        // Fails when the text is full, which is what is wanted.
        let _ = write!(text, "{value:?}");
        self.put(field, text.0.into());
    }
}

/// A text that takes no more than a field may hold.
struct Clipping(String);

impl fmt::Write for Clipping {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = FIELD_MAX - CLIPPED.len() - self.0.len().min(FIELD_MAX - CLIPPED.len());
        if part.len() <= room {
            self.0.push_str(part);
            return Ok(());
        }
        let mut end = room;
        while !part.is_char_boundary(end) {
            end -= 1;
        }
        self.0.push_str(&part[..end]);
        self.0.push_str(CLIPPED);
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests;
