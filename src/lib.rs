//! ELIDA, the session border controller for AI agents.

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod demo;
pub mod error;
pub mod identity;
pub mod ids;
pub mod protocol;
pub mod proxy;
pub mod routing;
pub mod session;
pub mod settings;
pub mod telemetry;
pub mod upstream;
