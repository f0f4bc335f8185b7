//! Which backend a request goes to.
//!
//! Duty: the compiled `routing:` section and the backends' own `models` patterns, and the decision
//! made with them, with the backends that may stand in. Neighbours: `proxy` asks [`Table::decide`] once per request; `config` compiles the
//! table. Invariants: pure (no IO, no clock, no state), and a decision depends only on the table and
//! the three things read from the request: the backend header, the path and the model.

mod decision;
mod settings;
mod table;

pub use decision::{Choice, Decision, Method, RouteError, forwarded};
pub use settings::Written;
pub use table::{BackendRule, Table};
