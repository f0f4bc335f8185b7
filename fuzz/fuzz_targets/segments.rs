//! The texts of a request's body: nothing panics; each string of a JSON body is told as it reads, in every dialect.
#![no_main]

use elida::protocol::Dialect;
use elida::protocol::request::segments::{Element, Reader, Segment, read};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

#[derive(Default)]
struct Told(Vec<Vec<u8>>);

impl Reader for Told {
    fn begin(&mut self, _: &Element<'_>) -> bool {
        true
    }

    fn segment(&mut self, segment: &Segment<'_>) {
        self.0.push(segment.text.to_vec());
    }

    fn end(&mut self, _: &Element<'_>) {}
}

fn check(value: &Value, told: &[Vec<u8>]) {
    match value {
        // Short ones may be words of the APIs, long ones images.
        Value::String(text) if text.len() > 24 && text.len() < 512 => {
            assert!(told.iter().any(|told| told == text.as_bytes()), "{text:?} is not told");
        }
        Value::Array(items) => items.iter().for_each(|item| check(item, told)),
        Value::Object(members) => members.values().for_each(|value| check(value, told)),
        _ => {}
    }
}

fuzz_target!(|input: (u8, &[u8])| {
    let (number, body) = input;
    let dialects: Vec<Dialect> = Dialect::all().collect();
    let mut told = Told::default();
    read(body, dialects[usize::from(number) % dialects.len()], &mut told);
    // Serde takes half a surrogate pair for an error and a doubled key for one.
    if let Ok(value) = serde_json::from_slice::<Value>(body) {
        check(&value, &told.0);
    }
});
