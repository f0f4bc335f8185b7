//! What secrets and personal data look like.
//!
//! - [`detector`]: a row of the table.
//! - [`table`]: the rows, each with a true example and one that only looks like it; the examples are the test.
//! - `validate`: check digits and other proofs.
//!
//! Patterns of vendors' keys are those that they publish for secret scanners (GitHub, "Supported secret scanning patterns").

mod detector;
mod table;
mod validate;

pub use detector::{Detector, Follows, Lead, SecretKind};
pub use table::{DETECTORS, detector};
pub use validate::luhn;
