//! Checks of the file as a whole, before its sections are compiled.

use super::config_file::{ConfigFile, VERSION};
use super::tree::Tree;
use crate::settings::fault::Faults;

/// Checks the version, and that no source says what another one makes void.
pub(super) fn check_form(written: &ConfigFile, tree: &Tree, faults: &mut Faults) {
    check_version(written.version, faults);
    check_backend(written, tree, faults);
}

fn check_version(version: u32, faults: &mut Faults) {
    if version != VERSION {
        faults.add("version", format!("version {version} is not known"), format!("write version: {VERSION}"));
    }
}

/// `backend` set by a variable or flag must not be ignored silently when `backends` is used.
fn check_backend(written: &ConfigFile, tree: &Tree, faults: &mut Faults) {
    if !written.backends.0.is_empty() && tree.origins.contains_key("backend") {
        faults.add(
            "backend",
            "it is used only without backends, but backends are configured",
            "leave it out, or remove backends",
        );
    }
}
