//! The way of a request through ELIDA.

pub mod settings;
