//! Decodes compressed bodies for inspection, within bounds. The other side gets the original bytes
//! (RFC 9110, 8.4: `gzip`, `deflate`, `br`; RFC 8878: `zstd`).

use brotli::{BrotliDecompressStream, BrotliResult, BrotliState, HeapAlloc, HuffmanCode};
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder as Unzstd, InBuffer, Operation, OutBuffer};

/// Bytes that are decoded at a time.
const PIECE: usize = 16 << 10;
/// A body may grow to this many bytes, whatever it came from …
const FREE: u64 = 1 << 20;
/// … and beyond that to this many times its size. Streams of a model's words reach about 30.
const RATIO: u64 = 128;
/// Its size is rounded up to this many bytes: what it may grow to must not depend on how it is divided into chunks.
const STEP: u64 = 4 << 10;
/// The largest window of `zstd`, as the power of two that RFC 9659 allows senders.
const ZSTD_WINDOW: u32 = 23;
/// The largest window of gzip and deflate, as a power of two.
const DEFLATE_WINDOW: u8 = 15;
/// The first byte of each member of a gzip file (RFC 1952, 2.3.1).
const GZIP_MAGIC: u8 = 0x1f;

/// The codings that are decoded, as a value of `Accept-Encoding`.
pub const ACCEPTED: &str = "gzip, deflate, br, zstd";

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// Not at all.
    Identity,
    /// `gzip`, `x-gzip`.
    Gzip,
    /// `deflate`: zlib's form, or bare as some servers send it.
    Deflate,
    /// `br`.
    Brotli,
    /// `zstd`.
    Zstd,
    /// Another coding, or several.
    Unknown,
}

impl Coding {
    /// What `Content-Encoding` says.
    pub fn of(content_encoding: Option<&str>) -> Self {
        let name = content_encoding.map_or("", str::trim);
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match () {
            () if name.is_empty() || is("identity") => Self::Identity,
            () if is("gzip") || is("x-gzip") => Self::Gzip,
            () if is("deflate") => Self::Deflate,
            () if is("br") => Self::Brotli,
            () if is("zstd") => Self::Zstd,
            () => Self::Unknown,
        }
    }

    /// What the lines of `Content-Encoding` say together, each a list. Several codings, one applied after the other,
    /// are unknown.
    pub fn of_all<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let codings = lines.flat_map(|line| line.split(',')).map(|name| Self::of(Some(name)));
        let mut applied = codings.filter(|coding| *coding != Self::Identity);
        match (applied.next(), applied.next()) {
            (None, _) => Self::Identity,
            (Some(coding), None) => coding,
            (Some(_), Some(_)) => Self::Unknown,
        }
    }
}

/// Why a body is not read, or no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Its content coding, or its character encoding, is not known here.
    Coding,
    /// It is not what its coding says.
    Corrupt,
    /// It grows beyond all measure.
    TooLarge,
}

impl Unread {
    /// A stable word for logs and labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Coding => "coding",
            Self::Corrupt => "corrupt",
            Self::TooLarge => "too_large",
        }
    }
}

type Brotli = BrotliState<HeapAlloc<u8>, HeapAlloc<u32>, HeapAlloc<HuffmanCode>>;

enum Engine {
    Gzip(Decompress),
    /// The first byte tells which form it has.
    Deflate(Option<Decompress>),
    Brotli(Box<Brotli>),
    Zstd(Unzstd<'static>),
}

/// One call of an engine.
struct Progress {
    read: usize,
    written: usize,
    /// The content, or a member of it, is complete.
    ended: bool,
}

impl Progress {
    const NONE: Self = Self { read: 0, written: 0, ended: false };
}

/// Decodes one body, chunk by chunk.
pub struct Decoder {
    engine: Engine,
    out: Box<[u8]>,
    taken: u64,
    given: u64,
    position: Position,
}

/// Where in its content a decoder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// Within the content, or within a member of it.
    Inside,
    /// Right behind a member: another one may follow.
    AfterMember,
    /// Behind the content: no later byte belongs to it, however the bytes are divided into chunks.
    AfterContent,
}

impl Decoder {
    /// A decoder for this coding; none for a body that is not compressed.
    ///
    /// # Errors
    /// The coding is not known, or its decoder cannot be made.
    pub fn new(coding: Coding) -> Result<Option<Self>, Unread> {
        let engine = match coding {
            Coding::Identity => return Ok(None),
            Coding::Gzip => Engine::Gzip(Decompress::new_gzip(DEFLATE_WINDOW)),
            Coding::Deflate => Engine::Deflate(None),
            Coding::Brotli => Engine::Brotli(Box::new(BrotliState::new_strict(
                HeapAlloc::new(0),
                HeapAlloc::new(0),
                HeapAlloc::new(HuffmanCode::default()),
            ))),
            Coding::Zstd => {
                let mut decoder = Unzstd::new().map_err(|_| Unread::Coding)?;
                decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW)).map_err(|_| Unread::Coding)?;
                Engine::Zstd(decoder)
            }
            Coding::Unknown => return Err(Unread::Coding),
        };
        Ok(Some(Self { engine, out: vec![0; PIECE].into(), taken: 0, given: 0, position: Position::Inside }))
    }

    /// Decodes the next bytes and passes on what is decoded so far, at most [`PIECE`] bytes at a time.
    ///
    /// # Errors
    /// The bytes cannot be decoded, or become too many. What comes after an error makes no sense.
    pub fn feed(&mut self, bytes: &[u8], mut on: impl FnMut(&[u8])) -> Result<(), Unread> {
        let mut rest = bytes;
        loop {
            let step = usize::try_from(STEP - self.taken % STEP).unwrap_or(usize::MAX);
            let (next, behind) = rest.split_at(rest.len().min(step));
            self.feed_step(next, &mut on)?;
            rest = behind;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Decodes bytes of one [`STEP`].
    fn feed_step(&mut self, bytes: &[u8], on: &mut impl FnMut(&[u8])) -> Result<(), Unread> {
        let mut rest = bytes;
        self.taken += bytes.len() as u64;
        let most = FREE + RATIO.saturating_mul(self.taken.next_multiple_of(STEP));
        loop {
            if self.position != Position::Inside && !self.next_member(rest) {
                return Ok(());
            }
            let progress = self.engine.step(rest, &mut self.out).ok_or(Unread::Corrupt)?;
            rest = &rest[progress.read..];
            if progress.ended {
                self.position = Position::AfterMember;
            }
            self.given += progress.written as u64;
            if self.given > most {
                return Err(Unread::TooLarge);
            }
            if progress.written > 0 {
                on(&self.out[..progress.written]);
            }
            // An engine that has filled the buffer may hold more back.
            let is_idle = progress.read == 0 && progress.written == 0;
            if is_idle && !progress.ended || rest.is_empty() && progress.written < self.out.len() {
                return Ok(());
            }
        }
    }

    /// Begins another member of a gzip file (RFC 1952, 2.2), if `rest` does. Other bytes behind a member end
    /// the content.
    fn next_member(&mut self, rest: &[u8]) -> bool {
        let Some(&first) = rest.first() else { return false };
        let is_member = matches!(self.engine, Engine::Gzip(_)) && first == GZIP_MAGIC;
        if self.position == Position::AfterMember && is_member {
            self.engine = Engine::Gzip(Decompress::new_gzip(DEFLATE_WINDOW));
            self.position = Position::Inside;
        } else {
            self.position = Position::AfterContent;
        }
        self.position == Position::Inside
    }
}

impl Engine {
    /// Reads some of `bytes` and writes some to `out`; `None` when they make no sense.
    fn step(&mut self, bytes: &[u8], out: &mut [u8]) -> Option<Progress> {
        match self {
            Self::Gzip(inflate) => inflate_step(inflate, bytes, out),
            Self::Deflate(inflate) => match bytes.first() {
                // CMF of zlib: method 8, a window of at most 32 KiB (RFC 1950, 2.2). A bare stream that begins
                // so would be a stored block with dirt in its padding.
                Some(first) => {
                    let is_zlib = first & 0x0f == 8 && *first < 0x80;
                    inflate_step(inflate.get_or_insert_with(|| Decompress::new(is_zlib)), bytes, out)
                }
                None => inflate.as_mut().map_or(Some(Progress::NONE), |made| inflate_step(made, bytes, out)),
            },
            Self::Brotli(state) => {
                let (mut left, mut read, mut room, mut written, mut total) =
                    (bytes.len(), 0, out.len(), 0, 0);
                let result = BrotliDecompressStream(
                    &mut left,
                    &mut read,
                    bytes,
                    &mut room,
                    &mut written,
                    out,
                    &mut total,
                    state,
                );
                let ended = matches!(result, BrotliResult::ResultSuccess);
                let failed = matches!(result, BrotliResult::ResultFailure);
                (!failed).then_some(Progress { read, written, ended })
            }
            Self::Zstd(decoder) => {
                let (mut input, mut output) = (InBuffer::around(bytes), OutBuffer::around(out));
                // A frame may follow another: the end is never known.
                decoder.run(&mut input, &mut output).ok()?;
                Some(Progress { read: input.pos(), written: output.pos(), ended: false })
            }
        }
    }
}

fn inflate_step(inflate: &mut Decompress, bytes: &[u8], out: &mut [u8]) -> Option<Progress> {
    let (read, written) = (inflate.total_in(), inflate.total_out());
    let status = inflate.decompress(bytes, out, FlushDecompress::None).ok()?;
    Some(Progress {
        read: (inflate.total_in() - read) as usize,
        written: (inflate.total_out() - written) as usize,
        ended: status == Status::StreamEnd,
    })
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder")
            .field("taken", &self.taken)
            .field("given", &self.given)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
