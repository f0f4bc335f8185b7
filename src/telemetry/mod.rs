//! Signals: what the program tells its operators about itself.
//!
//! `metrics` counts (every metric stands in `table`, values of labels in `labels`, `gauge` counts what is there now; `models` bounds the model label), `log` makes lines and
//! `sink` writes them, `history` are the
//! numbers of the history, `access` is the shape of the line each request leaves, `readiness` is what the probes
//! answer from, `trace` is where a request stands among spans, `otlp` tells a collector.
//! Neighbours: everyone may emit; this module knows only the words of row 0 and takes plain values, so no
//! type of a higher row ever stands in it.
//! Invariants: nothing here blocks its caller or fails it; label sets are bounded; a session id is never a
//! label; whatever bytes a peer sends, a log line stays one valid line.

pub mod access;
pub mod capacity;
pub mod fleet;
mod gauge;
pub mod history;
mod labels;
pub mod log;
pub mod metrics;
mod models;
pub mod otlp;
pub mod readiness;
pub mod settings;
mod sink;
mod table;
mod text;
pub mod trace;
