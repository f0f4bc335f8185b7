//! Texts that begin like the one before them, as most events of a stream do: what their common beginning reports is reported
//! again, without reading it.

use super::{PathSet, Scanner, Seen, State, Value};

/// Bytes of a text that are compared.
const SAMPLE: usize = 512;
/// The shortest beginning that is worth it, in bytes.
const SHORTEST: usize = 24;
/// After so many texts in a row that begin otherwise, no more are compared.
const MISSES: u8 = 16;

/// What is known of the texts before. A scanner that reads one text only has none of it.
#[derive(Debug, Default)]
pub(super) struct Repeat {
    /// A text has been read before.
    is_on: bool,
    misses: u8,
    /// The first bytes of the last text that did not begin with `beginning`.
    sample: Vec<u8>,
    /// What a text must begin with; empty when no two texts in a row began alike.
    beginning: Vec<u8>,
    /// What that reports.
    reports: Vec<(usize, Kept)>,
    /// Where it ends: before a value.
    end: Option<Box<Position>>,
}

/// Everything that a scanner knows before a value.
#[derive(Clone, Debug)]
struct Position {
    followed: [u32; PathSet::MAX_DEPTH],
    arrays: u8,
    level: usize,
    target: Option<u32>,
    seen: Option<Box<Seen>>,
    is_doubled: bool,
}

/// A [`Value`] of its own.
#[derive(Debug)]
enum Kept {
    Str(Box<str>),
    Number(Box<str>),
    Bool(bool),
    Null,
    Part(Box<[u8]>),
    Raw(Box<[u8]>),
    End,
}

impl Kept {
    fn of(value: &Value<'_>) -> Self {
        match value {
            Value::Str(text) => Self::Str((&**text).into()),
            Value::Number(number) => Self::Number((*number).into()),
            Value::Bool(bool) => Self::Bool(*bool),
            Value::Null => Self::Null,
            Value::Part(part) => Self::Part((*part).into()),
            Value::Raw(part) => Self::Raw((*part).into()),
            Value::End => Self::End,
        }
    }

    fn value(&self) -> Value<'_> {
        match self {
            Self::Str(text) => Value::Str((&**text).into()),
            Self::Number(number) => Value::Number(number),
            Self::Bool(bool) => Value::Bool(*bool),
            Self::Null => Value::Null,
            Self::Part(part) => Value::Part(part),
            Self::Raw(part) => Value::Raw(part),
            Self::End => Value::End,
        }
    }
}

impl Scanner {
    /// Another text follows.
    pub(super) fn expect_repetition(&mut self) {
        self.repeat.is_on = self.repeat.misses < MISSES;
    }

    /// Reads the common beginning from the first chunk of a text, and returns what is left of the chunk.
    pub(super) fn skip_repeated<'b>(
        &mut self,
        bytes: &'b [u8],
        on: &mut dyn FnMut(usize, Value<'_>),
    ) -> &'b [u8] {
        if !self.repeat.is_on || bytes.is_empty() {
            return bytes;
        }
        if let Some(end) = &self.repeat.end
            && let Some(rest) = bytes.strip_prefix(&*self.repeat.beginning)
        {
            self.repeat.misses = 0;
            for (path, kept) in &self.repeat.reports {
                on(*path, kept.value());
            }
            self.state = State::BeforeValue;
            (self.followed, self.arrays) = (end.followed, end.arrays);
            (self.level, self.target) = (end.level, end.target);
            self.is_doubled = end.is_doubled;
            if let (Some(seen), Some(before)) = (&mut self.seen, &end.seen) {
                seen.clone_from(before);
            }
            return rest;
        }
        self.repeat.misses += 1;
        self.find_repeated(bytes, on)
    }

    /// Reads on as far as the text begins like the last one, step by step, and notes the last value on the way.
    fn find_repeated<'b>(&mut self, bytes: &'b [u8], on: &mut dyn FnMut(usize, Value<'_>)) -> &'b [u8] {
        let alike = bytes.iter().zip(&self.repeat.sample).take_while(|(a, b)| a == b).count();
        let (mut rest, mut reports, mut last) = (bytes, Vec::new(), None);
        self.one_by_one = true;
        while let Some(&first) = rest.first() {
            let at = bytes.len() - rest.len();
            if at > alike {
                break;
            }
            if self.state == State::BeforeValue && at >= SHORTEST {
                let &mut Self { followed, arrays, level, target, is_doubled, ref seen, .. } = self;
                let seen = seen.clone();
                last =
                    Some((at, reports.len(), Position { followed, arrays, level, target, seen, is_doubled }));
            }
            rest = self.step(first, rest, &mut |path, value| {
                reports.push((path, Kept::of(&value)));
                on(path, value);
            });
        }
        self.one_by_one = false;
        let Repeat { sample, beginning, end, .. } = &mut self.repeat;
        sample.clear();
        sample.extend_from_slice(&bytes[..bytes.len().min(SAMPLE)]);
        if let Some((at, reported, position)) = last {
            beginning.clear();
            beginning.extend_from_slice(&bytes[..at]);
            reports.truncate(reported);
            *end = Some(Box::new(position));
            self.repeat.reports = reports;
        }
        rest
    }
}
