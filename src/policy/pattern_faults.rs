//! Compiles the patterns of a phase, and reports each that cannot be.

use super::scan::{Pattern, Patterns};
use crate::settings::fault::Faults;

/// The most faults that are reported of one phase.
const MOST: usize = 32;

/// Compiles patterns. `places` says where each is written.
pub(super) fn compile_all(
    mut patterns: Vec<Pattern>,
    mut places: Vec<String>,
    faults: &mut Faults,
) -> Option<Patterns> {
    for tried in 0..MOST {
        let fault = match Patterns::compile(&patterns) {
            Ok(compiled) => return (tried == 0).then_some(compiled),
            Err(fault) => fault,
        };
        if fault.index >= places.len() {
            faults.add("policy.rules", fault.message, fault.hint);
            return None;
        }
        faults.add(places.remove(fault.index), fault.message, fault.hint);
        // The others may have faults, too.
        patterns.remove(fault.index);
    }
    None
}
