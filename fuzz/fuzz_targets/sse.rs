//! Server-sent events: any chunking gives the same events, and no more bytes come out than went in.
#![no_main]

use elida::protocol::wire::sse::{Piece, SseReader};
use libfuzzer_sys::fuzz_target;

type Events = (Vec<(Vec<u8>, Vec<u8>)>, Vec<u8>, bool);

fn read<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Events {
    let (mut reader, mut events, mut data) = (SseReader::default(), Vec::new(), Vec::new());
    for chunk in chunks {
        reader.feed(chunk, |piece| match piece {
            Piece::Data(part) => data.extend_from_slice(part),
            Piece::End { name } => events.push((name.to_vec(), std::mem::take(&mut data))),
        });
    }
    (events, data, reader.at_boundary())
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, stream) = input;
    let whole = read(std::iter::once(stream));
    assert_eq!(whole, read(stream.chunks(usize::from(size).max(1))));
    let out: usize = whole.0.iter().map(|(_, data)| data.len()).sum::<usize>() + whole.1.len();
    assert!(out <= stream.len());
});
