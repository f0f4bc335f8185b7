//! What the turns of one agent have in common.
//!
//! A turn is a request that brings results of tool calls: the calls that the model made, with what came of each. Requests without
//! results (a person's message, a title that a client asks for on the side) are no turns, and neither is the same body again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Turns that are remembered.
pub(super) const RING: usize = 64;
/// Turns in which the same call with the same result is counted.
pub(super) const REPEAT_WITHIN: usize = 32;
/// The longest period of a cycle, in turns.
const MAX_PERIOD: usize = 6;
/// Calls of one turn that are told apart; more are part of its fingerprint only.
const MAX_CALLS: usize = 32;
/// How long the same body is remembered.
const STORM: Duration = Duration::from_secs(60);

/// A tool call and its result, as a turn brings it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnCall {
    /// The tool.
    pub tool: Arc<str>,
    /// The digest of the tool and its arguments, in canonical form.
    pub call: u64,
    /// The digest of the result.
    pub result: u64,
    /// Whether the result is an error.
    pub is_error: bool,
}

/// What makes a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// The same call with the same result, in the last 32 turns.
    Repeat,
    /// The same call with different results.
    Poll,
    /// The same two to six turns round after round, with the same results.
    Cycle,
    /// Turns in a row whose results are all errors.
    Stall,
    /// The same body again within a minute.
    Storm,
}

impl Signal {
    /// All signals, in the order of the documentation.
    pub const ALL: [Self; 5] = [Self::Repeat, Self::Poll, Self::Cycle, Self::Stall, Self::Storm];

    /// The word in settings, headers and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Repeat => "repeat",
            Self::Poll => "poll",
            Self::Cycle => "cycle",
            Self::Stall => "stall",
            Self::Storm => "storm",
        }
    }
}

/// What a request adds to what was seen before. Counts include the request itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// Calls whose results it brings.
    pub tool_calls: u32,
    /// Results that no turn before it had, with the same call.
    pub new_results: u32,
    /// How often the same call had the same result.
    pub repeat: u32,
    /// How often the same call had another result.
    pub poll: u32,
    /// Rounds of a cycle.
    pub cycle: u32,
    /// Turns in a row with nothing but errors.
    pub stall: u32,
    /// How often this body came within a minute.
    pub storm: u32,
    /// The tool of the call that was made most often.
    pub tool: Option<Arc<str>>,
}

impl Observation {
    /// Returns the count of a signal.
    pub fn count(&self, signal: Signal) -> u32 {
        match signal {
            Signal::Repeat => self.repeat,
            Signal::Poll => self.poll,
            Signal::Cycle => self.cycle,
            Signal::Stall => self.stall,
            Signal::Storm => self.storm,
        }
    }
}

/// A turn, as it is remembered.
#[derive(Clone, Debug)]
struct Turn {
    /// Of all its calls and results, in no order.
    fingerprint: u64,
    /// Calls and results, each once.
    calls: Vec<(u64, u64)>,
}

/// The turns of one agent. Bounded: 64 turns of 32 calls, 64 bodies.
#[derive(Clone, Debug, Default)]
pub struct LoopWatch {
    turns: VecDeque<Turn>,
    /// For each period from 2 on, how many turns in a row were the same as the one a period before.
    runs: [u32; MAX_PERIOD - 1],
    stall: u32,
    /// The last bodies: their digests and times.
    bodies: VecDeque<(u64, Duration)>,
}

impl LoopWatch {
    /// Takes a request: the digest of its body and the calls whose results it brings. `now` is the time since any fixed moment.
    pub fn observe(&mut self, body: u64, calls: &[TurnCall], now: Duration) -> Observation {
        let storm = self.storm(body, now);
        if storm > 1 {
            // Nothing new: the turn was counted when it came first.
            return Observation { storm, ..Observation::default() };
        }
        if calls.is_empty() {
            return Observation { storm, stall: self.stall, ..Observation::default() };
        }
        let turn = Turn::of(calls);
        self.stall = if calls.iter().all(|call| call.is_error) { self.stall.saturating_add(1) } else { 0 };
        let cycle = self.cycle(turn.fingerprint);
        let mut seen = Observation {
            tool_calls: u32::try_from(calls.len()).unwrap_or(u32::MAX),
            cycle,
            stall: self.stall,
            storm,
            ..Observation::default()
        };
        let mut most = 0;
        for (call, result) in &turn.calls {
            let (repeat, poll) = self.times(*call, *result);
            if repeat == 1 {
                seen.new_results += 1;
            }
            seen.repeat = seen.repeat.max(repeat);
            seen.poll = seen.poll.max(poll);
            if repeat.max(poll) > most {
                most = repeat.max(poll);
                seen.tool =
                    calls.iter().find(|known| known.call == *call).map(|known| Arc::clone(&known.tool));
            }
        }
        if self.turns.len() == RING {
            self.turns.pop_front();
        }
        self.turns.push_back(turn);
        seen
    }

    /// How often this call was made with this result, and with others, the new one included.
    fn times(&self, call: u64, result: u64) -> (u32, u32) {
        let (mut same, mut other) = (1, 1);
        for (age, turn) in self.turns.iter().rev().enumerate() {
            let results = turn.calls.iter().filter(|(known, _)| *known == call);
            let (mut has_same, mut has_other) = (false, false);
            for (_, known) in results {
                if *known == result { has_same = true } else { has_other = true }
            }
            same += u32::from(has_same && age + 1 < REPEAT_WITHIN);
            other += u32::from(has_other && !has_same);
        }
        (same, other)
    }

    /// Returns the rounds of the longest cycle that ends with this turn; 0 without one.
    fn cycle(&mut self, fingerprint: u64) -> u32 {
        let mut rounds = 0;
        for (run, period) in self.runs.iter_mut().zip(2_u32..) {
            let before = self.turns.len().checked_sub(period as usize).and_then(|at| self.turns.get(at));
            let is_same = before.is_some_and(|turn| turn.fingerprint == fingerprint);
            *run = if is_same { run.saturating_add(1) } else { 0 };
            if *run >= period {
                rounds = rounds.max(*run / period + 1);
            }
        }
        // The same turn each time has every period: that is a repetition.
        if self.turns.back().is_some_and(|turn| turn.fingerprint == fingerprint) { 0 } else { rounds }
    }

    /// Returns how often this body came within [`STORM`], this time included.
    fn storm(&mut self, body: u64, now: Duration) -> u32 {
        self.bodies.retain(|(_, at)| now.saturating_sub(*at) < STORM);
        if self.bodies.len() == RING {
            self.bodies.pop_front();
        }
        self.bodies.push_back((body, now));
        let same = self.bodies.iter().filter(|(known, _)| *known == body).count();
        u32::try_from(same).unwrap_or(u32::MAX)
    }
}

impl Turn {
    fn of(calls: &[TurnCall]) -> Self {
        let mut all: Vec<(u64, u64)> = calls.iter().map(|call| (call.call, call.result)).collect();
        all.sort_unstable();
        all.dedup();
        // FNV-1a over digests, which are keyed already.
        let fingerprint = all
            .iter()
            .flat_map(|(call, result)| [*call, *result])
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, part| {
                (hash ^ part).wrapping_mul(0x0100_0000_01b3).rotate_left(29)
            });
        all.truncate(MAX_CALLS);
        Self { fingerprint, calls: all }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn call(call: u64, result: u64) -> TurnCall {
        TurnCall { tool: format!("tool{call}").into(), call, result, is_error: false }
    }

    fn error(id: u64, result: u64) -> TurnCall {
        TurnCall { is_error: true, ..call(id, result) }
    }

    /// Turns a second apart, each with a body of its own.
    fn run(turns: &[Vec<TurnCall>]) -> Observation {
        let mut watch = LoopWatch::default();
        let mut last = Observation::default();
        for (at, calls) in (0_u64..).zip(turns) {
            last = watch.observe(1000 + at, calls, Duration::from_secs(at));
        }
        last
    }

    #[test]
    fn the_same_call_with_the_same_result_counts_also_between_others() {
        let turns = (0..12).map(|at| vec![if at % 3 == 0 { call(1, 7) } else { call(50 + at, at) }]);
        let turns: Vec<_> = turns.chain([vec![call(1, 7), call(99, 1)]]).collect();
        let seen = run(&turns);
        assert_eq!((seen.repeat, seen.poll, seen.new_results, seen.tool_calls), (5, 1, 1, 2));
        assert_eq!(seen.tool.as_deref(), Some("tool1"));
        // After 32 turns it is forgotten.
        let mut long = vec![vec![call(1, 7)]];
        long.extend((0..31).map(|at| vec![call(50 + at, at)]));
        long.push(vec![call(1, 7)]);
        assert_eq!(run(&long).repeat, 1);
        assert_eq!(run(&long[1..]).repeat, 1);
        long.remove(1);
        assert_eq!(run(&long).repeat, 2);
    }

    #[test]
    fn the_same_call_with_other_results_is_a_poll() {
        let turns: Vec<_> = (0..20).map(|at| vec![call(1, at)]).collect();
        let seen = run(&turns);
        assert_eq!((seen.repeat, seen.poll, seen.new_results), (1, 20, 1));
    }

    #[test]
    fn rounds_are_counted_for_each_period_and_a_new_result_ends_them() {
        for period in 2..=6_u64 {
            let round = |at: u64| vec![call(at % period, 5)];
            let turns: Vec<_> = (0..period * 4).map(round).collect();
            assert_eq!(run(&turns).cycle, 4, "{period}");
            assert_eq!(run(&turns[..turns.len() - 1]).cycle, 3, "{period}");
            let mut odd = turns.clone();
            odd.push(vec![call(0, 6)]);
            assert_eq!(run(&odd).cycle, 0, "{period}: a new result");
        }
        let turns: Vec<_> = (0..28).map(|at| vec![call(at % 7, 5)]).collect();
        assert_eq!(run(&turns).cycle, 0, "a longer period");
        let same: Vec<_> = (0..20).map(|_| vec![call(1, 5)]).collect();
        assert_eq!((run(&same).cycle, run(&same).repeat), (0, 20));
        // Parallel calls in any order are the same turn.
        let turns: Vec<_> = (0..6)
            .map(|at| match at % 2 {
                0 if at % 4 == 0 => vec![call(1, 1), call(2, 2)],
                0 => vec![call(2, 2), call(1, 1), call(1, 1)],
                _ => vec![call(3, 3)],
            })
            .collect();
        assert_eq!(run(&turns).cycle, 3);
    }

    #[test]
    fn errors_in_a_row_stall() {
        let turns: Vec<_> = (0..8).map(|at| vec![error(at, at), error(90 + at, at)]).collect();
        assert_eq!(run(&turns).stall, 8);
        let mut mended = turns.clone();
        mended.push(vec![error(1, 1), call(2, 2)]);
        assert_eq!(run(&mended).stall, 0);
    }

    #[test]
    fn the_same_body_within_a_minute_is_a_storm_and_no_turn() {
        let mut watch = LoopWatch::default();
        let calls = [call(1, 1)];
        let mut at = |body, seconds| watch.observe(body, &calls, Duration::from_secs(seconds));
        assert_eq!((at(1, 0).storm, at(2, 1).storm), (1, 1));
        let again = at(1, 2);
        assert_eq!((again.storm, again.repeat, again.tool_calls), (2, 0, 0));
        assert_eq!(at(1, 59).storm, 3);
        assert_eq!(at(1, 61).storm, 3, "the first is older than a minute");
        assert_eq!(at(1, 300).storm, 1);
        for _ in 0..1000 {
            at(1, 300);
        }
        assert_eq!(at(1, 300).storm as usize, RING);
    }

    #[test]
    fn requests_without_results_are_no_turns() {
        let mut watch = LoopWatch::default();
        for at in 0..6 {
            watch.observe(at * 2, &[call(at % 2, 1)], Duration::from_secs(at * 90));
            watch.observe(at * 2 + 1, &[], Duration::from_secs(at * 90 + 1));
        }
        let seen = watch.observe(100, &[call(0, 1)], Duration::from_secs(999));
        assert_eq!((seen.cycle, seen.repeat), (3, 4));
    }

    fn turns() -> impl Strategy<Value = Vec<Vec<TurnCall>>> {
        let one = (0..4_u64, 0..3_u64, any::<bool>())
            .prop_map(|(id, result, is_error)| TurnCall { is_error, ..call(id, result) });
        proptest::collection::vec(proptest::collection::vec(one, 0..4), 0..120)
    }

    proptest! {
        #[test]
        fn counts_are_those_of_the_whole_history(turns in turns()) {
            let mut watch = LoopWatch::default();
            let mut history: Vec<&Vec<TurnCall>> = Vec::new();
            for (at, calls) in (0_u64..).zip(&turns) {
                let seen = watch.observe(at, calls, Duration::from_secs(at * 61));
                prop_assert!(watch.turns.len() <= RING && watch.bodies.len() <= RING);
                if calls.is_empty() {
                    continue;
                }
                history.push(calls);
                let last = &history[history.len().saturating_sub(REPEAT_WITHIN)..];
                let has = |turn: &[TurnCall], one: &TurnCall| {
                    turn.iter().any(|known| (known.call, known.result) == (one.call, one.result))
                };
                let repeat = calls.iter().map(|one| last.iter().filter(|turn| has(turn, one)).count()).max();
                prop_assert_eq!(seen.repeat as usize, repeat.unwrap_or(0));
                let rows = history.iter().rev().take_while(|turn| turn.iter().all(|one| one.is_error));
                prop_assert_eq!(seen.stall as usize, rows.count());
            }
        }

        #[test]
        fn turns_that_are_all_new_give_no_signal(count in 1..200_u64) {
            let turns: Vec<_> = (0..count).map(|at| vec![call(at, at)]).collect();
            let seen = run(&turns);
            prop_assert_eq!((seen.repeat, seen.poll, seen.cycle, seen.stall, seen.storm), (1, 1, 0, 0, 1));
        }
    }
}
