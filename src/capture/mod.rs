//! Captures request and response bodies: which ones, how many bytes, and what is redacted in the stored copy.
//!
//! Pure: `proxy` fills a [`Capture`] while a request passes; `history` stores what [`document`] makes of it, on a
//! thread of its own.
//!
//! - [`settings`]: the `capture:` section and which requests it selects.
//! - [`buffer`]: the first bytes of a request and its response.
//! - [`document`]: the stored JSON document: bodies decoded and redacted.
//! - [`redact`]: redacts a body, including secrets that a stream splits over several events.
//! - [`redact_text`]: redacts short texts such as a path or a model name.
//! - [`form_fields`]: URL-encoded and multipart forms.
//! - [`json_texts`]: the strings of a JSON document, even if it was cut off.
//! - [`rules`], [`card_numbers`]: what counts as a secret.
//!
//! Invariants: what passes is never changed; a buffer never grows beyond `capture.max_body`; cost is linear in bytes.

pub mod buffer;
pub mod document;
pub mod redact;
pub mod settings;

mod card_numbers;
mod form_fields;
mod json_texts;
mod redact_text;
mod rules;

pub use buffer::{Body, BodyCapture, Capture};
pub use redact_text::redact_text;
pub use settings::{CaptureConfig, Settings};
