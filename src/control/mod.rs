//! The operator's door.

pub mod settings;
