//! ELIDA, the session border controller for AI agents.

pub mod clock;
pub mod demo;
pub mod error;
pub mod ids;
pub mod settings;
