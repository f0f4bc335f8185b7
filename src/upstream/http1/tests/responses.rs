//! Responses in any division.

use bytes::BytesMut;
use http::StatusCode;
use pingora_core::Result;
use proptest::prelude::*;

use crate::upstream::http1::ResponseReader;

/// What a reader made of bytes: statuses, content, whether the connection can be used again, and what was left.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) statuses: Vec<u16>,
    pub(super) content: Vec<u8>,
    pub(super) is_reusable: bool,
}

/// Reads bytes that arrive in pieces of this size, and then the end of the connection.
pub(super) fn read(bytes: &[u8], size: usize, to_head: bool) -> Result<Read> {
    let mut reader = ResponseReader::new(to_head);
    let mut input = BytesMut::new();
    let mut read = Read { statuses: Vec::new(), content: Vec::new(), is_reusable: false };
    let mut is_final = false;
    for piece in bytes.chunks(size) {
        input.extend_from_slice(piece);
        while !is_final && let Some(head) = reader.next_head(&mut input)? {
            read.statuses.push(head.status.as_u16());
            is_final = !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS;
        }
        while is_final && let Some(data) = reader.next_data(&mut input)? {
            assert!(!data.is_empty());
            read.content.extend_from_slice(&data);
        }
    }
    if !reader.is_done() {
        reader.close()?;
    }
    read.is_reusable = reader.is_reusable() && input.is_empty();
    Ok(read)
}

#[test]
fn empty_lines_before_a_response_are_passed_over_in_any_division() {
    for before in ["\r\n", "\n\r\n", "\r\n\n\r\n\r\n", "\n\n"] {
        let response = format!("{before}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        for size in 1..=response.len() {
            let read = read(response.as_bytes(), size, false).unwrap();
            assert_eq!(
                (&read.statuses[..], &read.content[..]),
                (&[200][..], &b"ok"[..]),
                "{response:?} {size}"
            );
        }
    }
}

/// Responses, their content, and whether the connection can be used again.
pub(super) const RESPONSES: &[(&str, &str, bool)] = &[
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", true),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, world", "hello", false),
    ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", true),
    ("HTTP/1.1 200\r\nContent-Length:5\r\nContent-Length: 5\r\n\r\nhello", "hello", true),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello", "hello", true),
    ("HTTP/1.1 200 OK\r\n\r\nhello", "hello", false),
    ("HTTP/1.0 200 OK\r\n\r\nhello", "hello", false),
    ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", false),
    ("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 5\r\n\r\nhello", "hello", true),
    ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", "hello", false),
    ("HTTP/1.1 200 OK\r\nConnection: x, CLOSE\r\nContent-Length: 5\r\n\r\nhello", "hello", false),
    ("HTTP/1.1 204 No Content\r\n\r\n", "", true),
    ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", "", true),
    ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "", true),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "hello", true),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nA: b\r\n\r\n",
        "hello",
        true,
    ),
    (
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
        "x",
        true,
    ),
    ("\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", "x", true),
    ("HTTP/1.1 200 OK\nContent-Length: 1\n\nx", "x", true),
    ("HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\nx", "x", true),
    ("HTTP/1.1 200 OK\r\nX-Folded: a\r\n b\r\nContent-Length: 1\r\n\r\nx", "x", true),
];

/// Responses that are not forwarded.
pub(super) const FAULTY: &[&str] = &[
    "",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello!",
    "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello",
    "HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n",
    "HTTP/1.1 200 OK\r\n: x\r\n\r\n",
    "HTTP/1.1 200 OK\r\nA: \0\r\n\r\n",
    "HTTP/2 200 OK\r\n\r\n",
    "HTTP/1.1 20 OK\r\n\r\n",
    "SSH-2.0-OpenSSH\r\n\r\n",
    "{\"error\":\"no HTTP\"}\n\n",
];

#[test]
fn responses_end_where_their_heads_say() {
    for (bytes, content, is_reusable) in RESPONSES {
        for size in [1, 2, 3, 7, 1000] {
            let read =
                read(bytes.as_bytes(), size, false).unwrap_or_else(|error| panic!("{bytes:?}: {error}"));
            assert_eq!(String::from_utf8(read.content).unwrap(), *content, "{bytes:?}");
            assert_eq!(read.is_reusable, *is_reusable, "{bytes:?} in pieces of {size}");
        }
    }
}

#[test]
fn responses_to_head_have_no_body() {
    for framing in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        let bytes = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n");
        let read = read(bytes.as_bytes(), 1000, true).unwrap();
        assert_eq!((read.content, read.is_reusable), (Vec::new(), true));
    }
}

#[test]
fn doubtful_framing_ends_the_connection() {
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        let read = read(bytes.as_bytes(), 1000, false).unwrap();
        assert_eq!((read.content, read.is_reusable), (b"hello".to_vec(), false), "{bytes:?}");
    }
}

#[test]
fn faulty_responses_are_errors_in_any_division() {
    for bytes in FAULTY {
        for size in [1, 5, 1000] {
            assert!(read(bytes.as_bytes(), size, false).is_err(), "{bytes:?}");
        }
    }
}

#[test]
fn a_head_that_never_ends_is_an_error() {
    let bytes = [b"HTTP/1.1 200 OK\r\n".as_slice(), &b"A: b\r\n".repeat(200_000)].concat();
    assert!(read(&bytes, 10_000, false).is_err());
    let fields = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(300));
    assert!(read(fields.as_bytes(), 10_000, false).is_err(), "too many fields");
}

proptest! {
    #[test]
    fn any_division_reads_the_same(at in 0..RESPONSES.len(), size in 1_usize..40) {
        let bytes = RESPONSES[at].0.as_bytes();
        prop_assert_eq!(read(bytes, size, false).unwrap(), read(bytes, 1000, false).unwrap());
    }

    #[test]
    fn any_bytes_are_read_or_refused_the_same_in_any_division(
        at in 0..RESPONSES.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        size in 1_usize..40,
    ) {
        let mut bytes = RESPONSES[at].0.as_bytes().to_vec();
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        match (read(&bytes, size, false), read(&bytes, 1000, false)) {
            (Ok(one), Ok(other)) => prop_assert_eq!(one, other),
            (one, other) => prop_assert_eq!(one.is_err(), other.is_err(), "{}", bytes.escape_ascii()),
        }
    }
}
