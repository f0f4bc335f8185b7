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

impl Hearing<'_> {
    /// Reads what was gathered, which belongs to this choice or block.
    pub(super) fn read(&mut self, choice: u64, index: Option<u64>) {
        if !self.heard.text.is_empty() {
            let mut text = std::mem::take(&mut self.heard.text);
            let place = if self.heard.phase == Phase::ToolResult { Place::ToolResult } else { Place::Text };
            self.feed(choice, index, place, &text);
            text.clear();
            self.heard.text = text;
        }
        if !self.heard.thoughts.is_empty() {
            let mut text = std::mem::take(&mut self.heard.thoughts);
            // What a server says beside the result.
            let place =
                if self.heard.phase == Phase::ToolResult { Place::ToolResult } else { Place::Reasoning };
            self.feed(choice, index, place, &text);
            text.clear();
            self.heard.thoughts = text;
        }
    }

    fn feed(&mut self, choice: u64, index: Option<u64>, place: Place, text: &[u8]) {
        let Some(patterns) = self.patterns else { return };
        let lanes = &mut self.heard.lanes;
        let is_it = |lane: &TextLane| lane.choice == choice && lane.index == index && lane.place == place;
        let at = match lanes.iter().rposition(is_it) {
            Some(at) => at,
            None if lanes.len() >= MAX_LANES => return self.limit(),
            None => {
                let mut hasher = DefaultHasher::new();
                let request = self.with.ends.who.received.request_id.as_str();
                (request, choice, index, place as u8).hash(&mut hasher);
                let digest = hasher.finish().max(1);
                lanes.push(TextLane {
                    choice,
                    index,
                    place,
                    lane: Lane::new(),
                    fed: 0,
                    undecided: None,
                    digest,
                });
                lanes.len() - 1
            }
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
        let Some(patterns) = self.patterns else { return };
        for at in 0..self.heard.lanes.len() {
            let Heard { lanes, hits, .. } = &mut *self.heard;
            patterns.end(&mut lanes[at].lane, &mut |hit| hits.push(hit));
            self.judge(at);
        }
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
