//! Checks rules: what needs no compiling, and what never holds, which nobody intends.

use super::expr::Expression;
use super::facts::Phase;
use super::rule::{Action, Place, is_word};
use super::settings::RuleConfig;
use crate::settings::fault::Faults;
use crate::settings::rate::RateText;

/// Longest text that a client is told, in bytes.
const MAX_MESSAGE: usize = 500;

/// The places that texts of a phase have.
fn places(phase: Phase) -> &'static [Place] {
    match phase {
        Phase::Request => &[
            Place::Text,
            Place::Reasoning,
            Place::System,
            Place::ToolDefinition,
            Place::ToolArgs,
            Place::ToolResult,
        ],
        Phase::Response => &[Place::Text, Place::Reasoning],
        Phase::ToolCall => &[Place::ToolArgs, Place::ToolName],
        // Servers of MCP list definitions in their answers.
        Phase::ToolResult => &[Place::ToolResult, Place::ToolDefinition],
        Phase::Connect | Phase::Turn | Phase::Session | Phase::Routing => &[],
    }
}

/// Reports what keeps a rule from ever holding. What is left of it if only a part cannot be is a warning.
pub(super) fn never_holds(written: &RuleConfig, when: Option<&Expression>, path: &str, faults: &mut Faults) {
    if when.is_some_and(Expression::is_never) {
        let hint = "correct the condition, or remove the rule";
        faults.warn(format!("{path}.when"), "the condition never holds", hint);
    }
    let (wanted, known) =
        (written.matching.as_ref().and_then(|matching| matching.places.as_ref()), places(written.on));
    let (Some(wanted), false) = (wanted, known.is_empty()) else { return };
    let unknown: Vec<_> =
        wanted.0.iter().filter(|place| !known.contains(place)).map(|place| place.name()).collect();
    if unknown.is_empty() {
        return;
    }
    let message = format!("no text of on: {} is in {}", written.on.name(), unknown.join(", "));
    let hint = format!(
        "its texts are in: {}",
        known.iter().map(|place| place.name()).collect::<Vec<_>>().join(", ")
    );
    match unknown.len() == wanted.0.len() {
        true => faults.add(format!("{path}.match.in"), message, hint),
        false => faults.warn(format!("{path}.match.in"), message, hint),
    }
}

/// Checks what needs no compiling.
pub(super) fn check(written: &RuleConfig, path: &str, faults: &mut Faults) {
    let mut at = |key: &str, message: &str, hint: &str| faults.add(format!("{path}{key}"), message, hint);
    if !is_word(&written.id) {
        at(".id", "an id has 1 to 64 letters, digits, '-', '_' and '.'", "write a short word");
    }
    if written.when.is_none() && written.matching.is_none() {
        at("", "the rule holds always", "add when: or match:");
    }
    if written.mark.as_deref().is_some_and(|mark| !is_word(mark)) {
        at(".mark", "a mark has 1 to 64 letters, digits, '-', '_' and '.'", "write a short word");
    }
    if written.message.as_deref().is_some_and(|message| message.is_empty() || message.len() > MAX_MESSAGE) {
        at(".message", "a message has 1 to 500 bytes", "write a sentence");
    }
    match (written.action, written.rate) {
        (Action::Throttle, None) => at("", "throttle needs a rate", "add rate: 6/min"),
        (Action::Throttle, Some(RateText { count: 0, .. })) => {
            at(".rate", "a rate of zero refuses every request", "use action: block");
        }
        (Action::Throttle, Some(_)) | (_, None) => {}
        (_, Some(_)) => at(".rate", "a rate goes with throttle", "use action: throttle, or remove it"),
    }
    if written.action == Action::Throttle && !matches!(written.on, Phase::Request | Phase::Turn) {
        at(".action", "throttle slows the requests of a session down", "use on: request");
    }
    if written.action == Action::Kill && written.on == Phase::Connect {
        at(".action", "the session has not begun in this phase", "use on: request, or action: block");
    }
    if written.matching.is_some() && matches!(written.on, Phase::Connect | Phase::Turn) {
        at(".match", "no text is read in this phase", "use on: request, response, tool_call or tool_result");
    }
}
