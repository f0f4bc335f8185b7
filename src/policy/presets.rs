//! The presets: files of rules that are part of the program.

use serde::{Deserialize, Serialize};

use super::settings::{OnLimit, RuleConfig};

/// A preset as its file says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// What it is for.
    pub summary: String,
    /// Presets whose rules it has, too.
    #[serde(default)]
    pub extends: Vec<String>,
    /// What happens when a bound of scanning is reached.
    #[serde(default)]
    pub on_limit: Option<OnLimit>,
    /// Rules of the presets that it extends, by their ids, that it leaves out or has in another form.
    #[serde(default)]
    pub disable: Vec<String>,
    /// The rules.
    #[serde(default)]
    pub rules: Vec<RuleConfig>,
}

/// The presets by name, with their files.
pub const PRESETS: [(&str, &str); 5] = [
    ("minimal", include_str!("../../conf/policies/minimal.yaml")),
    ("standard", include_str!("../../conf/policies/standard.yaml")),
    ("strict", include_str!("../../conf/policies/strict.yaml")),
    ("coding-agent", include_str!("../../conf/policies/coding-agent.yaml")),
    ("mcp", include_str!("../../conf/policies/mcp.yaml")),
];

/// Returns the file of a preset.
pub fn text_of(name: &str) -> Option<&'static str> {
    PRESETS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// Whether a rule makes another one of the same id needless: it finds all that the other does, and acts at least as strongly.
fn covers(one: &RuleConfig, other: &RuleConfig) -> bool {
    let finds_all = match (&one.matching, &other.matching) {
        (Some(one), Some(other)) => {
            one.places == other.places && other.any.iter().all(|pattern| one.any.contains(pattern))
        }
        (one, other) => one == other,
    };
    let RuleConfig { id, on, when, mark, mode, unknown, rate, .. } = other;
    let same = (&one.id, one.on, &one.when, one.mode, one.unknown, one.rate)
        == (id, *on, when, *mode, *unknown, *rate);
    finds_all && same && one.action >= other.action && (mark.is_none() || one.mark == *mark)
}

/// The rules of some presets.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// The rules with the preset that each is from.
    pub(super) rules: Vec<(&'static str, RuleConfig)>,
    pub(super) on_limit: Option<OnLimit>,
}

impl Chosen {
    /// Adds a preset and those that it extends. Of two rules with the same id both are kept, unless one
    /// finds all that the other does and acts at least as strongly.
    ///
    /// # Errors
    /// No preset has this name.
    pub(super) fn add(&mut self, name: &str) -> Result<(), String> {
        let Some((name, text)) = PRESETS.iter().find(|(known, _)| *known == name) else {
            return Err(format!("no preset is called '{name}'"));
        };
        let preset: Preset = serde_yaml::from_str(text).map_err(|fault| format!("{name}: {fault}"))?;
        let mut below = Self::default();
        for extended in &preset.extends {
            below.add(extended)?;
        }
        below.rules.retain(|(_, rule)| !preset.disable.contains(&rule.id));
        let own = preset.rules.into_iter().map(|rule| (*name, rule));
        for (name, rule) in own {
            // A preset has its own form of a rule that it extends.
            match below.rules.iter_mut().find(|(_, known)| known.id == rule.id) {
                Some(known) => *known = (name, rule),
                None => below.rules.push((name, rule)),
            }
        }
        for (name, rule) in below.rules {
            if self.rules.iter().any(|(_, known)| covers(known, &rule)) {
                continue;
            }
            match self.rules.iter_mut().find(|(_, known)| covers(&rule, known)) {
                Some(known) => *known = (name, rule),
                None => self.rules.push((name, rule)),
            }
        }
        let strictest = |one: Option<OnLimit>, other: Option<OnLimit>| match (one, other) {
            (Some(OnLimit::Block), _) | (_, Some(OnLimit::Block)) => Some(OnLimit::Block),
            (one, other) => one.or(other),
        };
        self.on_limit = strictest(self.on_limit, strictest(below.on_limit, preset.on_limit));
        Ok(())
    }
}

#[cfg(test)]
mod ordinary_tests;
#[cfg(test)]
mod tests;
