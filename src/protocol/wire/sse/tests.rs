//! Tests of the event reader: the standard's own examples, line ends, boundaries, chunkings.

use proptest::prelude::*;

use super::*;
use crate::protocol::chunks::{cut, sizes};

fn read(chunks: &[&[u8]]) -> (Vec<(String, String)>, bool) {
    let mut reader = SseReader::default();
    let (mut events, mut data) = (Vec::new(), Vec::new());
    for chunk in chunks {
        reader.feed(chunk, |piece| match piece {
            Piece::Data(part) => data.extend_from_slice(part),
            Piece::End { name } => events.push((
                String::from_utf8_lossy(name).into_owned(),
                String::from_utf8_lossy(&std::mem::take(&mut data)).into_owned(),
            )),
        });
    }
    (events, reader.at_boundary())
}

fn events(text: &str) -> Vec<(String, String)> {
    let whole = read(&[text.as_bytes()]).0;
    for size in 1..=text.len() {
        let chunks: Vec<_> = text.as_bytes().chunks(size).collect();
        assert_eq!(read(&chunks).0, whole, "{text:?} in chunks of {size}");
    }
    whole
}

#[test]
fn events_are_read_as_the_standard_says() {
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("data: YHOO\ndata: +2\ndata: 10\n\n", &[("", "YHOO\n+2\n10")]),
        (
            ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event",
            &[("", "first event"), ("", "second event")],
        ),
        ("data\n\ndata\ndata\n\ndata:", &[("", ""), ("", "\n")]),
        ("data:test\n\ndata: test\n\n", &[("", "test"), ("", "test")]),
        ("event: add\r\ndata: 73857293\r\n\r\n", &[("add", "73857293")]),
        ("event: a\rdata: 1\r\rdata: 2\r\r", &[("a", "1"), ("", "2")]),
        ("\u{FEFF}data: bom\n\n", &[("", "bom")]),
        ("\u{FEFE}data: no bom\n\ndata: x\n\n", &[("", "x")]),
        ("event: lost\n\ndata: x\n\n", &[("", "x")]),
        ("event: a\nevent: b\ndata: x\nevent\n\n", &[("", "x")]),
        ("DATA: x\ndatas: x\ndat: x\ndatadata: x\n\n", &[]),
        ("data: a:b\n\n:data: c\n\n", &[("", "a:b")]),
    ];
    for (text, expected) in cases {
        let expected: Vec<_> =
            expected.iter().map(|(name, data)| ((*name).to_owned(), (*data).to_owned())).collect();
        assert_eq!(events(text), expected, "{text:?}");
    }
}

#[test]
fn a_boundary_is_where_a_new_event_stands_by_itself() {
    let cases = [
        ("", true),
        ("\u{FEFF}", true),
        ("data: x\n\n", true),
        ("data: x\r\n\r", true),
        ("data: x\r\r", true),
        ("data: x\r\n\r\n", true),
        (": ping\n", true),
        ("data: x\n\n: ping\n", true),
        ("d", false),
        (":", false),
        ("data: x", false),
        ("data: x\n", false),
        ("data: x\r\n", false),
        ("event: x\n", false),
        ("id: 1\n", false),
        ("data: x\n: ping\n", false),
        ("data: x\n\n: pi", false),
    ];
    for (text, boundary) in cases {
        assert_eq!(read(&[text.as_bytes()]).1, boundary, "{text:?}");
        for size in 1..=text.len() {
            let chunks: Vec<_> = text.as_bytes().chunks(size).collect();
            assert_eq!(read(&chunks).1, boundary, "{text:?} in chunks of {size}");
        }
    }
    // Part of a byte order mark.
    assert!(!read(&[&[0xEF, 0xBB]]).1);
}

#[test]
fn a_long_name_is_cut_and_not_held() {
    let text = format!("event: {}\ndata: x\n\n", "n".repeat(1 << 20));
    assert_eq!(events_in_steps(&text, 1000)[0].0.len(), NAME_MAX);
}

fn events_in_steps(text: &str, step: usize) -> Vec<(String, String)> {
    read(&text.as_bytes().chunks(step).collect::<Vec<_>>()).0
}

proptest! {
    #[test]
    fn chunking_does_not_matter(
        parts in prop::collection::vec(
            prop::sample::select(&["data", "event", "id", ":", " ", "\n", "\r", "\r\n", "x", "é", "\u{FEFF}", "\n\n"][..]),
            0..60,
        ),
        sizes in sizes(),
    ) {
        let text = parts.concat();
        prop_assert_eq!(read(&cut(text.as_bytes(), &sizes)), read(&[text.as_bytes()]));
    }

    #[test]
    fn behind_a_boundary_the_next_event_is_read_by_itself(
        parts in prop::collection::vec(
            prop::sample::select(&["data:", "event:", ":", " ", "\n", "\r", "\r\n", "x", "\u{FEFF}"][..]),
            0..40,
        ),
    ) {
        let mut text = parts.concat();
        let (before, boundary) = read(&[text.as_bytes()]);
        text.push_str(if boundary { "data: last\n\n" } else { "\n\ndata: last\n\n" });
        let (after, boundary) = read(&[text.as_bytes()]);
        prop_assert!(boundary);
        prop_assert_eq!(after.last(), Some(&(String::new(), "last".to_owned())));
        // At most the event that was under way comes between.
        prop_assert!(after.len() <= before.len() + 2);
        prop_assert!(after.starts_with(&before));
    }
}
