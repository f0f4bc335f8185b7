//! WebSocket frames (RFC 6455), read as they flow by in one direction, and the frames with which a
//! socket is ended.
//!
//! Only a frame's head is buffered: payload is passed on as it arrives, unmasked through a
//! small buffer on the stack. The reader does not validate: whatever its lengths allow is followed
//! (reserved opcodes, missing masks), since the peers must fail the connection. Where the
//! lengths make no sense the reader is lost and stays so.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much is unmasked at a time.
const STRIDE: usize = 1024;

/// The longest payload of a control frame (RFC 6455, 5.5).
const CONTROL_MAX: usize = 125;

/// The longest reason in a Close frame: its code takes two bytes.
const REASON_MAX: usize = CONTROL_MAX - 2;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const CLOSE: u8 = 8;

/// What passed in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Traffic {
    /// Frames, control frames included.
    pub frames: u64,
    /// Messages that ended.
    pub messages: u64,
    /// Payload of text messages, as sent: compressed, when they were.
    pub text_bytes: u64,
    /// Payload of binary messages.
    pub binary_bytes: u64,
}

/// A part of a data message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes of its payload, unmasked.
    Data(&'a [u8]),
    /// Its payload cannot be read: it is compressed (RFC 7692), or of another extension.
    Sealed,
    /// It is complete.
    End,
}

/// The position of a stream: whether a frame may be written into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FramePosition {
    /// Between two messages: any frame may follow.
    Between,
    /// Between two frames of a message: control frames only (RFC 6455, 5.4).
    Fragmented,
    /// In a frame, behind the Close frame, or in no WebSocket at all: nothing may follow.
    Inside,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Payload,
    /// This is no WebSocket.
    Lost,
}

/// The message that a frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Message {
    is_text: bool,
    /// Its payload is passed on.
    is_read: bool,
}

/// Reads one direction of a socket, chunk by chunk.
#[derive(Debug)]
pub struct FrameReader {
    state: State,
    head: [u8; 14],
    head_len: usize,
    /// The messages are not read, so nothing is unmasked.
    only_counts: bool,
    /// Payload bytes of the frame that are still to come.
    left: u64,
    /// The frame's mask, turned so that its first byte belongs to the next byte of payload.
    mask: [u8; 4],
    is_masked: bool,
    /// The data message under way, also between two of its frames.
    message: Option<Message>,
    /// What the Close frame says, as far as it is read.
    close: Option<([u8; 2], usize)>,
    traffic: Traffic,
}

impl Default for FrameReader {
    fn default() -> Self {
        Self {
            state: State::Head,
            head: [0; 14],
            head_len: 0,
            only_counts: false,
            left: 0,
            mask: [0; 4],
            is_masked: false,
            message: None,
            close: None,
            traffic: Traffic::default(),
        }
    }
}

impl FrameReader {
    /// Returns a reader that follows and counts frames without passing on their payload.
    pub fn counting() -> Self {
        Self { only_counts: true, ..Self::default() }
    }

    /// Reads the next bytes and passes on the data messages in them.
    pub fn feed(&mut self, bytes: &[u8], mut on: impl FnMut(Piece<'_>)) {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.feed_message(rest, &mut on);
        }
    }

    /// Reads to the end of the message under way, or of a control frame between two messages, or all bytes when it is not in
    /// them, and returns those behind it.
    pub fn feed_message<'b>(&mut self, bytes: &'b [u8], mut on: impl FnMut(Piece<'_>)) -> &'b [u8] {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = match self.state {
                State::Head => self.in_head(rest, &mut on),
                State::Payload => self.in_payload(rest, &mut on),
                State::Lost => return &[],
            };
            if self.is_between_messages() {
                break;
            }
        }
        rest
    }

    /// True between two messages, also behind the Close frame.
    pub fn is_between_messages(&self) -> bool {
        self.state == State::Head && self.head_len == 0 && self.message.is_none()
    }

    /// What passed so far.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// The code of the Close frame; 1005 when it has none (RFC 6455, 7.1.5). `None` before it.
    pub fn close_code(&self) -> Option<u16> {
        match self.close? {
            (code, 2) => Some(u16::from_be_bytes(code)),
            _ => Some(1005),
        }
    }

    /// True when the bytes make no sense as frames; nothing of them is read any more.
    pub fn is_lost(&self) -> bool {
        self.state == State::Lost
    }

    /// Returns the position of the stream.
    pub fn position(&self) -> FramePosition {
        match (self.state, self.head_len, self.close, self.message) {
            (State::Head, 0, None, None) => FramePosition::Between,
            (State::Head, 0, None, Some(_)) => FramePosition::Fragmented,
            _ => FramePosition::Inside,
        }
    }

    fn opcode(&self) -> u8 {
        self.head[0] & 0x0F
    }

    fn is_control(&self) -> bool {
        self.head[0] & 0x08 != 0
    }

    /// The length of the head, as far as its first bytes tell.
    fn head_length(&self) -> usize {
        if self.head_len < 2 {
            return 2;
        }
        let extended = match self.head[1] & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.head[1] & 0x80 != 0 { 4 } else { 0 };
        2 + extended + mask
    }

    fn in_head<'b>(&mut self, bytes: &'b [u8], on: &mut impl FnMut(Piece<'_>)) -> &'b [u8] {
        let taken = bytes.len().min(self.head_length() - self.head_len);
        self.head[self.head_len..self.head_len + taken].copy_from_slice(&bytes[..taken]);
        self.head_len += taken;
        // The first two bytes tell how many more there are.
        if self.head_len == self.head_length() {
            self.begin_frame(on);
        }
        &bytes[taken..]
    }

    /// The head is complete.
    fn begin_frame(&mut self, on: &mut impl FnMut(Piece<'_>)) {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        self.is_masked = self.head[1] & 0x80 != 0;
        let extended = self.head_len - if self.is_masked { 4 } else { 0 };
        self.left = match self.head[1] & 0x7F {
            126 | 127 => number(&self.head[2..extended]),
            short => u64::from(short),
        };
        self.mask.copy_from_slice(&self.head[extended..extended + 4]);
        if !self.makes_sense() {
            self.state = State::Lost;
            return;
        }
        self.traffic.frames += 1;
        self.state = State::Payload;
        if self.opcode() == CLOSE {
            self.close = Some(([0; 2], 0));
        } else if !self.is_control() && self.opcode() != CONTINUATION {
            // A reserved bit means that an extension has changed the payload; only 7692 is in use.
            let sealed = self.head[0] & 0x70 != 0;
            self.message =
                Some(Message { is_text: self.opcode() == TEXT, is_read: !(sealed || self.only_counts) });
            if sealed && !self.only_counts {
                on(Piece::Sealed);
            }
        }
        if self.left == 0 {
            self.end_frame(on);
        }
    }

    /// Whether the frame is allowed at this point (RFC 6455, 5.2, 5.4 and 5.5).
    fn makes_sense(&self) -> bool {
        let is_final = self.head[0] & 0x80 != 0;
        match (self.is_control(), self.opcode()) {
            (true, _) => is_final && self.left <= CONTROL_MAX as u64,
            (false, CONTINUATION) => self.message.is_some() && self.left >> 63 == 0,
            (false, _) => self.message.is_none() && self.left >> 63 == 0,
        }
    }

    fn in_payload<'b>(&mut self, bytes: &'b [u8], on: &mut impl FnMut(Piece<'_>)) -> &'b [u8] {
        let taken = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let (part, rest) = bytes.split_at(taken);
        if self.is_control() {
            self.in_control(part);
        } else if let Some(message) = self.message {
            let counted =
                if message.is_text { &mut self.traffic.text_bytes } else { &mut self.traffic.binary_bytes };
            *counted += part.len() as u64;
            match (message.is_read, self.is_masked) {
                (false, _) => {}
                (true, false) => on(Piece::Data(part)),
                (true, true) => {
                    let mut room = [0; STRIDE];
                    for piece in part.chunks(STRIDE) {
                        on(Piece::Data(unmasked(piece, self.mask, &mut room)));
                    }
                }
            }
        }
        self.mask.rotate_left(part.len() % 4);
        self.left -= part.len() as u64;
        if self.left == 0 {
            self.end_frame(on);
        }
        rest
    }

    /// Of a Close frame the code is kept.
    fn in_control(&mut self, part: &[u8]) {
        let Some((code, read)) = self.close.as_mut().filter(|_| self.head[0] & 0x0F == CLOSE) else { return };
        let mut room = [0; CONTROL_MAX];
        let part = if self.is_masked { unmasked(part, self.mask, &mut room) } else { part };
        for (place, byte) in code[*read..].iter_mut().zip(part) {
            *place = *byte;
            *read += 1;
        }
    }

    fn end_frame(&mut self, on: &mut impl FnMut(Piece<'_>)) {
        self.state = State::Head;
        self.head_len = 0;
        let ends_message = self.head[0] & 0x80 != 0 && !self.is_control();
        if let Some(message) = self.message.take_if(|_| ends_message) {
            self.traffic.messages += 1;
            if message.is_read {
                on(Piece::End);
            }
        }
    }
}

/// The payload `masked` without its mask, in the beginning of `room`, which is at least as long.
fn unmasked<'r>(masked: &[u8], mask: [u8; 4], room: &'r mut [u8]) -> &'r [u8] {
    let plain = &mut room[..masked.len()];
    plain.copy_from_slice(masked);
    let (quads, last) = plain.as_chunks_mut::<4>();
    for quad in quads {
        for (byte, key) in quad.iter_mut().zip(mask) {
            *byte ^= key;
        }
    }
    for (byte, key) in last.iter_mut().zip(mask) {
        *byte ^= key;
    }
    plain
}

/// A server's text frame (unmasked) with this text.
pub fn text_frame(text: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(text.len() + 10);
    frame.push(0x80 | TEXT);
    match (u8::try_from(text.len()), u16::try_from(text.len())) {
        (Ok(short @ ..126), _) => frame.push(short),
        (_, Ok(length)) => {
            frame.push(126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend_from_slice(&(text.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(text);
    frame
}

/// A server's Close frame with this code and as much of the reason as fits.
pub fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    let reason = &reason[..reason.floor_char_boundary(REASON_MAX)];
    let mut frame = Vec::with_capacity(4 + reason.len());
    frame.push(0x80 | CLOSE);
    frame.push(2 + reason.len() as u8);
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(reason.as_bytes());
    frame
}

#[cfg(test)]
mod tests;
