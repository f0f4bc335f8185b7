//! The text of a body that is not held, read for the rules while it is forwarded.

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::receive::Received;
use crate::policy::facts::Phase;
use crate::policy::ruleset::RuleSet;
use crate::policy::scan::{Hit, Lane};
use crate::protocol::wire::coding::Decoder;

/// The text of a body so far.
pub(crate) struct Passing {
    lane: Lane,
    /// Of a compressed body.
    decoder: Option<Decoder>,
    /// Blanks are written as `+`.
    is_pairs: bool,
    /// The rest cannot be read.
    is_lost: bool,
    /// That was told.
    was_told: bool,
}

impl Passing {
    /// Begins with a body; `None` if no rule looks for anything in it.
    pub(super) fn begin(rules: &RuleSet, received: &Received, headers: &HeaderMap) -> Option<Box<Self>> {
        rules.patterns(Phase::Request)?;
        let media = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let decoder = Decoder::new(received.coding);
        Some(Box::new(Self {
            lane: Lane::new(),
            is_lost: decoder.is_err(),
            decoder: decoder.ok().flatten(),
            is_pairs: media.to_ascii_lowercase().contains("x-www-form-urlencoded"),
            was_told: false,
        }))
    }

    /// Reads the next bytes, and returns what was found. The end of the body is told with nothing.
    pub(super) fn read(&mut self, rules: &RuleSet, chunk: Option<&[u8]>) -> Vec<Hit> {
        let (mut hits, Some(patterns)) = (Vec::new(), rules.patterns(Phase::Request)) else {
            return Vec::new();
        };
        let Self { lane, decoder, is_pairs, .. } = self;
        let mut feed = |text: &[u8]| {
            let on = &mut |hit| hits.push(hit);
            match is_pairs {
                true => {
                    let blanks: Vec<u8> =
                        text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
                    patterns.feed(lane, &blanks, on);
                }
                false => patterns.feed(lane, text, on),
            }
        };
        match (chunk, decoder) {
            (Some(_), _) if self.is_lost => {}
            (Some(chunk), Some(decoder)) => self.is_lost = decoder.feed(chunk, feed).is_err(),
            (Some(chunk), None) => feed(chunk),
            (None, _) => patterns.end(lane, &mut |hit| hits.push(hit)),
        }
        hits
    }

    /// Whether a part of the text cannot be read, which was not told yet.
    pub(super) fn take_loss(&mut self) -> bool {
        let is_incomplete = self.is_lost || self.lane.exceeded();
        is_incomplete && !std::mem::replace(&mut self.was_told, true)
    }
}
