//! The file of a batch: JSON Lines, each of which is a request with its own model (`{"custom_id": …, "body": {"model": …}}`,
//! platform.openai.com/docs/api-reference/batch/request-input).

use std::sync::{Arc, LazyLock};

use crate::protocol::facts::model_request::BatchModels;
use crate::protocol::json::scan::{PathSet, Scanner, Value};
use crate::protocol::wire::ndjson::{LineReader, Piece};

/// Keys match in any ASCII case, as in [`super::body::RequestPaths`].
static PATHS: LazyLock<Arc<PathSet>> = LazyLock::new(|| Arc::new(PathSet::ignoring_case(["body.model"])));

/// What a form says that the file in it is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The field has not come.
    #[default]
    Unknown,
    Batch,
    Other,
}

/// Why a file cannot be held against the rules for models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchFault {
    /// The line of this number, without the blank ones, is not one JSON object.
    Line(u64),
    /// The form names its purpose twice.
    Purpose,
}

/// Reads the files of a form, chunk by chunk, once.
#[derive(Debug)]
pub(super) struct BatchFile {
    purpose: Purpose,
    lines: LineReader,
    scanner: Scanner,
    /// Lines that have ended.
    count: u64,
    fault: Option<BatchFault>,
    /// Something was found that was not reported.
    has_news: bool,
}

impl BatchFile {
    pub(super) fn new() -> Self {
        Self {
            purpose: Purpose::Unknown,
            lines: LineReader::default(),
            scanner: Scanner::new(Arc::clone(&PATHS)),
            count: 0,
            fault: None,
            has_news: false,
        }
    }

    /// Takes the value of the field that names the purpose.
    pub(super) fn is_for(&mut self, purpose: Purpose) {
        if self.purpose != Purpose::Unknown {
            self.fail(BatchFault::Purpose);
        }
        if self.purpose != Purpose::Batch {
            self.purpose = purpose;
        }
        self.has_news = true;
    }

    /// Reads the next bytes of a file, and adds the models in them.
    pub(super) fn feed(&mut self, bytes: &[u8], models: &mut Option<Box<BatchModels>>) {
        if self.purpose == Purpose::Other {
            return;
        }
        let mut lines = std::mem::take(&mut self.lines);
        lines.feed(bytes, |piece| self.take(piece, models));
        self.lines = lines;
    }

    /// Ends a file, whose last line needs no line feed.
    pub(super) fn end(&mut self, models: &mut Option<Box<BatchModels>>) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.end(|piece| self.take(piece, models));
        self.scanner.reset();
    }

    fn take(&mut self, piece: Piece<'_>, models: &mut Option<Box<BatchModels>>) {
        match piece {
            Piece::Data(part) => {
                let has_news = &mut self.has_news;
                self.scanner.feed(part, &mut |_, value| {
                    if let Value::Str(name) = value {
                        *has_news |= models.get_or_insert_default().add(&name);
                    }
                });
            }
            Piece::End => {
                self.count += 1;
                if !self.scanner.is_done() || self.scanner.has_more() {
                    self.fail(BatchFault::Line(self.count));
                }
                self.scanner.reset();
            }
        }
    }

    /// Notes that the file cannot be read.
    pub(super) fn fail(&mut self, fault: BatchFault) {
        let is_line = matches!(fault, BatchFault::Line(_));
        // The first bad line is named; anything else matters whatever the file is for.
        if self.fault.is_none() || !is_line {
            self.fault = Some(fault);
            self.has_news = true;
        }
    }

    /// Fails the line under way.
    pub(super) fn fail_line(&mut self) {
        self.fail(BatchFault::Line(self.count + 1));
    }

    /// Whether something was found since the last call that matters.
    pub(super) fn take_news(&mut self) -> bool {
        let matters = self.purpose != Purpose::Other || self.fault == Some(BatchFault::Purpose);
        matters && std::mem::take(&mut self.has_news)
    }

    /// Why the file cannot be read; `None` also for a bad line while it is not known to be for a batch.
    pub(super) fn fault(&self) -> Option<BatchFault> {
        let is_of_batch = self.purpose == Purpose::Batch;
        self.fault.filter(|fault| is_of_batch || !matches!(fault, BatchFault::Line(_)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Models and fault of a file that comes in chunks of this size.
    fn read(file: &str, size: usize) -> (Vec<String>, Option<BatchFault>) {
        let (mut reader, mut models) = (BatchFile::new(), None);
        reader.is_for(Purpose::Batch);
        file.as_bytes().chunks(size).for_each(|chunk| reader.feed(chunk, &mut models));
        reader.end(&mut models);
        let models: Option<Box<BatchModels>> = models;
        let names = models.iter().flat_map(|models| models.names().map(str::to_owned)).collect();
        (names, reader.fault())
    }

    #[test]
    fn each_line_names_a_model() {
        let file = "\u{feff}{\"custom_id\":\"1\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{\"model\":\"a\",\"messages\":[{\"model\":\"x\"}]}}\r\n\
                    \n{ \"Body\" : { \"max\":1, \"MODEL\" : \"b\\u002d1\" }, \"body\": {\"model\":\"c\"} } \n{\"body\":{\"model\":\"a\"}}\n{\"body\":{}}\n{\"body\":{\"model\":\"d\"}}";
        let expected = (["a", "b-1", "c", "d"].map(str::to_owned).to_vec(), None);
        for size in 1..=file.len() {
            assert_eq!(read(file, size), expected, "in chunks of {size}");
        }
    }

    #[test]
    fn a_line_that_another_program_may_read_in_another_way_is_a_fault() {
        let good = "{\"body\":{\"model\":\"a\"}}";
        for bad in [
            "{\"body\":{\"model\":\"a\"}",
            "{\"body\":{\"model\":\"a\"}} {\"body\":{\"model\":\"secret\"}}",
            "{\"body\":{\"model\":\"a\"}}\r{\"body\":{\"model\":\"secret\"}}",
            "{\n\"body\":{\"model\":\"a\"}}",
            "no JSON",
            "null",
            "{\0\"\0",
            "eyJib2R5Ijp7fX0=",
        ] {
            for size in [1, 7, 1000] {
                let file = format!("{good}\n{bad}\n{good}\n");
                assert_eq!(read(&file, size).1, Some(BatchFault::Line(2)), "{bad:?} in chunks of {size}");
            }
        }
    }

    #[test]
    fn more_models_than_are_kept_are_noticed() {
        let file = |count: usize| -> String {
            (0..count).map(|at| format!("{{\"body\":{{\"model\":\"m{at}\"}}}}\n")).collect()
        };
        let mut models = None;
        let mut reader = BatchFile::new();
        reader.feed(file(BatchModels::MAX).repeat(3).as_bytes(), &mut models);
        assert!(models.as_ref().is_some_and(|models| !models.has_more()));
        reader.feed(file(BatchModels::MAX + 1).as_bytes(), &mut models);
        assert!(models.is_some_and(|models| models.has_more() && models.names().count() == BatchModels::MAX));
    }

    #[test]
    fn what_was_found_is_news_once_and_when_it_matters() {
        let line = b"{\"body\":{\"model\":\"a\"}}\nx\n";
        let mut models = None;
        let mut reader = BatchFile::new();
        reader.feed(line, &mut models);
        assert!(reader.take_news() && reader.fault().is_none(), "without a purpose, only models matter");
        reader.is_for(Purpose::Batch);
        assert!(reader.take_news() && reader.fault() == Some(BatchFault::Line(2)));
        assert!(!reader.take_news());
        reader.is_for(Purpose::Other);
        assert!(reader.take_news() && reader.fault() == Some(BatchFault::Purpose));
        let mut other = BatchFile::new();
        other.is_for(Purpose::Other);
        other.feed(line, &mut models);
        assert!(!other.take_news(), "no other file is read");
    }

    proptest! {
        #[test]
        fn chunks_make_no_difference(
            parts in prop::collection::vec(
                prop::sample::select(&["{", "}", "\"body\"", ":", "\"model\"", "\"a\"", "\"b\"", ",", "\n", "\r", " ", "x"][..]),
                0..60,
            ),
            size in 1usize..20,
        ) {
            let file = parts.concat();
            prop_assert_eq!(read(&file, size), read(&file, 1 << 20));
        }
    }
}
