//! Tests of decoding: every coding, any chunking, and answers that lie or never end.

use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use proptest::prelude::*;

use super::*;
use crate::protocol::chunks::{cut, sizes};

/// Brings `parts` under a coding, each flushed, so that a reader can have it at once.
type Packing = fn(&[&[u8]]) -> Vec<u8>;

fn gzip(parts: &[&[u8]]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    for part in parts {
        packer.write_all(part).unwrap();
        packer.flush().unwrap();
    }
    packer.finish().unwrap()
}

fn zlib(parts: &[&[u8]]) -> Vec<u8> {
    let mut packer = ZlibEncoder::new(Vec::new(), Compression::best());
    for part in parts {
        packer.write_all(part).unwrap();
        packer.flush().unwrap();
    }
    packer.finish().unwrap()
}

fn bare_deflate(parts: &[&[u8]]) -> Vec<u8> {
    let mut packer = DeflateEncoder::new(Vec::new(), Compression::best());
    for part in parts {
        packer.write_all(part).unwrap();
        packer.flush().unwrap();
    }
    packer.finish().unwrap()
}

fn brotli(parts: &[&[u8]]) -> Vec<u8> {
    let mut packer = ::brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
    for part in parts {
        packer.write_all(part).unwrap();
        packer.flush().unwrap();
    }
    packer.into_inner()
}

fn zstd(parts: &[&[u8]]) -> Vec<u8> {
    let mut packer = ::zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    for part in parts {
        packer.write_all(part).unwrap();
        packer.flush().unwrap();
    }
    packer.finish().unwrap()
}

const PACKINGS: [(Coding, Packing); 5] = [
    (Coding::Gzip, gzip),
    (Coding::Deflate, zlib),
    (Coding::Deflate, bare_deflate),
    (Coding::Brotli, brotli),
    (Coding::Zstd, zstd),
];

fn decode(coding: Coding, chunks: &[&[u8]]) -> (Vec<u8>, Result<(), Unread>) {
    let mut decoder = Decoder::new(coding).unwrap().unwrap();
    let mut plain = Vec::new();
    for chunk in chunks {
        let fed = decoder.feed(chunk, |part| {
            assert!(part.len() <= PIECE);
            plain.extend_from_slice(part);
        });
        if fed.is_err() {
            return (plain, fed);
        }
    }
    (plain, Ok(()))
}

#[test]
fn the_head_tells_the_coding() {
    let cases = [
        (None, Coding::Identity),
        (Some(" "), Coding::Identity),
        (Some("identity"), Coding::Identity),
        (Some("GZIP"), Coding::Gzip),
        (Some("x-gzip "), Coding::Gzip),
        (Some("deflate"), Coding::Deflate),
        (Some("br"), Coding::Brotli),
        (Some("zstd"), Coding::Zstd),
        (Some("gzip, br"), Coding::Unknown),
        (Some("aes128gcm"), Coding::Unknown),
    ];
    for (header, coding) in cases {
        assert_eq!(Coding::of(header), coding, "{header:?}");
    }
    assert!(Decoder::new(Coding::Identity).unwrap().is_none());
    assert_eq!(Decoder::new(Coding::Unknown).unwrap_err(), Unread::Coding);
}

#[test]
fn what_was_flushed_can_be_read_at_once() {
    for (coding, pack) in PACKINGS {
        let words: Vec<String> = (0..200).map(|n| format!("data: {{\"n\":{n}}}\n\n")).collect();
        let parts: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        // How long the beginning is whose last part was flushed: the end marker comes after it.
        let mut decoder = Decoder::new(coding).unwrap().unwrap();
        let mut plain = Vec::new();
        let all = pack(&parts);
        let mut complete = 0;
        for byte in all.chunks(1) {
            decoder.feed(byte, |part| plain.extend_from_slice(part)).unwrap();
            complete += usize::from(plain.len() >= parts[0].len() && plain.len() < 2 * parts[0].len());
        }
        assert_eq!(plain, parts.concat(), "{coding:?}");
        assert!(complete > 1, "{coding:?}: the first part was known before the second one came");
    }
}

#[test]
fn gzip_may_have_members_and_dirt_behind() {
    let mut bytes = [gzip(&[b"one "]), gzip(&[]), gzip(&[b"two"])].concat();
    assert_eq!(decode(Coding::Gzip, &[&bytes]), (b"one two".to_vec(), Ok(())));
    bytes.extend([0; 7]);
    let chunks: Vec<_> = bytes.chunks(1).collect();
    assert_eq!(decode(Coding::Gzip, &chunks), (b"one two".to_vec(), Ok(())));
    // Behind what is no member no other one begins, at any chunking: 0x1f is the first byte of a member.
    bytes.extend([0x1f, 0]);
    let chunks: Vec<_> = bytes.chunks(1).collect();
    assert_eq!(decode(Coding::Gzip, &[&bytes]), (b"one two".to_vec(), Ok(())));
    assert_eq!(decode(Coding::Gzip, &chunks), (b"one two".to_vec(), Ok(())));
    let frames = [zstd(&[b"one "]), zstd(&[b"two"])].concat();
    assert_eq!(decode(Coding::Zstd, &[&frames]), (b"one two".to_vec(), Ok(())));
}

#[test]
fn what_is_not_coded_as_it_says_is_not_read() {
    for coding in [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd] {
        let (_, end) = decode(coding, &[&b"data: {\"plain\":true}\n\n".repeat(20)]);
        assert_eq!(end, Err(Unread::Corrupt), "{coding:?}");
    }
    let mut flipped = gzip(&[b"some words, and more of them"]);
    let middle = flipped.len() - 6;
    flipped[middle] ^= 0xff;
    assert_eq!(decode(Coding::Gzip, &[&flipped]).1, Err(Unread::Corrupt), "the checksum tells");
}

#[test]
fn a_bomb_is_not_followed() {
    let zeros = vec![b'0'; 64 << 20];
    for (coding, pack) in PACKINGS {
        let bomb = pack(&[&zeros]);
        let (plain, end) = decode(coding, &[&bomb]);
        assert_eq!(end, Err(Unread::TooLarge), "{coding:?}, {} bytes", bomb.len());
        let most = FREE + RATIO * (bomb.len() as u64).next_multiple_of(STEP);
        assert!(plain.len() as u64 <= most, "{coding:?}: {} bytes", plain.len());
    }
}

#[test]
fn what_is_too_large_is_so_at_any_chunking() {
    for (coding, pack) in PACKINGS {
        // Around the bound: it grows by some hundred times and ends, or goes on with what hardly grows.
        for zeros in (1_000_000..2_600_000).step_by(100_000) {
            let noise: Vec<u8> =
                (0..9000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            for parts in [&[&vec![b'0'; zeros][..]][..], &[&vec![b'0'; zeros][..], &noise[..]][..]] {
                let all = pack(parts);
                let whole = decode(coding, &[&all]).1;
                for size in [1, 7, 4095, 4096, 4097] {
                    let chunks: Vec<_> = all.chunks(size).collect();
                    assert_eq!(decode(coding, &chunks).1, whole, "{coding:?}, {zeros} in chunks of {size}");
                }
            }
        }
    }
}

#[test]
fn a_long_stream_of_words_is_no_bomb() {
    let words: Vec<String> = (0..40_000)
        .map(|n| {
            format!(
                "data: {{\"id\":\"chatcmpl-1\",\"choices\":[{{\"delta\":{{\"content\":\" word{n}\"}}}}]}}\n\n"
            )
        })
        .collect();
    let parts: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    for (coding, pack) in PACKINGS {
        assert_eq!(decode(coding, &[&pack(&parts)]).1, Ok(()), "{coding:?}");
    }
}

proptest! {
    #[test]
    fn chunking_does_not_matter(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
        which in 0..PACKINGS.len(),
        at in any::<prop::sample::Index>(),
        sizes in sizes(),
    ) {
        let (coding, pack) = PACKINGS[which];
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let all = pack(&parts);
        prop_assert_eq!(decode(coding, &cut(&all, &sizes)), (parts.concat(), Ok(())));
        // A beginning gives a beginning.
        let cut_short = &all[..at.index(all.len() + 1)];
        let (plain, end) = decode(coding, &cut(cut_short, &sizes));
        prop_assert_eq!(end, Ok(()));
        prop_assert!(parts.concat().starts_with(&plain));
    }

    #[test]
    fn garbage_never_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        which in 0..PACKINGS.len(),
        at in any::<prop::sample::Index>(),
        sizes in sizes(),
    ) {
        let (coding, pack) = PACKINGS[which];
        let mut mixed = pack(&[b"some words that come before the dirt"]);
        mixed.truncate(at.index(mixed.len() + 1));
        mixed.extend(bytes);
        let (whole, chunked) = (decode(coding, &[&mixed]), decode(coding, &cut(&mixed, &sizes)));
        prop_assert_eq!(whole.1, chunked.1);
        if whole.1.is_ok() {
            prop_assert_eq!(whole.0, chunked.0);
        }
    }
}
