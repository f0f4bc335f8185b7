//! Reads the texts of an answer, each choice, block and place in a lane of its own, so that a phrase or a secret is found however it
//! is divided into events (`judge_answer`).

use std::hash::{DefaultHasher, Hash, Hasher};

use super::facts::RequestFacts;
use super::judge_answer::{Hearing, result_facts};
use super::judging::{Heard, TextLane};
use super::withheld::Ruling;
use crate::policy::facts::Phase;
use crate::policy::rule::{Place, Role};
use crate::policy::ruleset::Element;
use crate::policy::scan::Lane;

/// Texts of one answer that are read at the same time.
const MAX_LANES: usize = 128;
/// Texts that have ended and are known.
const MAX_GONE: usize = 1 << 14;

impl Heard {
    /// A block or a choice has ended: its texts may make room for others.
    pub(super) fn close_lanes(&mut self, choice: u64, index: Option<u64>) {
        let lanes = self.lanes.iter_mut().filter(|lane| lane.choice == choice && lane.index == index);
        lanes.for_each(|lane| lane.is_closed = true);
    }
}

impl Hearing<'_> {
    /// Reads what was gathered, which belongs to this choice or block.
    pub(super) fn read(&mut self, choice: u64, index: Option<u64>) {
        let phase = self.heard.phase;
        let (text, thoughts) = (Place::Text.in_phase(phase), Place::Reasoning.in_phase(phase));
        self.read_gathered(choice, index, text, |heard| &mut heard.text);
        self.read_gathered(choice, index, thoughts, |heard| &mut heard.thoughts);
        self.read_gathered(choice, index, Place::ToolDefinition, |heard| &mut heard.definitions);
    }

    fn read_gathered(
        &mut self,
        choice: u64,
        index: Option<u64>,
        place: Place,
        of: fn(&mut Heard) -> &mut Vec<u8>,
    ) {
        if !of(self.heard).is_empty() {
            let mut text = std::mem::take(of(self.heard));
            self.feed(choice, index, place, &text);
            text.clear();
            *of(self.heard) = text;
        }
    }

    fn feed(&mut self, choice: u64, index: Option<u64>, place: Place, text: &[u8]) {
        let Some(patterns) = self.patterns else { return };
        let lanes = &mut self.heard.lanes;
        let is_it = |lane: &TextLane| lane.choice == choice && lane.index == index && lane.place == place;
        let at = match lanes.iter().rposition(is_it) {
            Some(at) => at,
            None if lanes.len() >= MAX_LANES && !self.make_room() => return self.limit(),
            None => self.open(choice, index, place),
        };
        let Heard { lanes, hits, .. } = &mut *self.heard;
        let lane = &mut lanes[at];
        lane.fed += text.len() as u64;
        patterns.feed(&mut lane.lane, text, &mut |hit| hits.push(hit));
        let has_exceeded = lane.lane.exceeded();
        self.judge(at);
        if has_exceeded {
            self.limit();
        }
    }

    fn open(&mut self, choice: u64, index: Option<u64>, place: Place) -> usize {
        let mut hasher = DefaultHasher::new();
        let request = self.with.ends.who.received.request_id.as_str();
        (request, choice, index, place as u8).hash(&mut hasher);
        let digest = hasher.finish().max(1);
        if self.heard.gone.contains(&digest) {
            // It goes on behind its end: what it began with is not known any more.
            self.limit();
        }
        let (lane, fed, undecided, is_closed) = (Lane::new(), 0, None, false);
        self.heard.lanes.push(TextLane { choice, index, place, lane, fed, undecided, digest, is_closed });
        self.heard.lanes.len() - 1
    }

    /// Ends a lane whose block or choice has ended. Returns whether there was one.
    fn make_room(&mut self) -> bool {
        let Some(at) = self.heard.lanes.iter().position(|lane| lane.is_closed) else { return false };
        if self.heard.gone.len() >= MAX_GONE {
            return false;
        }
        self.end_lane(at);
        let lane = self.heard.lanes.remove(at);
        self.heard.gone.insert(lane.digest);
        true
    }

    fn end_lane(&mut self, at: usize) {
        let Some(patterns) = self.patterns else { return };
        let Heard { lanes, hits, .. } = &mut *self.heard;
        patterns.end(&mut lanes[at].lane, &mut |hit| hits.push(hit));
        self.judge(at);
    }

    /// Judges what was found in a lane.
    fn judge(&mut self, at: usize) {
        let Heard { lanes, hits, verdict, phase, bytes, .. } = &mut *self.heard;
        if hits.is_empty() {
            return;
        }
        let role = Some(if *phase == Phase::ToolResult { Role::Tool } else { Role::Assistant });
        let element = Element { role, place: lanes[at].place, hits, digest: lanes[at].digest };
        let tool = result_facts(self.with.ends, *bytes);
        let facts = RequestFacts { tool: tool.as_ref(), ..self.facts };
        self.rules.judge(*phase, &facts, &element, verdict);
        hits.clear();
    }

    pub(super) fn end_lanes(&mut self) {
        (0..self.heard.lanes.len()).for_each(|at| self.end_lane(at));
        self.heard.lanes.clear();
    }

    /// Tells whether a secret is under way.
    pub(super) fn undecided(&mut self, text: u64) -> Option<Ruling> {
        let (mut longest, mut is_new) = (None, true);
        for lane in &mut self.heard.lanes {
            let from = lane.lane.held_from();
            is_new &= from.is_none() || from != lane.undecided;
            longest = longest.max(from.map(|from| lane.fed.saturating_sub(from)));
            lane.undecided = from;
        }
        longest.map(|of_secret| Ruling::Undecided { text, of_secret, is_new })
    }
}
