//! Lines of JSON: any chunking gives the same lines, and they are those a split at line feeds gives.
#![no_main]

use elida::protocol::wire::ndjson::{LineReader, Piece};
use libfuzzer_sys::fuzz_target;

fn read<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let (mut lines, mut line, mut reader) = (Vec::new(), Vec::new(), LineReader::default());
    let mut take = |piece: Piece<'_>| match piece {
        Piece::Data(part) => line.extend_from_slice(part),
        Piece::End => lines.push(std::mem::take(&mut line)),
    };
    chunks.for_each(|chunk| reader.feed(chunk, &mut take));
    reader.end(&mut take);
    lines
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, text) = input;
    let lines = read(std::iter::once(text));
    assert_eq!(lines, read(text.chunks(usize::from(size).max(1))));
    let bare = |line: &[u8]| line.iter().filter(|byte| !byte.is_ascii_whitespace()).copied().collect::<Vec<_>>();
    let expected: Vec<_> = text.split(|byte| *byte == b'\n').map(bare).filter(|line| !line.is_empty()).collect();
    let seen: Vec<_> = lines.iter().map(|line| bare(line)).filter(|line| !line.is_empty()).collect();
    assert_eq!(seen, expected);
});
