//! Prices of models, and the cost of a response.
//!
//! Duty: loads the price list and computes the cost of a response from its token counts. Neighbours: `proxy` calls it
//! once for each response with token counts; `session` adds the costs up; `config` compiles the settings. Pure: the
//! price file is read only when the settings are compiled.

mod found;
mod names;
pub mod price;
pub mod settings;

pub use price::Prices;
pub use settings::PricingConfig;
