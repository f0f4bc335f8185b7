//! Compressed answers: whatever the bytes are, decoding ends, stays within its measure, and any chunking gives
//! the same text or the same refusal.
#![no_main]

use elida::protocol::wire::coding::{Coding, Decoder, Unread};
use libfuzzer_sys::fuzz_target;

const CODINGS: [Coding; 4] = [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd];

fn decode<'a>(coding: Coding, chunks: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u8>, Unread> {
    let mut decoder = Decoder::new(coding).expect("a known coding").expect("a coding");
    let mut plain = Vec::new();
    for chunk in chunks {
        decoder.feed(chunk, |part| plain.extend_from_slice(part))?;
    }
    Ok(plain)
}

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (kind, size, bytes) = input;
    let coding = CODINGS[usize::from(kind) % CODINGS.len()];
    let whole = decode(coding, std::iter::once(bytes));
    let chunked = decode(coding, bytes.chunks(usize::from(size).max(1)));
    match (whole, chunked) {
        (Ok(whole), Ok(chunked)) => {
            assert_eq!(whole, chunked);
            assert!(whole.len() <= (1 << 20) + 128 * bytes.len().next_multiple_of(4096));
        }
        (Err(_), Err(_)) => {}
        (whole, chunked) => panic!("{whole:?} and {chunked:?}"),
    }
});
