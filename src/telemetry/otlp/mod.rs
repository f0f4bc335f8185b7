//! What a collector of OpenTelemetry is told: a span for each request and each session, the record of each session
//! as a log record and, when asked for, histograms.
//!
//! `settings` is the `telemetry:` section · `facts` is what callers give · `spans` and `histograms` make of it what the
//! exporters of OpenTelemetry take (names: semantic conventions for generative AI) · `export` is the queue and the one
//! thread behind it · `transport` holds the exporters: gRPC, HTTP, or lines on stdout · `client` is what those for HTTP
//! send by. Of the SDK there are the types and the histograms: no processor, no provider for all, no thread.
//! Invariants: a caller never waits; the queue is bounded, and what does not fit or cannot be delivered is counted;
//! no prompt, answer or credential is in any of it.

mod client;
pub mod export;
pub mod facts;
mod histograms;
pub mod settings;
mod spans;
mod transport;
