//! Signals: what ELIDA tells about itself.

pub mod settings;
