//! Reads the texts of an answer, each choice, block and place in a lane of its own, so that a phrase or a secret is found however it
//! is divided into events: of answers that pass (`judge_answer`), and of those that rules are tried on (`trial`).

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use crate::policy::facts::Phase;
use crate::policy::rule::{Place, Role};
use crate::policy::ruleset::Element;
use crate::policy::scan::{Hit, Lane, Patterns};
use crate::protocol::answer::events::Event;

/// Texts of one answer that are read at the same time.
const MAX_LANES: usize = 128;
/// Texts that have ended and are known.
const MAX_GONE: usize = 1 << 14;
/// Bytes of text that are gathered before they are read; more than an event has.
pub(super) const MAX_GATHERED: usize = 64 << 10;

/// Texts that stand beside each other in an event: what the model writes, and what it does not write.
const KINDS: [(Place, bool); 4] =
    [(Place::Text, false), (Place::Reasoning, false), (Place::ToolDefinition, false), (Place::Text, true)];

/// What was found.
pub(super) enum Told<'a> {
    /// Patterns, in this text.
    Found(&'a Element<'a>),
    /// Something was not read.
    Limit,
}

/// The texts of one answer.
pub(super) struct AnswerLanes {
    phase: Phase,
    /// Tell the texts of this answer from those of others.
    keys: RandomState,
    /// What no lane has yet, of each of [`KINDS`].
    gathered: [Vec<u8>; KINDS.len()],
    lanes: Vec<TextLane>,
    /// Digests of lanes that were closed and made room for others.
    gone: HashSet<u64>,
    hits: Vec<Hit>,
}

/// Which text of the answer it is: its choice, its block, and its place in [`KINDS`].
type LaneName = (u64, Option<u64>, usize);

/// A text of the answer.
struct TextLane {
    name: LaneName,
    lane: Lane,
    /// Bytes that it was fed.
    fed: u64,
    /// Where a secret began that was undecided at the last ruling.
    undecided: Option<u64>,
    digest: u64,
    /// Its block or choice has ended.
    is_closed: bool,
}

impl AnswerLanes {
    /// The texts of an answer that is judged in this phase.
    pub(super) fn new(phase: Phase) -> Self {
        Self {
            phase,
            keys: RandomState::new(),
            gathered: Default::default(),
            lanes: Vec::new(),
            gone: HashSet::new(),
            hits: Vec::new(),
        }
    }

    /// Gathers what an event says. Returns whether it is so much that it must be read.
    pub(super) fn say(&mut self, event: &Event<'_>) -> bool {
        let (kind, text) = match event {
            Event::Text(text) => (0, text),
            Event::Reasoning(text) => (1, text),
            Event::Definition(text) => (2, text),
            Event::Result(text) => (3, text),
            _ => return false,
        };
        self.gathered[kind].extend_from_slice(text);
        self.gathered.iter().map(Vec::len).sum::<usize>() > MAX_GATHERED
    }

    /// Reads what was gathered, which belongs to this choice or block.
    pub(super) fn read(
        &mut self,
        patterns: &Patterns,
        choice: u64,
        index: Option<u64>,
        on: &mut dyn FnMut(Told<'_>),
    ) {
        for kind in 0..KINDS.len() {
            if !self.gathered[kind].is_empty() {
                let mut text = std::mem::take(&mut self.gathered[kind]);
                self.feed(patterns, (choice, index, kind), &text, on);
                text.clear();
                self.gathered[kind] = text;
            }
        }
    }

    fn feed(&mut self, patterns: &Patterns, name: LaneName, text: &[u8], on: &mut dyn FnMut(Told<'_>)) {
        let at = match self.lanes.iter().rposition(|lane| lane.name == name) {
            Some(at) => at,
            None if self.lanes.len() >= MAX_LANES && !self.make_room(patterns, on) => {
                return on(Told::Limit);
            }
            None => self.open(name, on),
        };
        let Self { lanes, hits, .. } = self;
        let lane = &mut lanes[at];
        lane.fed += text.len() as u64;
        patterns.feed(&mut lane.lane, text, &mut |hit| hits.push(hit));
        let has_exceeded = lane.lane.exceeded();
        self.tell(at, on);
        if has_exceeded {
            on(Told::Limit);
        }
    }

    fn open(&mut self, name: LaneName, on: &mut dyn FnMut(Told<'_>)) -> usize {
        let digest = self.keys.hash_one(name).max(1);
        if self.gone.contains(&digest) {
            // It goes on behind its end: what it began with is not known any more.
            on(Told::Limit);
        }
        let (lane, fed, undecided, is_closed) = (Lane::new(), 0, None, false);
        self.lanes.push(TextLane { name, lane, fed, undecided, digest, is_closed });
        self.lanes.len() - 1
    }

    /// A block or a choice has ended: its texts may make room for others.
    pub(super) fn close(&mut self, choice: u64, index: Option<u64>) {
        let lanes = self.lanes.iter_mut().filter(|lane| (lane.name.0, lane.name.1) == (choice, index));
        lanes.for_each(|lane| lane.is_closed = true);
    }

    /// Ends a lane whose block or choice has ended. Returns whether there was one.
    fn make_room(&mut self, patterns: &Patterns, on: &mut dyn FnMut(Told<'_>)) -> bool {
        let Some(at) = self.lanes.iter().position(|lane| lane.is_closed) else { return false };
        if self.gone.len() >= MAX_GONE {
            return false;
        }
        self.end_lane(patterns, at, on);
        let lane = self.lanes.remove(at);
        self.gone.insert(lane.digest);
        true
    }

    /// The answer has ended, and with it all texts.
    pub(super) fn end(&mut self, patterns: &Patterns, on: &mut dyn FnMut(Told<'_>)) {
        (0..self.lanes.len()).for_each(|at| self.end_lane(patterns, at, on));
        self.lanes.clear();
    }

    fn end_lane(&mut self, patterns: &Patterns, at: usize, on: &mut dyn FnMut(Told<'_>)) {
        let Self { lanes, hits, .. } = self;
        patterns.end(&mut lanes[at].lane, &mut |hit| hits.push(hit));
        self.tell(at, on);
    }

    /// Tells what was found in a lane.
    fn tell(&mut self, at: usize, on: &mut dyn FnMut(Told<'_>)) {
        if self.hits.is_empty() {
            return;
        }
        let TextLane { name: (_, _, kind), digest, .. } = self.lanes[at];
        let (place, is_result) = KINDS[kind];
        let is_of_tool = is_result || self.phase == Phase::ToolResult;
        let role = Some(if is_of_tool { Role::Tool } else { Role::Assistant });
        on(Told::Found(&Element { role, place: place.in_phase(self.phase), hits: &self.hits, digest }));
        self.hits.clear();
    }

    /// Returns how many bytes have been read of what may be a secret, and whether it is a new one: all that were undecided
    /// before it are decided.
    pub(super) fn undecided(&mut self) -> Option<(u64, bool)> {
        let (mut longest, mut is_new) = (None, true);
        for lane in &mut self.lanes {
            let from = lane.lane.held_from();
            is_new &= from.is_none() || from != lane.undecided;
            longest = longest.max(from.map(|from| lane.fed.saturating_sub(from)));
            lane.undecided = from;
        }
        longest.map(|of_secret| (of_secret, is_new))
    }
}
