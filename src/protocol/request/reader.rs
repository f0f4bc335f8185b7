//! A request's body as it arrives: decoded when it is compressed, and scanned once.

use super::batch_file::BatchFault;
use super::body::{RequestPaths, RequestScan};
use super::form::FormReader;
use crate::protocol::dialects::spec::Dialect;
use crate::protocol::facts::model_request::{ModelPlace, ModelRequest};
use crate::protocol::wire::coding::{Coding, Decoder, Unread};

/// Bytes that show whether a text is UTF-8 (RFC 4627, 3).
const SIGNATURE: usize = 4;

/// What is scanned.
#[derive(Debug)]
enum Content {
    Json(RequestScan),
    Form(FormReader),
}

/// Reads a request's body, chunk by chunk, once. A body that is not compressed costs nothing beside its scan.
#[derive(Debug)]
pub struct BodyReader {
    content: Content,
    /// Of a compressed body.
    decoder: Option<Box<Decoder>>,
    unread: Option<Unread>,
    /// The largest decoded body in bytes.
    limit: usize,
    /// No byte has arrived.
    is_empty: bool,
    /// Decoded bytes so far.
    length: usize,
    /// The first of them.
    signature: [u8; SIGNATURE],
}

impl BodyReader {
    /// A reader at the beginning of a JSON body of this dialect. A body that has more than `limit` bytes when it is decoded
    /// is not read.
    pub fn new(dialect: Dialect, coding: Coding, limit: usize, paths: &RequestPaths) -> Self {
        Self::of(Content::Json(RequestScan::speaking(dialect, paths)), coding, limit)
    }

    /// The same for a form with this `Content-Type`.
    pub fn form(media: &str, coding: Coding, limit: usize, paths: &RequestPaths) -> Self {
        Self::of(Content::Form(FormReader::new(media, paths.hints())), coding, limit)
    }

    /// The same for a form with this `Content-Type` that may upload the file of a batch.
    pub fn batch_file(media: &str, coding: Coding, limit: usize) -> Self {
        Self::of(Content::Form(FormReader::of_batch(media)), coding, limit)
    }

    fn of(content: Content, coding: Coding, limit: usize) -> Self {
        let (decoder, unread) = match Decoder::new(coding) {
            Ok(decoder) => (decoder.map(Box::new), None),
            Err(unread) => (None, Some(unread)),
        };
        Self { content, decoder, unread, limit, is_empty: true, length: 0, signature: [b'-'; SIGNATURE] }
    }

    /// The body's next bytes, as they arrive.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.is_empty &= bytes.is_empty();
        if self.unread.is_some() {
            return;
        }
        let Some(mut decoder) = self.decoder.take() else { return self.take(bytes) };
        let decoded = decoder.feed(bytes, |plain| self.take(plain));
        self.unread = self.unread.or(decoded.err());
        self.decoder = Some(decoder);
    }

    /// The next decoded bytes.
    fn take(&mut self, plain: &[u8]) {
        if self.unread.is_some() {
            return;
        }
        if let Some(missing) = self.signature.get_mut(self.length..) {
            missing.iter_mut().zip(plain).for_each(|(place, byte)| *place = *byte);
        }
        self.length += plain.len();
        if self.length > self.limit {
            self.unread = Some(Unread::TooLarge);
        } else {
            match &mut self.content {
                Content::Json(scan) => scan.feed(plain),
                Content::Form(form) => form.feed(plain),
            }
        }
    }

    /// What a form says before its end; nothing for another body.
    pub fn so_far(&self) -> ModelRequest {
        let found = self.form_so_far().cloned().unwrap_or_default();
        ModelRequest { unread: self.unread, model_place: self.place(found.model_place), ..found }
    }

    /// Whether the rest cannot be read.
    pub fn is_lost(&self) -> bool {
        self.unread.is_some() || matches!(&self.content, Content::Form(form) if form.is_broken())
    }

    /// The place of the model; positions in a compressed form are of no use.
    fn place(&self, place: ModelPlace) -> ModelPlace {
        match place {
            ModelPlace::Form { .. } if self.decoder.is_some() => ModelPlace::Fixed,
            ModelPlace::Json | ModelPlace::Form { .. } | ModelPlace::Fixed => place,
        }
    }

    /// What a form has said so far; `None` for another body.
    pub fn form_so_far(&self) -> Option<&ModelRequest> {
        if let Content::Form(form) = &self.content { Some(form.so_far()) } else { None }
    }

    /// What the file of a batch has shown since the last call, if it matters: the models in it, and why it cannot be read.
    pub fn take_batch_news(&mut self) -> Option<(&ModelRequest, Option<BatchFault>)> {
        if let Content::Form(form) = &mut self.content { form.take_batch_news() } else { None }
    }

    /// Whether the content of a file in a form has begun.
    pub fn has_file(&self) -> bool {
        matches!(&self.content, Content::Form(form) if form.has_file())
    }

    /// What was found, once the body has ended.
    pub fn finish(self) -> ModelRequest {
        let so_far = self.so_far();
        let (found, is_encoded) = match self.content {
            Content::Json(scan) => (scan.finish(), !is_utf8(self.signature)),
            Content::Form(form) => (ModelRequest { malformed: !form.is_whole(), ..so_far }, false),
        };
        let unread = self.unread.or(is_encoded.then_some(Unread::Coding));
        ModelRequest { unread, malformed: found.malformed && !self.is_empty, ..found }
    }
}

/// Whether a JSON text may begin with these bytes in UTF-8. In UTF-16 and UTF-32, which some servers accept, one of the
/// first bytes is zero or there is a byte order mark.
fn is_utf8(signature: [u8; SIGNATURE]) -> bool {
    !signature.contains(&0) && !matches!(signature, [0xFE, 0xFF, ..] | [0xFF, 0xFE, ..])
}

/// The whole of a compressed body; `None` when it cannot be decoded, or has more than `limit` bytes then.
pub fn decoded(body: &[u8], coding: Coding, limit: usize) -> Option<Vec<u8>> {
    let mut decoder = Decoder::new(coding).ok()??;
    let mut plain = Vec::new();
    let mut fits = true;
    let end = decoder.feed(body, |piece| {
        fits &= plain.len() + piece.len() <= limit;
        if fits {
            plain.extend_from_slice(piece);
        }
    });
    (fits && end.is_ok()).then_some(plain)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    const BODY: &str =
        r#"{"metadata":{"session_id":"s1"},"messages":[{"model":"x"}],"stream":true,"model":"gpt-5"}"#;

    fn packed(coding: Coding, plain: &[u8]) -> Vec<u8> {
        match coding {
            Coding::Gzip => {
                let mut writer = GzEncoder::new(Vec::new(), Compression::default());
                writer.write_all(plain).unwrap();
                writer.finish().unwrap()
            }
            Coding::Deflate => {
                let mut writer = ZlibEncoder::new(Vec::new(), Compression::default());
                writer.write_all(plain).unwrap();
                writer.finish().unwrap()
            }
            Coding::Brotli => {
                let mut writer = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
                writer.write_all(plain).unwrap();
                writer.into_inner()
            }
            Coding::Zstd => zstd::encode_all(plain, 3).unwrap(),
            Coding::Identity | Coding::Unknown => plain.to_vec(),
        }
    }

    fn read(coding: Coding, bytes: &[u8], chunk: usize, limit: usize) -> ModelRequest {
        let paths = RequestPaths::new(&["metadata.session_id".to_owned()]);
        let mut reader = BodyReader::new(Dialect::PLAIN, coding, limit, &paths);
        bytes.chunks(chunk).for_each(|chunk| reader.feed(chunk));
        reader.finish()
    }

    #[test]
    fn a_compressed_body_says_what_its_plain_twin_says() {
        let plain = read(Coding::Identity, BODY.as_bytes(), 7, 1000);
        assert_eq!(
            (plain.model.as_deref(), plain.hint(0), plain.stream),
            (Some("gpt-5"), Some("s1"), Some(true))
        );
        for coding in [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd] {
            let bytes = packed(coding, BODY.as_bytes());
            for chunk in [1, 3, 1000] {
                assert_eq!(read(coding, &bytes, chunk, 1000), plain, "{coding:?} in chunks of {chunk}");
            }
            assert_eq!(decoded(&bytes, coding, BODY.len()).as_deref(), Some(BODY.as_bytes()), "{coding:?}");
            assert_eq!(decoded(&bytes, coding, BODY.len() - 1), None, "{coding:?}");
        }
        let mut bare = DeflateEncoder::new(Vec::new(), Compression::default());
        bare.write_all(BODY.as_bytes()).unwrap();
        assert_eq!(read(Coding::Deflate, &bare.finish().unwrap(), 5, 1000), plain, "without zlib's head");
    }

    #[test]
    fn what_cannot_be_read_is_known() {
        let unread = |coding, bytes: &[u8], limit| read(coding, bytes, 9, limit).unread;
        assert_eq!(unread(Coding::Unknown, BODY.as_bytes(), 1000), Some(Unread::Coding));
        for coding in [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd] {
            assert_eq!(unread(coding, BODY.as_bytes(), 1000), Some(Unread::Corrupt), "{coding:?}");
            let bomb = packed(coding, &vec![b' '; 8 << 20]);
            assert_eq!(unread(coding, &bomb, 16 << 20), Some(Unread::TooLarge), "{coding:?} grows too much");
            let longer = packed(coding, BODY.as_bytes());
            assert_eq!(unread(coding, &longer, BODY.len() - 1), Some(Unread::TooLarge), "{coding:?}");
            assert_eq!(unread(coding, &longer, BODY.len()), None, "{coding:?}");
        }
        let wide: Vec<u8> = BODY.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(unread(Coding::Identity, &wide, 1000), Some(Unread::Coding));
        let marked: Vec<u8> =
            [0xFE, 0xFF].into_iter().chain(BODY.encode_utf16().flat_map(u16::to_be_bytes)).collect();
        assert_eq!(unread(Coding::Identity, &marked, 1000), Some(Unread::Coding));
        assert_eq!(unread(Coding::Identity, b"\xEF\xBB\xBF{}", 1000), None, "a mark of UTF-8");
        for body in ["", "1", "[]", "\u{e4}"] {
            assert_eq!(unread(Coding::Identity, body.as_bytes(), 1000), None, "{body}");
        }
        assert!(!read(Coding::Identity, b"", 1, 10).malformed, "there is nothing in an empty body");
    }
}
