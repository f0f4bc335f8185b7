//! The messages of a client over a WebSocket, each whole, for the rules.

use super::receive::Received;
use crate::policy::facts::Phase;
use crate::policy::ruleset::RuleSet;
use crate::protocol::wire::websocket::{FrameReader, Piece};

/// The messages of a client so far.
pub(crate) struct ClientMessages {
    frames: FrameReader,
    /// The one under way.
    message: Vec<u8>,
    /// It is compressed or too long.
    is_unreadable: bool,
    /// No frames are read any more, which was told.
    is_lost: bool,
    /// Bytes of a message that are kept.
    limit: usize,
}

impl ClientMessages {
    /// Begins with a socket; `None` if no rule asks for what a client says.
    pub(super) fn begin(rules: &RuleSet, received: &Received, limit: usize) -> Option<Box<Self>> {
        let is_asked = received.socket && (rules.has(Phase::Request) || rules.has(Phase::ToolResult));
        is_asked.then(|| {
            Box::new(Self {
                frames: FrameReader::default(),
                message: Vec::new(),
                is_unreadable: false,
                is_lost: false,
                limit,
            })
        })
    }

    /// Reads the next bytes, and returns the messages that end in them; `None` for one that cannot be read.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Vec<Option<Vec<u8>>> {
        let mut ended = Vec::new();
        let Self { frames, message, is_unreadable, limit, .. } = self;
        frames.feed(bytes, |piece| match piece {
            Piece::Data(part) => {
                *is_unreadable |= message.len() + part.len() > *limit;
                if !*is_unreadable {
                    message.extend_from_slice(part);
                }
            }
            Piece::Sealed => *is_unreadable = true,
            Piece::End => {
                let message = std::mem::take(message);
                ended.push((!std::mem::take(is_unreadable)).then_some(message));
            }
        });
        if frames.is_lost() && !std::mem::replace(&mut self.is_lost, true) {
            ended.push(None);
        }
        ended
    }
}
