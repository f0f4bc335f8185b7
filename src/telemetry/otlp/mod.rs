//! Exports to an OpenTelemetry collector: a span for each request and session, the record of each session as a log
//! record, and optionally histograms.
//!
//! - [`settings`]: the `telemetry:` section.
//! - [`facts`]: the plain values that callers pass.
//! - [`spans`], [`histograms`]: convert them to what the exporters accept, with the names of the semantic conventions for
//!   generative AI.
//! - [`export`]: the queue and its worker thread.
//! - [`transport`], [`client`]: the exporters over gRPC, HTTP or stdout, and their HTTP client.
//!
//! Of the SDK only the types and the histograms are used: no processor, no global provider, no thread (ADR 15).
//! Invariants: a caller never waits; the queue is bounded, and whatever is dropped or not delivered is counted; no
//! prompt, response or credential is exported.

mod client;
pub mod export;
pub mod facts;
mod histograms;
pub mod settings;
mod spans;
mod transport;
