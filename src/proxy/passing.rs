//! The text of a body that is not held, read for the rules while it is forwarded.

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::receive::Received;
use crate::policy::facts::Phase;
use crate::policy::ruleset::RuleSet;
use crate::policy::scan::{Hit, Lane};
use crate::protocol::wire::coding::Decoder;
use crate::protocol::wire::multipart::FormScan;
use crate::protocol::wire::quoted_printable::QuotedPrintable;

/// The text of a body so far.
pub(crate) struct Passing {
    lane: Lane,
    /// Of a compressed body.
    decoder: Option<Decoder>,
    /// Blanks are written as `+`.
    is_pairs: bool,
    /// Of a form, whose parts may be encoded, with the text of those that are.
    encoded: Option<Box<(QuotedPrintable, Lane)>>,
    /// The rest cannot be read.
    is_lost: bool,
    /// That was told.
    was_told: bool,
}

/// Whether a body is an `application/x-www-form-urlencoded` form.
pub(super) fn is_pairs(headers: &HeaderMap) -> bool {
    media(headers).to_ascii_lowercase().contains("x-www-form-urlencoded")
}

fn media(headers: &HeaderMap) -> &str {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Returns a text of such a form with its blanks.
pub(super) fn spaced(text: &[u8]) -> Vec<u8> {
    text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect()
}

impl Passing {
    /// Begins with a body; `None` if no rule looks for anything in it.
    pub(super) fn begin(rules: &RuleSet, received: &Received, headers: &HeaderMap) -> Option<Box<Self>> {
        rules.patterns(Phase::Request)?;
        let decoder = Decoder::new(received.coding);
        Some(Box::new(Self {
            lane: Lane::new(),
            is_lost: decoder.is_err(),
            decoder: decoder.ok().flatten(),
            is_pairs: is_pairs(headers),
            encoded: FormScan::is_form(media(headers))
                .then(|| Box::new((QuotedPrintable::default(), Lane::new()))),
            was_told: false,
        }))
    }

    /// Reads the next bytes, and returns what was found. The end of the body is told with nothing.
    pub(super) fn read(&mut self, rules: &RuleSet, chunk: Option<&[u8]>) -> Vec<Hit> {
        let (mut hits, Some(patterns)) = (Vec::new(), rules.patterns(Phase::Request)) else {
            return Vec::new();
        };
        let Self { lane, decoder, is_pairs, encoded, .. } = self;
        let mut feed = |text: &[u8]| {
            let on = &mut |hit| hits.push(hit);
            match is_pairs {
                true => patterns.feed(lane, &spaced(text), on),
                false => patterns.feed(lane, text, on),
            }
            if let Some((decoder, lane)) = encoded.as_deref_mut() {
                let mut plain = Vec::new();
                decoder.feed(text, &mut plain);
                patterns.feed(lane, &plain, on);
            }
        };
        match (chunk, decoder) {
            (Some(_), _) if self.is_lost => {}
            (Some(chunk), Some(decoder)) => self.is_lost = decoder.feed(chunk, feed).is_err(),
            (Some(chunk), None) => feed(chunk),
            (None, _) => {
                let lanes = [Some(lane), encoded.as_deref_mut().map(|(_, lane)| lane)];
                lanes.into_iter().flatten().for_each(|lane| patterns.end(lane, &mut |hit| hits.push(hit)));
            }
        }
        hits
    }

    /// Whether a part of the text cannot be read, which was not told yet.
    pub(super) fn take_loss(&mut self) -> bool {
        let has_exceeded = self.encoded.as_ref().is_some_and(|encoded| encoded.1.exceeded());
        let is_incomplete = self.is_lost || self.lane.exceeded() || has_exceeded;
        is_incomplete && !std::mem::replace(&mut self.was_told, true)
    }
}
