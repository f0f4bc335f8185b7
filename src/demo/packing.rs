//! Compressed answers, on request: each piece is flushed, as a provider behind a compressing proxy sends it.

use std::io::Write;

use brotli::CompressorWriter;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

/// How an answer is compressed, whatever the client accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Deflate,
    Brotli,
}

impl Packing {
    /// The name in `Content-Encoding`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
        }
    }
}

/// Compresses one body, piece by piece.
pub(super) enum Packer {
    Gzip(GzEncoder<Vec<u8>>),
    Deflate(ZlibEncoder<Vec<u8>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
}

impl Packer {
    pub(super) fn new(packing: Packing) -> Self {
        match packing {
            Packing::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), Compression::default())),
            Packing::Deflate => Self::Deflate(ZlibEncoder::new(Vec::new(), Compression::default())),
            Packing::Brotli => Self::Brotli(Box::new(CompressorWriter::new(Vec::new(), 4096, 5, 20))),
        }
    }

    /// The bytes that bring this piece to the reader. Writing to memory cannot fail.
    pub(super) fn pack(&mut self, piece: &[u8]) -> Bytes {
        let writer: &mut dyn Write = match self {
            Self::Gzip(writer) => writer,
            Self::Deflate(writer) => writer,
            Self::Brotli(writer) => writer,
        };
        let _ = writer.write_all(piece).and_then(|()| writer.flush());
        let packed = match self {
            Self::Gzip(writer) => writer.get_mut(),
            Self::Deflate(writer) => writer.get_mut(),
            Self::Brotli(writer) => writer.get_mut(),
        };
        std::mem::take(packed).into()
    }

    /// The bytes that end the body.
    pub(super) fn end(self) -> Bytes {
        let packed = match self {
            Self::Gzip(writer) => writer.finish(),
            Self::Deflate(writer) => writer.finish(),
            Self::Brotli(writer) => Ok(writer.into_inner()),
        };
        packed.unwrap_or_default().into()
    }

    /// A whole body.
    pub(super) fn whole(packing: Packing, body: &[u8]) -> Bytes {
        let mut packer = Self::new(packing);
        let begun = packer.pack(body);
        [begun, packer.end()].concat().into()
    }
}
