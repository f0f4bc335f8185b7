//! Compresses bodies on their way to clients (RFC 9110, 8.4: `gzip`, `br`; RFC 8878: `zstd`), and reads which coding a
//! client prefers.

use std::io::{self, Write};
use std::mem;

use brotli::CompressorWriter;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zstd::stream::raw::CParameter;
use zstd::stream::write::Encoder as ZstdEncoder;

/// The window of `br` and `zstd`, as a power of two: larger ones cost megabytes for each open answer.
const WINDOW: u32 = 18;
/// Bytes in which `br` hands over its output.
const PIECE: usize = 8 << 10;

/// A coding that bodies can be compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// RFC 8878.
    Zstd,
    /// RFC 7932.
    Br,
    /// RFC 1952.
    Gzip,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Br, Self::Gzip];

    /// Its name in `Content-Encoding`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Br => "br",
            Self::Gzip => "gzip",
        }
    }
}

/// Compresses one body. What is in a chunk can be decoded when the output for that chunk has arrived.
pub struct Encoder(Writer);

enum Writer {
    Gzip(GzEncoder<Vec<u8>>),
    /// `None` after the end.
    Brotli(Option<Box<CompressorWriter<Vec<u8>>>>),
    Zstd(ZstdEncoder<'static, Vec<u8>>),
}

impl Encoder {
    /// Begins a body. `level` is from 1 (fast) to 9 (small).
    ///
    /// # Errors
    /// The library has no memory.
    pub fn new(algorithm: Algorithm, level: u8) -> io::Result<Self> {
        Ok(Self(match algorithm {
            Algorithm::Gzip => Writer::Gzip(GzEncoder::new(Vec::new(), Compression::new(u32::from(level)))),
            Algorithm::Br => {
                let writer = CompressorWriter::new(Vec::new(), PIECE, u32::from(level), WINDOW);
                Writer::Brotli(Some(Box::new(writer)))
            }
            Algorithm::Zstd => {
                let mut encoder = ZstdEncoder::new(Vec::new(), i32::from(level))?;
                encoder.set_parameter(CParameter::WindowLog(WINDOW))?;
                Writer::Zstd(encoder)
            }
        }))
    }

    /// Compresses a chunk; with `end` it is the last one. Returns all that can be sent now.
    ///
    /// # Errors
    /// The library fails.
    pub fn encode(&mut self, chunk: &[u8], end: bool) -> io::Result<Bytes> {
        if chunk.is_empty() && !end {
            return Ok(Bytes::new());
        }
        let out = match &mut self.0 {
            Writer::Gzip(gzip) => {
                gzip.write_all(chunk)?;
                if end {
                    gzip.try_finish()?
                } else {
                    gzip.flush()?
                }
                mem::take(gzip.get_mut())
            }
            Writer::Brotli(brotli) => {
                let Some(mut writer) = brotli.take() else { return Ok(Bytes::new()) };
                writer.write_all(chunk)?;
                if end {
                    writer.into_inner()
                } else {
                    writer.flush()?;
                    let out = mem::take(writer.get_mut());
                    *brotli = Some(writer);
                    out
                }
            }
            Writer::Zstd(zstd) => {
                zstd.write_all(chunk)?;
                if end {
                    zstd.do_finish()?
                } else {
                    zstd.flush()?
                }
                mem::take(zstd.get_mut())
            }
        };
        Ok(out.into())
    }
}

/// What a client accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The coding to use; `None` for none.
    pub coding: Option<Algorithm>,
    /// Whether the client refuses a body without coding.
    pub must_encode: bool,
}

/// Returns the coding that the client prefers (RFC 9110, 12.5.3) of those that are `offered`; of several that it likes the
/// same, the first one. `lines` are those of `Accept-Encoding`.
pub fn choose<'a>(lines: impl Iterator<Item = &'a str>, offered: &[Algorithm]) -> Choice {
    let (mut named, mut any, mut identity) = ([None; Algorithm::ALL.len()], None, None);
    for item in lines.flat_map(|line| line.split(',')) {
        let mut parts = item.split(';');
        let name = parts.next().unwrap_or_default().trim();
        let weight =
            parts.map(str::trim).find_map(|part| part.strip_prefix(['q', 'Q'])?.trim().strip_prefix('='));
        let weight = Some(weight.map_or(1000, |text| thousandths(text.trim())));
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match () {
            () if is("*") => any = weight,
            () if is("identity") => identity = weight,
            () if is("x-gzip") => named[Algorithm::Gzip as usize] = weight,
            () => {
                if let Some(found) = Algorithm::ALL.into_iter().find(|algorithm| is(algorithm.name())) {
                    named[found as usize] = weight;
                }
            }
        }
    }
    let mut best = (None, 0);
    for algorithm in offered {
        let weight = named[*algorithm as usize].or(any).unwrap_or(0);
        if weight > best.1 {
            best = (Some(*algorithm), weight);
        }
    }
    let is_liked = best.1 >= identity.unwrap_or(0);
    Choice { coding: best.0.filter(|_| is_liked), must_encode: identity.or(any) == Some(0) }
}

/// Returns a weight (RFC 9110, 12.4.2) in thousandths; 0 for what is none.
fn thousandths(text: &str) -> u16 {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_valid = part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit());
    let part = if is_valid { format!("{part:0<3}").parse().unwrap_or(0) } else { 0 };
    match whole {
        "1" => 1000,
        "0" => part,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const ALL: &[Algorithm] = &Algorithm::ALL;

    #[test]
    fn the_weights_of_the_client_decide_and_ties_go_by_the_order_of_the_file() {
        use Algorithm::{Br, Gzip, Zstd};
        for (field, coding, must_encode) in [
            ("gzip, deflate, br, zstd", Some(Zstd), false),
            ("gzip, br", Some(Br), false),
            ("GZIP", Some(Gzip), false),
            ("x-gzip", Some(Gzip), false),
            ("gzip;q=1.0, br;q=0.5, zstd;q=0", Some(Gzip), false),
            ("zstd;q=0, *", Some(Br), false),
            ("*;q=0", None, true),
            ("gzip, *;q=0", Some(Gzip), true),
            ("identity;q=0", None, true),
            ("identity;q=0, br;q=0.001", Some(Br), true),
            ("identity, gzip;q=0.5", None, false),
            ("identity;q=0.5, gzip;q=0.5", Some(Gzip), false),
            ("gzip; Q=0", None, false),
            ("gzip;q=0.000", None, false),
            ("gzip;q=2", None, false),
            ("gzip;q=0.1234", None, false),
            ("gzip;q=é", None, false),
            ("deflate, compress", None, false),
            ("", None, false),
            (",;,", None, false),
        ] {
            assert_eq!(choose([field].into_iter(), ALL), Choice { coding, must_encode }, "{field}");
        }
        let two = ["br;q=0.2", "gzip;q=0.3"];
        assert_eq!(choose(two.into_iter(), ALL).coding, Some(Gzip));
        assert_eq!(choose(two.into_iter(), &[Br]).coding, Some(Br));
        assert_eq!(choose([].into_iter(), ALL), Choice { coding: None, must_encode: false });
    }

    fn decode(algorithm: Algorithm, bytes: &[u8]) -> Vec<u8> {
        let mut plain = vec![0; 1 << 20];
        // A body that has not ended is read as far as it goes.
        let mut reader: Box<dyn Read + '_> = match algorithm {
            Algorithm::Gzip => Box::new(flate2::read::GzDecoder::new(bytes)),
            Algorithm::Br => Box::new(brotli::Decompressor::new(bytes, 4096)),
            Algorithm::Zstd => Box::new(zstd::stream::read::Decoder::new(bytes).unwrap()),
        };
        let mut length = 0;
        while let Ok(read @ 1..) = reader.read(&mut plain[length..]) {
            length += read;
        }
        drop(reader);
        plain.truncate(length);
        plain
    }

    #[test]
    fn every_chunk_can_be_decoded_when_it_has_arrived() {
        for algorithm in Algorithm::ALL {
            for level in [1, 4, 9] {
                let mut encoder = Encoder::new(algorithm, level).unwrap();
                let (mut sent, mut plain) = (Vec::new(), Vec::new());
                let large = vec![b'x'; 100_000];
                for chunk in [&b"one"[..], b"", b"two", &large, b"three"] {
                    plain.extend_from_slice(chunk);
                    sent.extend_from_slice(&encoder.encode(chunk, false).unwrap());
                    assert!(decode(algorithm, &sent) == plain, "{algorithm:?} {level}");
                }
                sent.extend_from_slice(&encoder.encode(b"end", true).unwrap());
                plain.extend_from_slice(b"end");
                assert!(decode(algorithm, &sent) == plain && sent.len() < 2000, "{algorithm:?} {level}");
            }
            let empty = Encoder::new(algorithm, 4).unwrap().encode(b"", true).unwrap();
            assert!(!empty.is_empty() && decode(algorithm, &empty).is_empty(), "{algorithm:?}");
        }
    }
}
