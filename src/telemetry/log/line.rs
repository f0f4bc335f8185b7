//! Formats a log line, as JSON or as `key=value` text.
//!
//! Invariant: the result contains exactly one newline, its last byte, whatever the fields contain.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;

use jiff::Timestamp;
use serde::de::{MapAccess, Visitor};
use serde::{Deserializer, Serialize};
use serde_json::value::RawValue;

use super::label;
use crate::telemetry::access::{AccessLine, MESSAGE};
use crate::telemetry::settings::{Format, Level};

/// The initial buffer size in bytes, which is enough for most lines.
const USUAL: usize = 768;

/// A line: the common fields, then its own.
#[derive(Serialize)]
struct Record<'a, T> {
    timestamp: &'a str,
    level: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    message: &'a str,
    #[serde(flatten)]
    fields: &'a T,
}

/// Formats a line, including its newline. `fields` must serialize as a struct or a map.
pub(in crate::telemetry) fn line(
    format: Format,
    level: Level,
    target: Option<&str>,
    message: &str,
    fields: &impl Serialize,
) -> Vec<u8> {
    let timestamp = written(Timestamp::now());
    let (timestamp, level) = (std::str::from_utf8(&timestamp).unwrap_or_default(), label(level));
    let mut line = Vec::with_capacity(USUAL);
    let written = serde_json::to_writer(&mut line, &Record { timestamp, level, target, message, fields });
    // Fails only if `fields` is not a struct or map. The line then still has its message.
    if let Err(fault) = written {
        let fields = &serde_json::json!({"log_fault": fault.to_string()});
        line = serde_json::to_vec(&Record { timestamp, level, target, message, fields }).unwrap_or_default();
    }
    if format == Format::Text {
        line = text(&line);
    }
    line.push(b'\n');
    line
}

/// The largest buffer in bytes that a thread keeps for its next access line.
const KEPT: usize = 16 << 10;

/// Formats an access line, including its newline, and calls `write` with it.
pub(super) fn access(format: Format, line: &AccessLine<'_>, write: impl FnOnce(&[u8])) {
    let mut json = BUFFER.take();
    json.clear();
    let head = |json: &mut Vec<u8>, part: &str| json.extend_from_slice(part.as_bytes());
    head(&mut json, "{\"timestamp\":\"");
    json.extend_from_slice(&written(Timestamp::now()));
    for part in ["\",\"level\":\"", label(Level::Info), "\",\"message\":\"", MESSAGE, "\""] {
        head(&mut json, part);
    }
    line.write(&mut json);
    json.push(b'}');
    if format == Format::Text {
        json = text(&json);
    }
    json.push(b'\n');
    write(&json);
    json.shrink_to(KEPT);
    BUFFER.set(json);
}

/// The lengths of a timestamp: up to the seconds, and with microseconds and the `Z`.
const SECONDS: usize = "2026-11-20T09:00:00".len();
const MICROS: usize = "2026-11-20T09:00:00.123456Z".len();

thread_local! {
    /// The memory of this thread's access lines.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// The second formatted last on this thread, and its text: many lines share a second.
    static LAST: Cell<(i64, [u8; SECONDS])> = const { Cell::new((i64::MIN, [b'0'; SECONDS])) };
}

/// Formats a timestamp as RFC 3339 with microseconds.
fn written(now: Timestamp) -> [u8; MICROS] {
    let (mut second, mut micros) = (now.as_second(), now.subsec_microsecond());
    if micros < 0 {
        // Before 1970 the fraction is negative.
        (second, micros) = (second - 1, micros + 1_000_000);
    }
    let mut last = LAST.get();
    if last.0 != second {
        let text = Timestamp::from_second(second).unwrap_or_default().to_string();
        last.1.copy_from_slice(text.as_bytes().get(..SECONDS).unwrap_or(&[b'0'; SECONDS]));
        last.0 = second;
        LAST.set(last);
    }
    let mut time = [b'0'; MICROS];
    time[..SECONDS].copy_from_slice(&last.1);
    time[SECONDS] = b'.';
    time[MICROS - 1] = b'Z';
    for place in time[SECONDS + 1..MICROS - 1].iter_mut().rev() {
        *place = b'0' + u8::try_from(micros % 10).unwrap_or_default();
        micros /= 10;
    }
    time
}

/// Converts a JSON line to `2026-11-20T09:00:00Z INFO the message key=value …`.
fn text(json: &[u8]) -> Vec<u8> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    reader.deserialize_map(Pairs(String::with_capacity(json.len()))).unwrap_or_default().into_bytes()
}

/// Appends each pair of a map while it is parsed.
struct Pairs(String);

impl<'de> Visitor<'de> for Pairs {
    type Value = String;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a record")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<String, A::Error> {
        while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
            let head = matches!(key.as_str(), "timestamp" | "level" | "message");
            if !self.0.is_empty() {
                self.0.push(' ');
            }
            if !head {
                key.chars().for_each(|c| self.0.push(if is_bare(c) { c } else { '_' }));
                self.0.push('=');
            }
            // Only the message may contain spaces without quotes.
            push_value(&mut self.0, value.get(), key == "message");
        }
        Ok(self.0)
    }
}

/// Appends a value: a string without special characters without quotes, everything else as JSON.
fn push_value(line: &mut String, json: &str, is_sentence: bool) {
    let inside = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match inside {
        Some(inside)
            if !inside.is_empty() && inside.chars().all(|c| is_bare(c) || (is_sentence && c == ' ')) =>
        {
            line.push_str(inside);
        }
        _ => {
            for c in json.chars() {
                match c {
                    // JSON does not escape DEL, C1 and the line separators, but a terminal interprets them.
                    c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                        let _ = write!(line, "\\u{:04x}", u32::from(c));
                    }
                    c => line.push(c),
                }
            }
        }
    }
}

fn is_bare(c: char) -> bool {
    !c.is_control() && !c.is_whitespace() && !matches!(c, '"' | '\\' | '=')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line_of(format: Format, message: &str, fields: &impl Serialize) -> String {
        let line = line(format, Level::Info, None, message, fields);
        let line = String::from_utf8(line).unwrap();
        assert_eq!(line.find('\n'), Some(line.len() - 1), "{line:?}");
        line
    }

    #[test]
    fn json_lines_begin_with_the_head_and_are_flat() {
        let line = line_of(Format::Json, "hello", &serde_json::json!({"a": 1, "b": null}));
        assert!(line.starts_with(r#"{"timestamp":"20"#), "{line}");
        assert!(line.ends_with("\"level\":\"INFO\",\"message\":\"hello\",\"a\":1,\"b\":null}\n"), "{line}");
    }

    #[test]
    fn text_lines_quote_what_needs_it() {
        let fields = serde_json::json!({
            "a": "plain", "b": "two words", "c": "", "d": {"x": [1]}, "e f": true, "g": "\u{9b}2J",
            "h": "x level=ERROR"
        });
        let line = line_of(Format::Text, "session killed", &fields);
        let tail = line.split_once("Z ").unwrap().1;
        assert_eq!(
            tail,
            concat!(
                r#"INFO session killed a=plain b="two words" c="" d={"x":[1]} e_f=true g="\u009b2J" "#,
                "h=\"x level=ERROR\"\n"
            )
        );
    }

    #[test]
    fn fields_that_are_no_record_do_not_lose_the_line() {
        let line = line_of(Format::Json, "odd", &7);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["message"], "odd");
        assert!(value["log_fault"].is_string(), "{line}");
    }

    proptest! {
        #[test]
        fn a_time_is_written_as_jiff_writes_it(micros in -62_135_596_800_000_000i64..253_402_207_200_000_000) {
            let time = Timestamp::from_microsecond(micros).unwrap();
            prop_assert_eq!(String::from_utf8(super::written(time).to_vec()).unwrap(), format!("{time:.6}"));
        }

        #[test]
        fn nobody_writes_a_line_of_their_own(message in ".*", key in ".*", value in "(?s).*") {
            let fields = std::collections::BTreeMap::from([(format!("k{key}"), value.clone())]);
            let json = line_of(Format::Json, &message, &fields);
            let read: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(read["message"].as_str().unwrap(), message.as_str());
            prop_assert_eq!(read[format!("k{key}")].as_str().unwrap(), value.as_str());
            let text = line_of(Format::Text, &message, &fields);
            prop_assert!(text.trim_end_matches('\n').chars().all(|c| !c.is_control()));
        }
    }
}
