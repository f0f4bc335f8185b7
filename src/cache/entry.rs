//! A stored answer.

use std::sync::atomic::AtomicU64;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{
    AGE, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, PROXY_AUTHENTICATE, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderName, Version};
use pingora_http::ResponseHeader;

use super::freshness::Freshness;
use super::key::{Id, Target};
use crate::ids::REQUEST_ID;

/// What an entry takes beside its parts: the slots of the tables it is in.
const OVERHEAD: usize = 256;
/// The first bytes of a written entry: its form.
const FORM: [u8; 4] = *b"EC1\0";
/// The most fields of a head that is read.
const MAX_FIELDS: usize = 256;
/// Fields of a message's connection (RFC 9110, 7.6.1), and the id of a request, of which each has its own. Ages are counted on.
const NOT_STORED: [HeaderName; 7] =
    [AGE, CONNECTION, PROXY_AUTHENTICATE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];
/// The same that have no constant.
const NOT_STORED_EITHER: [&str; 4] =
    ["keep-alive", "proxy-connection", "proxy-authentication-info", REQUEST_ID];
/// Fields that describe the body, which a 304 does not replace (RFC 9111, 3.2).
const OF_BODY: [HeaderName; 5] = [CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, TRANSFER_ENCODING];
/// The same without a constant.
const DIGEST_OF_BODY: &str = "content-md5";

/// A stored answer.
#[derive(Debug)]
pub struct Entry {
    pub(super) id: Id,
    pub(super) target: Target,
    pub(super) head: ResponseHeader,
    pub(super) body: Bytes,
    pub(super) freshness: Freshness,
    pub(super) variance: Option<[u8; 16]>,
    pub(super) hits: AtomicU64,
}

impl Entry {
    /// The head, as it is sent but for `Age`.
    pub fn head(&self) -> &ResponseHeader {
        &self.head
    }

    /// The whole body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// How long it is fresh.
    pub fn freshness(&self) -> &Freshness {
        &self.freshness
    }

    /// The digest of the fields of the request by which it varies.
    pub fn variance(&self) -> Option<[u8; 16]> {
        self.variance
    }

    /// Bytes that it takes.
    pub(super) fn weight(&self) -> usize {
        self.body.len() + weight_of_head(&self.head) + self.target.url.len() + OVERHEAD
    }

    /// The same answer with the head that a 304 has freshened.
    pub(super) fn refreshed(&self, head: &ResponseHeader, freshness: Freshness) -> Self {
        Self {
            id: self.id,
            target: self.target.clone(),
            head: stored_head(head, self.body.len()),
            body: self.body.clone(),
            freshness,
            variance: self.variance,
            hits: AtomicU64::new(self.hits.load(std::sync::atomic::Ordering::Relaxed)),
        }
    }

    /// Writes it for another process.
    pub(super) fn write(&self) -> Bytes {
        let mut text = BytesMut::with_capacity(self.weight() + 256);
        text.put_slice(&FORM);
        text.put_slice(&self.target.id);
        put(&mut text, self.target.url.as_bytes());
        put(&mut text, self.variance.as_ref().map_or(&[][..], |variance| &variance[..]));
        let Freshness { came, age, lifetime, no_cache, must_revalidate, stale_if_error } = self.freshness;
        for number in [came, age, lifetime, u64::from(no_cache), u64::from(must_revalidate), stale_if_error] {
            text.put_u64(number);
        }
        let mut head = format!("HTTP/1.1 {} \r\n", self.head.status.as_u16()).into_bytes();
        self.head.header_to_h1_wire(&mut head);
        head.extend_from_slice(b"\r\n");
        put(&mut text, &head);
        text.put_slice(&self.body);
        text.freeze()
    }

    /// Reads what another process wrote; `None` for anything else.
    pub(super) fn read(id: Id, text: &Bytes) -> Option<Self> {
        let mut rest = text.strip_prefix(&FORM)?;
        let target_id: Id = *rest.split_off(..32)?.first_chunk()?;
        let url = std::str::from_utf8(take(&mut rest)?).ok()?.into();
        let variance = match take(&mut rest)? {
            [] => None,
            bytes => Some(bytes.try_into().ok()?),
        };
        let mut number = || Some(u64::from_be_bytes(*rest.split_off(..8)?.first_chunk()?));
        let freshness = Freshness {
            came: number()?,
            age: number()?,
            lifetime: number()?,
            no_cache: number()? != 0,
            must_revalidate: number()? != 0,
            stale_if_error: number()?,
        };
        let head = read_head(take(&mut rest)?)?;
        let body = text.slice(text.len() - rest.len()..);
        let target = Target { url, id: target_id };
        Some(Self { id, target, head, body, freshness, variance, hits: AtomicU64::new(0) })
    }
}

/// Returns the bytes that a head takes.
pub(super) fn weight_of_head(head: &ResponseHeader) -> usize {
    // A field has its name in two spellings.
    head.headers.iter().map(|(name, value)| 2 * name.as_str().len() + value.len() + 64).sum()
}

/// Returns the head as it is stored: without the fields of its connection, with the length of the body.
pub(super) fn stored_head(head: &ResponseHeader, length: usize) -> ResponseHeader {
    let mut stored = head.clone();
    let options: Vec<HeaderName> = head
        .headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in NOT_STORED.iter().chain(&options) {
        stored.remove_header(name);
    }
    for name in NOT_STORED_EITHER {
        stored.remove_header(name);
    }
    stored.remove_header(&CONTENT_LENGTH);
    if head.status != http::StatusCode::NO_CONTENT {
        let _ = stored.insert_header(CONTENT_LENGTH, length);
    }
    stored.set_version(Version::HTTP_11);
    stored
}

/// Returns the stored head with the fields of a 304 (RFC 9111, 3.2).
pub fn freshened(stored: &ResponseHeader, confirmed: &ResponseHeader) -> ResponseHeader {
    let mut head = stored.clone();
    for name in confirmed.headers.keys().filter(|name| !OF_BODY.contains(name) && *name != DIGEST_OF_BODY) {
        head.remove_header(name);
        for value in confirmed.headers.get_all(name) {
            let _ = head.append_header(name.clone(), value.clone());
        }
    }
    head
}

fn read_head(text: &[u8]) -> Option<ResponseHeader> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut fields);
    if !parsed.parse(text).ok()?.is_complete() {
        return None;
    }
    let mut head = ResponseHeader::build(parsed.code?, Some(parsed.headers.len())).ok()?;
    for field in parsed.headers.iter() {
        head.append_header(field.name.to_owned(), field.value).ok()?;
    }
    head.set_version(Version::HTTP_11);
    Some(head)
}

/// Writes a part after its length.
fn put(text: &mut BytesMut, part: &[u8]) {
    text.put_u32(u32::try_from(part.len()).unwrap_or(u32::MAX));
    text.put_slice(part);
}

/// Reads a part after its length.
fn take<'t>(text: &mut &'t [u8]) -> Option<&'t [u8]> {
    let length = u32::from_be_bytes(*text.split_off(..4)?.first_chunk()?);
    text.split_off(..usize::try_from(length).ok()?)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn entry() -> Entry {
        let mut head = ResponseHeader::build(203, None).unwrap();
        for (name, value) in
            [("ETag", "\"1\""), ("X-Odd", "a"), ("x-odd", "b"), ("Keep-Alive", "5"), ("Age", "7")]
        {
            head.append_header(name, value).unwrap();
        }
        for (name, value) in [("Connection", "x-hop"), ("x-hop", "1"), ("Transfer-Encoding", "chunked")] {
            head.append_header(name, value).unwrap();
        }
        let came = super::super::freshness::millis(SystemTime::now());
        Entry {
            id: [1; 32],
            target: Target::new("files", 1, "http", "a.test", b"/x"),
            head: stored_head(&head, 3),
            body: Bytes::from_static(b"abc"),
            freshness: Freshness {
                came,
                age: 1,
                lifetime: 2,
                no_cache: true,
                must_revalidate: false,
                stale_if_error: 3,
            },
            variance: Some([2; 16]),
            hits: AtomicU64::new(0),
        }
    }

    fn shown(head: &ResponseHeader) -> Vec<(String, String)> {
        let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
        let mut fields: Vec<_> =
            head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        fields.sort();
        fields
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let written = entry().write();
        let read = Entry::read([1; 32], &written).unwrap();
        let expected = entry();
        assert_eq!(shown(&read.head), shown(&expected.head));
        assert_eq!((read.head.status.as_u16(), &read.body[..]), (203, &b"abc"[..]));
        assert_eq!((read.variance, &read.target), (expected.variance, &expected.target));
        assert_eq!(read.freshness.lifetime, 2);
        for cut in 0..written.len() - 3 {
            assert!(Entry::read([1; 32], &written.slice(..cut)).is_none(), "{cut}");
        }
    }

    #[test]
    fn fields_of_the_connection_are_not_stored() {
        let names: Vec<_> = shown(&entry().head).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["content-length", "etag", "x-odd", "x-odd"]);
    }

    #[test]
    fn a_304_replaces_the_fields_that_it_has_but_for_those_of_the_body() {
        let mut confirmed = ResponseHeader::build(304, None).unwrap();
        for (name, value) in [("X-Odd", "c"), ("Content-Length", "9"), ("New", "1")] {
            confirmed.append_header(name, value).unwrap();
        }
        let head = freshened(&entry().head, &confirmed);
        let fields = shown(&head);
        let values = |name: &str| -> Vec<&str> {
            let of_name = fields.iter().filter(|(found, _)| found == name);
            of_name.map(|(_, value)| value.as_str()).collect()
        };
        assert_eq!((values("x-odd"), values("content-length")), (vec!["c"], vec!["3"]));
        assert_eq!((values("new").len(), values("etag").len(), head.status.as_u16()), (1, 1, 203));
    }
}
