//! Responses of backends: whatever the bytes are, reading ends, and any chunking gives the same statuses and content, or a
//! refusal.
#![no_main]

use bytes::BytesMut;
use elida::upstream::http1::ResponseReader;
use libfuzzer_sys::fuzz_target;

fn read<'a>(to_head: bool, chunks: impl Iterator<Item = &'a [u8]>) -> Option<(Vec<u16>, Vec<u8>)> {
    let mut reader = ResponseReader::new(to_head);
    let (mut input, mut statuses, mut content) = (BytesMut::new(), Vec::new(), Vec::new());
    let mut is_final = false;
    for chunk in chunks {
        input.extend_from_slice(chunk);
        while !is_final && let Some(head) = reader.next_head(&mut input).ok()? {
            statuses.push(head.status.as_u16());
            is_final = !head.status.is_informational() || head.status == 101;
        }
        while is_final && let Some(data) = reader.next_data(&mut input).ok()? {
            content.extend_from_slice(&data);
        }
    }
    if !reader.is_done() {
        reader.close().ok()?;
    }
    Some((statuses, content))
}

fuzz_target!(|input: (bool, u8, &[u8])| {
    let (to_head, size, bytes) = input;
    let chunked = read(to_head, bytes.chunks(usize::from(size).max(1)));
    assert_eq!(read(to_head, std::iter::once(bytes)), chunked);
});
