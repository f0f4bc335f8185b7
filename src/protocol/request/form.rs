//! What a form (`multipart/form-data`) says about the call: uploads of audio and images name their model in a field, files
//! of batches in each line.

use std::sync::Arc;

use super::batch_file::{BatchFault, BatchFile, Purpose};
use super::body::is_batch;
use crate::protocol::facts::model_request::{ModelPlace, ModelRequest};
use crate::protocol::wire::multipart::{FormEvent, FormScan};

/// Bytes of a value that is kept; a longer one makes the form unreadable.
const VALUE_MAX: usize = 4096;

/// What the field under way means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Model,
    Stream,
    /// The identity hint of this number.
    Hint(usize),
    /// What an uploaded file is for.
    Purpose,
    /// The file of a batch, perhaps.
    File,
    Other,
}

/// Reads a form, chunk by chunk, once.
#[derive(Debug)]
pub(super) struct FormReader {
    /// `None` when the head names no boundary.
    scan: Option<FormScan>,
    found: Found,
}

#[derive(Debug)]
struct Found {
    request: ModelRequest,
    /// The dotted paths of the identity hints; fields are named so, or `first[second]`.
    hints: Arc<[String]>,
    field: Field,
    value: Vec<u8>,
    begun: usize,
    /// The content of a file has begun.
    has_file: bool,
    too_long: bool,
    /// Of a form that may upload the file of a batch; nothing else is read of it.
    batch: Option<Box<BatchFile>>,
}

impl FormReader {
    /// At the beginning of a body with this `Content-Type`.
    pub(super) fn new(media: &str, hints: &Arc<[String]>) -> Self {
        let request = ModelRequest { hints: vec![None; hints.len()].into(), ..ModelRequest::default() };
        Self {
            scan: FormScan::new(media),
            found: Found {
                request,
                hints: Arc::clone(hints),
                field: Field::Other,
                value: Vec::new(),
                begun: 0,
                has_file: false,
                too_long: false,
                batch: None,
            },
        }
    }

    /// The same for a form that may upload the file of a batch.
    pub(super) fn of_batch(media: &str) -> Self {
        let mut reader = Self::new(media, &Arc::from([]));
        reader.found.batch = Some(Box::new(BatchFile::new()));
        reader
    }

    /// What the file of a batch has shown since the last call, if it matters: the models in it, and why it cannot be read.
    pub(super) fn take_batch_news(&mut self) -> Option<(&ModelRequest, Option<BatchFault>)> {
        let batch = self.found.batch.as_mut()?;
        batch.take_news().then(|| (&self.found.request, batch.fault()))
    }

    /// The next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if let Some(scan) = &mut self.scan {
            scan.feed(bytes, &mut |event| self.found.take(event));
        }
    }

    /// What was found so far.
    pub(super) fn so_far(&self) -> &ModelRequest {
        &self.found.request
    }

    /// Whether the content of a file has begun: clients write the fields before it or behind it.
    pub(super) fn has_file(&self) -> bool {
        self.found.has_file
    }

    /// Whether the form has ended.
    pub(super) fn is_whole(&self) -> bool {
        self.scan.as_ref().is_some_and(FormScan::is_done) && !self.found.too_long
    }

    /// Whether it is no form, or one that can be read in two ways.
    pub(super) fn is_broken(&self) -> bool {
        self.scan.as_ref().is_none_or(FormScan::is_broken) || self.found.too_long
    }
}

impl Found {
    fn take(&mut self, event: FormEvent<'_>) {
        match event {
            FormEvent::Begin { name, is_file, is_text, at } => {
                self.field = self.meaning(name, is_file);
                if let Some(batch) = self.batch.as_mut().filter(|_| !is_text && self.field == Field::File) {
                    batch.fail_line();
                }
                self.request.model_doubled |= self.field == Field::Model && self.request.model.is_some();
                self.has_file |= is_file && self.field == Field::Other;
                self.begun = at;
                self.value.clear();
            }
            FormEvent::Value(_) if self.field == Field::Other => {}
            FormEvent::Value(more) if self.field == Field::File => {
                if let Some(batch) = &mut self.batch {
                    batch.feed(more, &mut self.request.batch);
                }
            }
            FormEvent::Value(more) if self.value.len() + more.len() <= VALUE_MAX => {
                self.value.extend_from_slice(more);
            }
            FormEvent::Value(_) => self.too_long = true,
            FormEvent::End { at } => self.end(at),
        }
    }

    /// The meaning of a field with this name. `model` matches in any ASCII case, as in JSON.
    fn meaning(&self, name: &str, is_file: bool) -> Field {
        if self.batch.is_some() {
            return match name {
                _ if name.eq_ignore_ascii_case("purpose") => Field::Purpose,
                _ if is_file || name.eq_ignore_ascii_case("file") => Field::File,
                _ => Field::Other,
            };
        }
        if name.eq_ignore_ascii_case("model") {
            return Field::Model;
        }
        if name.eq_ignore_ascii_case("stream") {
            return Field::Stream;
        }
        let path = name.replace('[', ".").replace(']', "");
        let hint = self.hints.iter().position(|hint| hint.eq_ignore_ascii_case(&path));
        hint.map_or(Field::Other, Field::Hint)
    }

    fn end(&mut self, at: usize) {
        let value = String::from_utf8_lossy(&self.value);
        match self.field {
            Field::Model => {
                self.request.model = Some(value.into_owned());
                self.request.model_place = match (u32::try_from(self.begun), u32::try_from(at)) {
                    (Ok(from), Ok(to)) => ModelPlace::Form { from, to },
                    _ => ModelPlace::Fixed,
                };
            }
            Field::Stream => {
                let stream = match value.trim() {
                    value if value.eq_ignore_ascii_case("true") => Some(true),
                    value if value.eq_ignore_ascii_case("false") => Some(false),
                    _ => None,
                };
                self.request.stream_unclear |=
                    stream.is_none() || self.request.stream.is_some_and(|known| Some(known) != stream);
                self.request.stream = stream.or(self.request.stream);
            }
            Field::Hint(index) => {
                self.request.odd_hints.note(index, value.trim().parse::<f64>().is_ok());
                if let Some(place) = self.request.hints.get_mut(index) {
                    *place = Some(value.into());
                }
            }
            Field::Purpose => {
                let purpose = if is_batch(&value) { Purpose::Batch } else { Purpose::Other };
                if let Some(batch) = &mut self.batch {
                    batch.is_for(purpose);
                }
            }
            Field::File => {
                if let Some(batch) = &mut self.batch {
                    batch.end(&mut self.request.batch);
                }
            }
            Field::Other => {}
        }
        self.field = Field::Other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_model_is_noted_as_soon_as_its_field_begins() {
        let mut reader = FormReader::new("multipart/form-data; boundary=b", &Arc::from([]));
        let field = "--b\r\nContent-Disposition: form-data; name=model\r\n\r\n";
        reader.feed(format!("{field}a\r\n").as_bytes());
        assert!(!reader.so_far().model_doubled);
        reader.feed(field.as_bytes());
        assert!(reader.so_far().model_doubled && reader.so_far().model.as_deref() == Some("a"));
    }
}
