//! The log: lines on stdout, written by one thread, so that a slow reader blocks nothing.
//!
//! Records (access lines, CDRs, "listening") go through [`Log::log_event`] and are always written. Diagnostics come from
//! the `tracing` macros and, since Pingora uses it, from the `log` crate; they are filtered by a level that can be
//! changed at run time. When the queue is full because the reader is slow, lines are dropped and counted; a closed pipe is
//! ignored.

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
use super::access::{AccessLine, CLIPPED, FIELD_MAX};
use super::settings::{Format, Level, Settings};

mod line;
pub(super) mod sink;

/// The largest number of queued lines.
const QUEUE_LINES: usize = 16 << 10;

/// Crates whose diagnostics are logged from level warn only.
const NOISY: [&str; 11] =
    ["pingora", "h2", "hyper", "rustls", "mio", "tokio", "tonic", "tower", "ureq", "axum", "opentelemetry"];

/// The `level` value of a line.
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

/// The log of the process.
pub struct Log {
    sink: Sink,
    format: AtomicU8,
    level: AtomicU8,
    access: AtomicBool,
    installed: AtomicBool,
}

/// Flushes the queue when dropped. Keep it until the end of `main`.
#[must_use = "the log stops when this is dropped"]
pub struct LogGuard {
    _sink: SinkGuard,
}

impl Log {
    /// Creates a log on stdout.
    pub fn stdout(settings: &Settings) -> (Arc<Self>, LogGuard) {
        Self::to(std::io::stdout(), settings)
    }

    /// Creates a log on `writer`.
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

    /// Makes this the destination of diagnostics (`tracing` and `log`). Once per process.
    pub fn install(self: &Arc<Self>) -> Result<(), TryInitError> {
        tracing_subscriber::registry().with(Diagnostics(Arc::clone(self))).try_init()?;
        self.installed.store(true, Ordering::Release);
        self.announce_level();
        Ok(())
    }

    /// Applies a new level, format, and `access_log`, from the next line on.
    pub fn reconfigure(&self, settings: &Settings) {
        self.access.store(settings.access_log(), Ordering::Relaxed);
        self.format.store(settings.format() as u8, Ordering::Relaxed);
        self.level.store(settings.level() as u8, Ordering::Relaxed);
        self.announce_level();
    }

    /// Updates the maximum level that `tracing` and `log` cache.
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

    /// Writes a line: timestamp, level, message, then `fields` (a struct or a map), flattened.
    pub fn log_event(&self, level: Level, message: &str, fields: &impl Serialize) {
        self.write(&line::line(self.format(), level, None, message, fields));
    }

    /// Writes an access line, unless `logging.access_log` is off.
    pub fn access(&self, line: &AccessLine<'_>) {
        if self.access.load(Ordering::Relaxed) {
            line::access(self.format(), line, |line| self.write(line));
        }
    }

    /// The queue, which also counts dropped lines.
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

/// The `tracing` layer that writes to the log.
struct Diagnostics(Arc<Log>);

impl<S: Subscriber> Layer<S> for Diagnostics {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // `sometimes`: the level can change, and the target of a `log` record is known only in `enabled`.
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

/// The fields of a diagnostic.
#[derive(Default)]
struct Fields {
    message: String,
    /// The target of a record of the `log` crate, which is in a field.
    target: Option<String>,
    rest: Vec<(&'static str, serde_json::Value)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: serde_json::Value) {
        match (field.name(), value) {
            ("message", serde_json::Value::String(text)) => self.message = text,
            ("log.target", serde_json::Value::String(text)) => self.target = Some(text),
            (name, _) if name.starts_with("log.") => {}
            // Every line already has these keys.
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
        // Fails once the text is full, which is intended.
        let _ = write!(text, "{value:?}");
        self.put(field, text.0.into());
    }
}

/// Collects a text up to [`FIELD_MAX`] bytes.
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
