//! What the expressions of all sections ask for, so that requests are read for it.

use super::compiled::Config;
use crate::policy::facts::Fact;

impl Config {
    /// Whether an expression asks how many messages a request has.
    pub fn counts_messages(&self) -> bool {
        self.rules.asks_for_messages()
            || self.limits.ask_for(Fact::MessagesCount)
            || self.budgets.ask_for(Fact::MessagesCount)
            || self.capture.asks_for(Fact::MessagesCount)
    }
}
