//! ELIDA, the session border controller for AI agents.

pub mod clock;
pub mod error;
pub mod ids;
pub mod settings;
pub mod telemetry;
