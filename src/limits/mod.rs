//! What calls cost.
//!
//! Duty: prices of models, and the cost of one answer by them. Neighbours: `proxy` asks once for each answer that
//! counted tokens; `session` adds up; `config` compiles. Pure: the file of prices is read when the settings are.

pub mod price;
pub mod settings;

pub use price::Prices;
pub use settings::Written;
