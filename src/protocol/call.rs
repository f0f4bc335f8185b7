//! What a request's body says about the call: its model, whether it streams, who may be calling.

use std::sync::Arc;

use super::dialect::Dialect;
use super::gemini;
use super::json_rpc::{self, Rpc};
use super::json_scan::{PathSet, Scanner, Value};
use super::offer::{self, Offer};

const MODEL: usize = 0;
const STREAM: usize = 1;
const OWN_LEN: usize = 2 + offer::PATHS.len();
/// The paths that [`CallPaths::new`] puts before the caller's.
const OWN: [&str; OWN_LEN] = ["model", "stream", offer::PATHS[0], offer::PATHS[1], offer::PATHS[2]];

/// The paths that are looked up in each request body.
#[derive(Debug)]
pub struct CallPaths {
    set: Arc<PathSet>,
    /// The same and those of JSON-RPC, also in each member of a batch.
    with_rpc: Arc<PathSet>,
    hints: usize,
}

impl CallPaths {
    /// `model`, `stream`, and these paths of identity hints (dotted, at most
    /// [`PathSet::MAX_DEPTH`] keys).
    ///
    /// Keys match whatever their ASCII case: Ollama, written in Go, obeys `Model` too, and a model
    /// that it would obey must be the one that is routed and checked.
    pub fn new(extra: &[String]) -> Self {
        let paths = || OWN.into_iter().chain(extra.iter().map(String::as_str));
        let with_rpc = PathSet::ignoring_case(paths().chain(json_rpc::PATHS));
        Self {
            set: Arc::new(PathSet::ignoring_case(paths())),
            with_rpc: Arc::new(with_rpc.and_keys(&json_rpc::VERSION_KEYS).in_elements()),
            hints: extra.len(),
        }
    }
}

/// What a body said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// The model; of a doubled one the last, as most servers read it.
    pub model: Option<String>,
    /// Whether a streamed answer is asked for.
    pub stream: Option<bool>,
    /// The body names two different models, so servers may differ in which they obey.
    pub model_doubled: bool,
    /// The body is not a JSON value, as far as it was followed: cut short, another encoding, a form.
    pub malformed: bool,
    /// The tools it offers, and its length.
    pub offer: Offer,
    /// What a JSON-RPC request asks for.
    pub rpc: Option<Box<Rpc>>,
    /// `model` was there with a number, true, false or null.
    model_is_no_text: bool,
    hints: Vec<Option<Box<str>>>,
}

impl Call {
    /// The text at the caller's path number `index`; numbers as written.
    pub fn hint(&self, index: usize) -> Option<&str> {
        self.hints.get(index)?.as_deref()
    }

    /// Adds what the path says: Gemini's names the model.
    pub fn read_path(&mut self, dialect: Dialect, path: &str) {
        if dialect == Dialect::Gemini {
            gemini::read_path(path, self);
        }
    }

    fn take(&mut self, path: usize, value: Value<'_>) {
        match (path, value) {
            (MODEL, Value::Str(name)) => {
                self.model_doubled |= self.model_is_no_text;
                self.model_doubled |= self.model.as_ref().is_some_and(|known| *known != name);
                self.model = Some(name.into_owned());
            }
            (STREAM, Value::Bool(stream)) => self.stream = Some(stream),
            (MODEL, _) => {
                self.model_doubled |= self.model.is_some();
                self.model_is_no_text = true;
            }
            (STREAM, _) => {}
            (2..OWN_LEN, value) => self.offer.take(&value),
            (other, value) => match self.hints.get_mut(other - OWN_LEN) {
                Some(place) => {
                    *place = match value {
                        Value::Str(text) => Some(text.into()),
                        Value::Number(number) => Some(number.into()),
                        Value::Bool(_) | Value::Null | Value::Part(_) | Value::End => None,
                    };
                }
                None => {
                    let path = other - OWN_LEN - self.hints.len();
                    self.rpc.get_or_insert_default().take(path, &value);
                }
            },
        }
    }
}

/// Reads a request's body, chunk by chunk, once.
#[derive(Debug)]
pub struct CallScan {
    scanner: Scanner,
    call: Call,
}

impl CallScan {
    /// At the beginning of a body of a model call.
    pub fn new(paths: Arc<CallPaths>) -> Self {
        Self::speaking(Dialect::OpenAiChat, &paths)
    }

    /// At the beginning of a body of this dialect.
    pub fn speaking(dialect: Dialect, paths: &CallPaths) -> Self {
        let call = Call { hints: vec![None; paths.hints], ..Call::default() };
        let set = if dialect.may_be_json_rpc() { &paths.with_rpc } else { &paths.set };
        Self { scanner: Scanner::new(Arc::clone(set)), call }
    }

    /// The body's next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        let call = &mut self.call;
        call.offer.add_bytes(bytes.len());
        self.scanner.feed(bytes, &mut |path, value| call.take(path, value));
    }

    /// What was found, once the body has ended.
    pub fn finish(self) -> Call {
        Call { malformed: !self.scanner.is_done(), ..self.call }
    }
}

#[cfg(test)]
mod tests;
