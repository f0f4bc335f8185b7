//! WebSocket frames: any chunking reads the same, in both directions, and no more bytes come out than went in.
#![no_main]

use elida::protocol::Dialect;
use elida::protocol::answer::socket::{ClientMessage, SocketTap};
use elida::protocol::facts::usage::Usage;
use elida::protocol::wire::websocket::{FrameReader, Piece, FramePosition};
use libfuzzer_sys::fuzz_target;

type Frames = (Vec<Vec<u8>>, usize, FramePosition, Option<u16>, String);

fn frames<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Frames {
    let (mut reader, mut messages, mut data, mut sealed) =
        (FrameReader::default(), Vec::new(), Vec::new(), 0);
    for chunk in chunks {
        reader.feed(chunk, |piece| match piece {
            Piece::Data(part) => data.extend_from_slice(part),
            Piece::Sealed => sealed += 1,
            Piece::End => messages.push(std::mem::take(&mut data)),
        });
    }
    messages.push(data);
    (messages, sealed, reader.position(), reader.close_code(), format!("{:?}", reader.traffic()))
}

fn tapped<'a>(
    dialect: Dialect,
    chunks: impl Iterator<Item = &'a [u8]>,
) -> (Vec<String>, Vec<(Usage, Option<String>)>) {
    let (mut tap, mut models, mut answers) = (SocketTap::new(dialect), Vec::new(), Vec::new());
    for chunk in chunks {
        tap.feed_client(chunk, |asked| {
            if let ClientMessage::Model(model) = asked {
                models.push(model.to_owned());
            }
        });
        tap.feed_backend(chunk, |usage, model, _| answers.push((usage, model.map(str::to_owned))));
    }
    (models, answers)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, stream) = input;
    let size = usize::from(kind).max(1);
    let whole = frames(std::iter::once(stream));
    assert_eq!(whole, frames(stream.chunks(size)));
    assert!(whole.0.iter().map(Vec::len).sum::<usize>() <= stream.len());
    let dialects = [Dialect::OPENAI_REALTIME, Dialect::OPENAI_RESPONSES, Dialect::PLAIN];
    let dialect = dialects[size % dialects.len()];
    assert_eq!(tapped(dialect, std::iter::once(stream)), tapped(dialect, stream.chunks(size)));
});
