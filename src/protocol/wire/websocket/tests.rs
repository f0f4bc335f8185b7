//! Tests of the frame reader: messages in any fragments and chunks, places, what is no WebSocket.

use proptest::prelude::*;

use super::*;
use crate::protocol::chunks::{cut, sizes};

/// A frame as a peer would write it.
#[derive(Clone, Debug)]
struct Frame {
    first: u8,
    payload: Vec<u8>,
    mask: Option<[u8; 4]>,
}

impl Frame {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.first];
        let flag = if self.mask.is_some() { 0x80 } else { 0 };
        match self.payload.len() {
            short @ 0..126 => bytes.push(flag | short as u8),
            length @ 126..0x1_0000 => {
                bytes.push(flag | 126);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                bytes.push(flag | 127);
                bytes.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        bytes.extend(self.mask.into_iter().flatten());
        let key = self.mask.unwrap_or_default();
        bytes.extend(self.payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        bytes
    }
}

#[derive(Debug, Default, PartialEq)]
struct Seen {
    messages: Vec<Vec<u8>>,
    sealed: usize,
    under_way: Vec<u8>,
}

fn read<'a>(reader: &mut FrameReader, chunks: impl IntoIterator<Item = &'a [u8]>) -> Seen {
    let mut seen = Seen::default();
    for chunk in chunks {
        reader.feed(chunk, |piece| match piece {
            Piece::Data(part) => seen.under_way.extend_from_slice(part),
            Piece::Sealed => seen.sealed += 1,
            Piece::End => seen.messages.push(std::mem::take(&mut seen.under_way)),
        });
    }
    seen
}

/// A message in fragments, with control frames between them.
fn message() -> impl Strategy<Value = (Vec<Frame>, bool, bool, Vec<u8>)> {
    let lengths = prop_oneof![4 => 0usize..40, 1 => 120usize..140, 1 => Just(70_000usize)];
    let fragment = (lengths, prop::option::of(any::<[u8; 4]>()), any::<bool>());
    (any::<bool>(), prop::bool::weighted(0.2), prop::collection::vec(fragment, 1..4)).prop_map(
        |(is_text, sealed, fragments)| {
            let (mut frames, mut whole) = (Vec::new(), Vec::new());
            let last = fragments.len() - 1;
            for (at, (length, mask, ping_before)) in fragments.into_iter().enumerate() {
                if ping_before {
                    frames.push(Frame { first: 0x89, payload: b"are you there".to_vec(), mask });
                }
                let payload: Vec<u8> = (0..length).map(|n| (n * 7 + at) as u8).collect();
                let opcode = if at > 0 {
                    0
                } else if is_text {
                    1
                } else {
                    2
                };
                let sealed = if sealed && at == 0 { 0x40 } else { 0 };
                let fin = if at == last { 0x80 } else { 0 };
                whole.extend_from_slice(&payload);
                frames.push(Frame { first: fin | sealed | opcode, payload, mask });
            }
            (frames, is_text, sealed, whole)
        },
    )
}

proptest! {
    #[test]
    fn any_chunking_gives_the_messages_that_were_sent(messages in prop::collection::vec(message(), 0..5), sizes in sizes()) {
        let bytes: Vec<u8> = messages.iter().flat_map(|message| &message.0).flat_map(Frame::bytes).collect();
        let mut reader = FrameReader::default();
        let seen = read(&mut reader, cut(&bytes, &sizes));
        let expected: Vec<Vec<u8>> =
            messages.iter().filter(|message| !message.2).map(|message| message.3.clone()).collect();
        prop_assert_eq!(&seen.messages, &expected);
        prop_assert_eq!(seen.sealed, messages.iter().filter(|message| message.2).count());
        let bytes_of = |text: bool| messages.iter().filter(|message| message.1 == text).map(|message| message.3.len() as u64).sum::<u64>();
        let frames: usize = messages.iter().map(|message| message.0.len()).sum();
        prop_assert_eq!(reader.traffic(), Traffic {
            frames: frames as u64,
            messages: messages.len() as u64,
            text_bytes: bytes_of(true),
            binary_bytes: bytes_of(false),
        });
        prop_assert_eq!(reader.position(), FramePosition::Between);
    }

    #[test]
    fn any_bytes_in_any_chunks_read_the_same(bytes in prop::collection::vec(any::<u8>(), 0..200), sizes in sizes()) {
        let (mut whole, mut parts) = (FrameReader::default(), FrameReader::default());
        let (one, other) = (read(&mut whole, [bytes.as_slice()]), read(&mut parts, cut(&bytes, &sizes)));
        prop_assert_eq!(one, other);
        prop_assert_eq!(whole.traffic(), parts.traffic());
        prop_assert_eq!((whole.position(), whole.close_code()), (parts.position(), parts.close_code()));
    }

    #[test]
    fn what_is_written_is_read(text in prop_oneof![".{0,100}", Just("x".repeat(300)), Just("é".repeat(40_000))], code in 1000u16..5000) {
        let mut reader = FrameReader::default();
        let seen = read(&mut reader, [text_frame(text.as_bytes()).as_slice()]);
        prop_assert_eq!(seen.messages, vec![text.clone().into_bytes()]);
        let close = close_frame(code, &text);
        prop_assert!(close.len() <= 127 && std::str::from_utf8(&close[4..]).is_ok());
        read(&mut reader, [close.as_slice()]);
        prop_assert_eq!(reader.close_code(), Some(code));
    }
}

#[test]
fn the_place_is_told_after_each_byte() {
    let mut reader = FrameReader::default();
    assert_eq!(reader.position(), FramePosition::Between);
    // "Hel" and "lo" in two fragments, masked, with an empty ping between them.
    let bytes = [
        &[0x01, 0x83, 1, 2, 3, 4, b'H' ^ 1, b'e' ^ 2, b'l' ^ 3][..],
        &[0x89, 0],
        &[0x80, 2, b'l', b'o'],
        &[0x88, 2, 3, 0xE8],
    ]
    .concat();
    let places: Vec<FramePosition> = bytes
        .iter()
        .map(|byte| {
            reader.feed(&[*byte], |_| {});
            reader.position()
        })
        .collect();
    let between: Vec<usize> = (0..places.len()).filter(|at| places[*at] == FramePosition::Between).collect();
    let fragmented: Vec<usize> =
        (0..places.len()).filter(|at| places[*at] == FramePosition::Fragmented).collect();
    assert_eq!((between, fragmented), (vec![14], vec![8, 10]));
    assert_eq!(reader.close_code(), Some(1000));
    assert_eq!(reader.position(), FramePosition::Inside, "nothing follows a Close frame");
}

#[test]
fn a_close_frame_without_a_code_is_1005() {
    let mut reader = FrameReader::default();
    assert_eq!(reader.close_code(), None);
    reader.feed(&[0x88, 0x80, 9, 9, 9, 9], |_| {});
    assert_eq!(reader.close_code(), Some(1005));
}

#[test]
fn what_is_no_websocket_is_lost_for_ever() {
    let cases: [&[u8]; 6] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        &[0x80, 0],                              // a continuation of nothing
        &[0x01, 0, 0x81, 0],                     // a message in a message
        &[0x08, 0],                              // a control frame in fragments
        &[0x89, 126, 0, 126],                    // a control frame that is too long
        &[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 1], // a length with its first bit set
    ];
    for bytes in cases {
        let mut reader = FrameReader::default();
        reader.feed(bytes, |_| {});
        assert!(reader.is_lost(), "{bytes:?}");
        reader.feed(&[0x81, 0], |piece| panic!("{piece:?} after {bytes:?}"));
        assert_eq!(reader.position(), FramePosition::Inside);
    }
}

#[test]
fn a_frame_of_any_length_costs_no_memory() {
    let mut reader = FrameReader::default();
    let mut length = 0;
    reader.feed(&[0x82, 127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], |_| {});
    for _ in 0..100 {
        reader.feed(&[7; 4096], |piece| {
            if let Piece::Data(part) = piece {
                length += part.len();
            }
        });
    }
    assert_eq!((length, reader.traffic().binary_bytes), (409_600, 409_600));
    assert_eq!(reader.position(), FramePosition::Inside);
}
