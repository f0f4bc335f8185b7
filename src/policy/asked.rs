//! What rules ask for that is read only if one does.

use super::ruleset::RuleSet;

impl RuleSet {
    /// Whether a rule about requests asks which backend or server is called, so that another backend may be another answer.
    pub fn asks_for_backend(&self) -> bool {
        self.asks_for_backend
    }

    /// Whether a rule asks which tools a request offers, or which models it names.
    pub fn asks_for_others(&self) -> bool {
        self.asks_for_tools || self.asks_for_model
    }

    /// Whether a rule asks how many messages a request has.
    pub fn asks_for_messages(&self) -> bool {
        self.asks_for_messages
    }

    /// Whether a rule asks for the model.
    pub fn asks_for_model(&self) -> bool {
        self.asks_for_model
    }

    /// Whether a rule asks for the instructions of a request.
    pub fn asks_for_instructions(&self) -> bool {
        self.asks_for_instructions
    }
}
