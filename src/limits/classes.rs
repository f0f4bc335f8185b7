//! The `admission:` section: which requests are more important than others, how long one waits for room, and which are refused
//! when there is far too much to do.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::millis;
use crate::policy::expr::{Expression, Truth};
use crate::policy::facts::{Facts, Phase};
use crate::settings::fault::Faults;
use crate::settings::units::DurationText;

/// The most rules.
const MAX_RULES: usize = 64;
/// The longest wait. Clients and proxies in front give up later than this.
const LONGEST: Duration = Duration::from_secs(30);

/// How important a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// May wait, and is refused first.
    Low,
    /// What no rule gives another class.
    #[default]
    Normal,
    /// Goes first.
    High,
}

impl Class {
    /// The word of the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

/// How requests are admitted when there is no room for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Admission")]
pub struct AdmissionConfig {
    /// How long a request waits for room in `limits` and `budgets` before it is refused; 0s refuses it at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<DurationText>,
    /// The classes of requests: the first rule whose `when` holds decides. All others are `normal`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub priorities: Vec<PriorityConfig>,
    /// What happens when too many requests are open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emergency: Option<EmergencyConfig>,
    /// What happens to requests that rates of `limits` count while the Redis of a fleet does not answer.
    pub on_unavailable: OnUnavailable,
}

/// What happens while the store of a fleet does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "RatesOnUnavailable")]
pub enum OnUnavailable {
    /// Each instance admits an equal part of each rate.
    #[default]
    Share,
    /// What was not granted before is refused.
    Refuse,
    /// All is admitted.
    Open,
}

/// A class of requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Priority")]
pub struct PriorityConfig {
    /// A condition over facts that are known from the head. What cannot be decided does not hold.
    pub when: String,
    /// The class: `low`, `normal` or `high`.
    pub class: Class,
}

/// When requests are shed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Emergency")]
pub struct EmergencyConfig {
    /// Open requests of this instance, streams and WebSockets too, above which requests are refused.
    pub in_flight: u32,
    /// The class that is refused then, and with it every lower one.
    pub shed: Class,
}

/// The compiled section.
#[derive(Clone, Debug, Default)]
pub struct AdmissionRules {
    wait: u64,
    priorities: Arc<[(Expression, Class)]>,
    emergency: Option<EmergencyConfig>,
    on_unavailable: OnUnavailable,
}

impl AdmissionRules {
    /// What happens while the store of a fleet does not answer.
    pub fn on_unavailable(&self) -> OnUnavailable {
        self.on_unavailable
    }

    /// How long a request waits for room, in milliseconds.
    pub fn wait(&self) -> u64 {
        self.wait
    }

    /// When requests are shed.
    pub fn emergency(&self) -> Option<EmergencyConfig> {
        self.emergency
    }

    /// Whether anything depends on the class of a request.
    pub fn has_classes(&self) -> bool {
        !self.priorities.is_empty()
    }

    /// Returns the class of a request whose head was read.
    pub fn class(&self, facts: &dyn Facts) -> Class {
        let rule = self.priorities.iter().find(|(when, _)| when.truth(facts) == Truth::Yes);
        rule.map_or(Class::Normal, |(_, class)| *class)
    }
}

impl AdmissionConfig {
    /// Compiles the section, even after a fault.
    pub fn compile(self, faults: &mut Faults) -> Option<AdmissionRules> {
        let before = faults.iter().count();
        let wait = self.wait.map_or(Duration::ZERO, |wait| wait.0);
        if wait > LONGEST {
            let message = format!("a request waits for {} s at most", LONGEST.as_secs());
            faults.add("admission.wait", message, "write a shorter time; clients come again by themselves");
        }
        if self.priorities.len() > MAX_RULES {
            let message = format!("{} rules are more than {MAX_RULES}", self.priorities.len());
            faults.add("admission.priorities", message, "join conditions with ||");
        }
        if self.emergency.is_some_and(|emergency| emergency.in_flight == 0) {
            let hint = "write a number above zero";
            faults.add("admission.emergency.in_flight", "zero would refuse every request", hint);
        }
        if self.emergency.is_some_and(|emergency| emergency.shed == Class::High) {
            let message = "every class would be refused";
            faults.add("admission.emergency.shed", message, "write low or normal");
        }
        let mut priorities = Vec::with_capacity(self.priorities.len());
        for (place, PriorityConfig { when, class }) in self.priorities.into_iter().enumerate() {
            let path = format!("admission.priorities[{place}].when");
            match Expression::condition(&when, Phase::Connect) {
                Ok(compiled) => priorities.push((compiled, class)),
                Err(fault) => faults.add_within(&path, &when, fault.at, fault.message, fault.hint),
            }
        }
        let rules = AdmissionRules {
            wait: millis(wait),
            priorities: priorities.into(),
            emergency: self.emergency,
            on_unavailable: self.on_unavailable,
        };
        (faults.iter().count() == before).then_some(rules)
    }
}
