//! ELIDA, the session border controller for AI agents.


pub mod clock;

pub mod demo;
pub mod error;
pub mod ids;
pub mod protocol;
pub mod proxy;
pub mod routing;
pub mod settings;
pub mod telemetry;
pub mod upstream;
pub mod identity;
pub mod session;
