//! From which counts on something is done about a loop: `policy.loops`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::watch::{Observation, REPEAT_WITHIN, RING, Signal};
use crate::settings::fault::Faults;

/// What is done about a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LoopLevel {
    /// A finding.
    Flag,
    /// A finding, and the header field `X-Elida-Notice` in the response.
    Hint,
    /// The request is held until an operator answers.
    Hold,
    /// The session is killed.
    Kill,
}

impl LoopLevel {
    const ALL: [Self; 4] = [Self::Flag, Self::Hint, Self::Hold, Self::Kill];

    /// The word in settings and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Hint => "hint",
            Self::Hold => "hold",
            Self::Kill => "kill",
        }
    }
}

/// From which counts of a signal on something is done; 0 is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "LoopCounts")]
pub struct LoopCountsConfig {
    /// It is a finding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flag: Option<u32>,
    /// The response says so to the client, in `X-Elida-Notice`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<u32>,
    /// The request is held until an operator answers; never, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<u32>,
    /// The session is killed; never, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kill: Option<u32>,
}

/// How loops of agents are found. An empty section (`loops: {}`) has the defaults of each signal; without it nothing is watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Loops")]
pub struct LoopsConfig {
    /// The same call with the same result in the last 32 turns: flag 5, hint 8.
    pub repeat: LoopCountsConfig,
    /// The same call with different results: flag 20, hint 40.
    pub poll: LoopCountsConfig,
    /// The same two to six turns, in rounds: flag 3, hint 4.
    pub cycle: LoopCountsConfig,
    /// Turns in a row whose results are all errors: flag 8, hint 12.
    pub stall: LoopCountsConfig,
    /// The same body again within a minute: flag 10.
    pub storm: LoopCountsConfig,
}

/// The counts of one signal, by level; 0 is never.
type Counts = [u32; 4];

/// How loops of agents are found, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopRules([Counts; 5]);

/// A loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundLoop {
    /// What makes it one.
    pub signal: Signal,
    /// How often.
    pub count: u32,
    /// What is done about it.
    pub level: LoopLevel,
    /// Whether the count has just reached a level: the event is told once.
    pub is_new: bool,
}

impl LoopsConfig {
    fn of(&self, signal: Signal) -> (LoopCountsConfig, Counts, usize) {
        match signal {
            Signal::Repeat => (self.repeat, [5, 8, 0, 0], REPEAT_WITHIN),
            Signal::Poll => (self.poll, [20, 40, 0, 0], RING),
            Signal::Cycle => (self.cycle, [3, 4, 0, 0], usize::MAX),
            Signal::Stall => (self.stall, [8, 12, 0, 0], usize::MAX),
            Signal::Storm => (self.storm, [10, 0, 0, 0], RING),
        }
    }

    /// Compiles the section; reports every fault. `path` is where it is in the file.
    pub fn compile(&self, path: &str, faults: &mut Faults) -> Option<LoopRules> {
        let compiled = Signal::ALL.map(|signal| {
            let (written, defaults, most) = self.of(signal);
            let written = [written.flag, written.hint, written.hold, written.kill];
            let mut counts = defaults;
            for (count, written) in counts.iter_mut().zip(written) {
                *count = written.unwrap_or(*count);
            }
            check(&counts, most, &format!("{path}.{}", signal.name()), faults).then_some(counts)
        });
        let mut rules = [[0; 4]; 5];
        for (rule, counts) in rules.iter_mut().zip(compiled) {
            *rule = counts?;
        }
        Some(LoopRules(rules))
    }
}

/// Returns whether the counts can be reached, and the stronger level comes later.
fn check(counts: &Counts, most: usize, path: &str, faults: &mut Faults) -> bool {
    let mut before = 1;
    for (level, count) in LoopLevel::ALL.into_iter().zip(*counts) {
        let path = format!("{path}.{}", level.name());
        if count == 0 {
            continue;
        }
        if count < 2 {
            faults.add(path, "once is no loop", "write 2 or more, or 0 for never");
            return false;
        }
        if count as usize > most {
            faults.add(path, format!("{count} is never reached"), format!("at most {most} are counted"));
            return false;
        }
        if count < before {
            let message = format!("{count} is less than the {before} of a weaker level");
            faults.add(path, message, "write the counts in the order flag, hint, hold, kill");
            return false;
        }
        before = count;
    }
    true
}

impl LoopRules {
    /// Returns the loop that most is to be done about; `None` if there is none.
    pub fn judge(&self, seen: &Observation) -> Option<FoundLoop> {
        let found = Signal::ALL.into_iter().zip(&self.0).filter_map(|(signal, counts)| {
            let count = seen.count(signal);
            let reached = LoopLevel::ALL.into_iter().zip(counts).rev();
            let (level, at) = reached.into_iter().find(|(_, at)| **at > 0 && count >= **at)?;
            Some(FoundLoop { signal, count, level, is_new: count == *at })
        });
        found.max_by_key(|found| (found.level, found.is_new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(yaml: &str) -> Result<LoopRules, String> {
        let mut faults = Faults::default();
        let written: LoopsConfig = serde_yaml::from_str(yaml).map_err(|fault| fault.to_string())?;
        written.compile("policy.loops", &mut faults).ok_or_else(|| faults.to_string())
    }

    fn level(rules: &LoopRules, signal: Signal, count: u32) -> Option<(LoopLevel, bool)> {
        let mut seen = Observation::default();
        match signal {
            Signal::Repeat => seen.repeat = count,
            Signal::Poll => seen.poll = count,
            Signal::Cycle => seen.cycle = count,
            Signal::Stall => seen.stall = count,
            Signal::Storm => seen.storm = count,
        }
        rules.judge(&seen).map(|found| {
            assert_eq!((found.signal, found.count), (signal, count));
            (found.level, found.is_new)
        })
    }

    #[test]
    fn the_defaults_flag_and_hint_and_never_hold_or_kill() {
        let rules = compiled("{}").unwrap();
        for (signal, flag, hint) in [
            (Signal::Repeat, 5, Some(8)),
            (Signal::Poll, 20, Some(40)),
            (Signal::Cycle, 3, Some(4)),
            (Signal::Stall, 8, Some(12)),
            (Signal::Storm, 10, None),
        ] {
            assert_eq!(level(&rules, signal, flag - 1), None, "{signal:?}");
            assert_eq!(level(&rules, signal, flag), Some((LoopLevel::Flag, true)), "{signal:?}");
            if let Some(hint) = hint {
                assert_eq!(level(&rules, signal, hint - 1).unwrap().0, LoopLevel::Flag, "{signal:?}");
                assert_eq!(level(&rules, signal, hint), Some((LoopLevel::Hint, true)), "{signal:?}");
                assert_eq!(level(&rules, signal, 10_000), Some((LoopLevel::Hint, false)), "{signal:?}");
            }
        }
    }

    #[test]
    fn the_strongest_level_counts_and_single_values_can_be_written() {
        let rules =
            compiled("{ repeat: { hold: 12, kill: 30 }, stall: { flag: 0, hint: 0, kill: 9 } }").unwrap();
        assert_eq!(level(&rules, Signal::Repeat, 5), Some((LoopLevel::Flag, true)));
        assert_eq!(level(&rules, Signal::Repeat, 12), Some((LoopLevel::Hold, true)));
        assert_eq!(level(&rules, Signal::Repeat, 30), Some((LoopLevel::Kill, true)));
        assert_eq!(level(&rules, Signal::Stall, 8), None);
        let both = Observation { repeat: 9, stall: 9, ..Observation::default() };
        assert_eq!(rules.judge(&both).unwrap().signal, Signal::Stall);
    }

    #[test]
    fn counts_that_make_no_sense_are_faults() {
        for (yaml, path) in [
            ("repeat: { flag: 1 }", "policy.loops.repeat.flag"),
            ("repeat: { kill: 33 }", "policy.loops.repeat.kill"),
            ("cycle: { hint: 2 }", "policy.loops.cycle.hint"),
            ("storm: { kill: 65 }", "policy.loops.storm.kill"),
        ] {
            let fault = compiled(yaml).unwrap_err();
            assert!(fault.contains(path), "{yaml}: {fault}");
        }
        assert!(compiled("repeat: { often: 3 }").is_err());
    }
}
