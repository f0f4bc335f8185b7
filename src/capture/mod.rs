//! Bodies that are kept: which ones, how much of them, and what is taken out of the stored copy.
//!
//! Pure: `proxy` fills a [`Capture`] while a request passes, `history` keeps what [`stored`] makes of it, on a thread
//! of its own.
//!
//! - [`settings`]: `capture:` of the file, and which requests it means.
//! - [`leg`]: the first bytes of a request and its answer.
//! - [`stored`]: what is stored of them: decoded, redacted, as JSON.
//! - [`redact`]: the secrets of a body, also where a stream divides them.
//! - [`shown`]: the same for a path or a model's name.
//! - [`fields`]: fields of forms.
//! - [`leaves`]: the texts of a JSON document, also of one that was cut.
//! - [`rules`], [`cards`]: what is a secret.
//!
//! Invariants: what passes is never changed; a buffer never grows over `capture.max_body`; cost is linear in bytes.

pub mod leg;
pub mod redact;
pub mod settings;
pub mod shown;
pub mod stored;

mod cards;
mod fields;
mod leaves;
mod rules;

pub use leg::{Body, Capture};
pub use settings::{Settings, Written};
pub use shown::shown;
