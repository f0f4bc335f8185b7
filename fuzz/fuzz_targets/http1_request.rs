//! Requests over HTTP/1.1: any division into reads gives the same heads and bodies, and no byte belongs to two requests.
#![no_main]

use bytes::BytesMut;
use elida::protocol::wire::http1::body::{self, Body};
use elida::proxy::downstream::http1::head::{self, Head};
use libfuzzer_sys::fuzz_target;

/// The requests on a connection, each with its body as far as it came; and how reading ended.
#[derive(Debug, Default, PartialEq)]
struct Requests {
    raw: Vec<Vec<u8>>,
    bodies: Vec<(Vec<u8>, bool)>,
    head_fault: Option<head::Fault>,
    body_fault: Option<body::Fault>,
}

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Requests {
    let (mut seen, mut buffer, mut body) = (Requests::default(), BytesMut::new(), Body::Done);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            if body.is_done() {
                match head::take(&mut buffer) {
                    Ok(Some(Head { raw, framing, .. })) => {
                        seen.raw.push(raw.to_vec());
                        seen.bodies.push((Vec::new(), false));
                        body = Body::new(framing);
                    }
                    Ok(None) => break,
                    Err(fault) => {
                        seen.head_fault = Some(fault);
                        return seen;
                    }
                }
            }
            let part = body.take(&mut buffer);
            if let Some((data, is_done)) = seen.bodies.last_mut() {
                data.extend_from_slice(part.as_ref().ok().and_then(Option::as_ref).map_or(&b""[..], |part| part));
                *is_done = body.is_done();
            }
            match part {
                Ok(Some(part)) => assert!(!part.is_empty()),
                Ok(None) if body.is_done() => {}
                Ok(None) => break,
                Err(fault) => {
                    seen.body_fault = Some(fault);
                    return seen;
                }
            }
        }
    }
    seen
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, stream) = input;
    let whole = read(std::iter::once(stream));
    assert_eq!(whole, read(stream.chunks(usize::from(size).max(1))));
    let heads: usize = whole.raw.iter().map(Vec::len).sum();
    let bodies: usize = whole.bodies.iter().map(|(data, _)| data.len()).sum();
    assert!(heads + bodies <= stream.len());
});
