//! What a text of a request is: who says it, and what for.

/// Who says a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The user, or whoever is not known to be anyone else.
    User,
    /// The model.
    Assistant,
    /// A tool: results, and the definitions that servers write.
    Tool,
    /// Whoever instructs the model.
    System,
}

/// What a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// What is said in a turn, and whatever is not known to be anything else.
    Text,
    /// What a model thought.
    Reasoning,
    /// The name and arguments of a call.
    ToolArgs,
    /// What a call has returned.
    ToolResult,
    /// Instructions beside the turns.
    System,
    /// A tool that is offered.
    ToolDefinition,
}
