//! ELIDA, the session border controller for AI agents.

pub mod clock;
pub mod error;
pub mod identity;
pub mod ids;
pub mod protocol;
pub mod session;
pub mod settings;
