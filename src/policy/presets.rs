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

/// The rules of some presets.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// The rules with the preset that each is from.
    pub(super) rules: Vec<(&'static str, RuleConfig)>,
    pub(super) on_limit: Option<OnLimit>,
}

impl Chosen {
    /// Adds a preset and those that it extends. Of two rules with the same id the one with the stronger action counts.
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
        for (name, rule) in below.rules.into_iter().chain(own) {
            match self.rules.iter_mut().find(|(_, known)| known.id == rule.id) {
                None => self.rules.push((name, rule)),
                Some(known) if known.1.action < rule.action => *known = (name, rule),
                Some(_) => {}
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
