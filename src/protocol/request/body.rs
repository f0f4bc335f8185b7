//! What a request's body says about the call: its model, whether it streams, who may be calling.

use std::sync::Arc;

use super::tools_offered::{self, BESIDE, is_in_tools};
use crate::protocol::dialects::json_rpc;
use crate::protocol::dialects::spec::Dialect;
use crate::protocol::facts::messages;
use crate::protocol::facts::model_request::ModelRequest;
use crate::protocol::json::scan::{PathSet, Scanner, Value, Want};

const MODEL: usize = 0;
/// The member that names the model, where a dialect has no other one.
const MODEL_KEY: &str = "model";
const STREAM: usize = 1;
const PURPOSE: usize = 2;
/// Tools come behind it.
const TOOLS: usize = 3;
const OWN_LEN: usize = TOOLS + tools_offered::PATHS.len();

/// Where a body names models that work beside the first one or in place of it: OpenRouter's fallbacks and plugins, and tools
/// that call a model of their own.
const OTHERS: [&str; 4] = ["models[]", "tools[].model", "tools[].parameters.model", "plugins[].model"];

/// The paths that [`RequestPaths::new`] puts before the caller's, where the member `model` names the model.
fn own(model: &'static str) -> [&'static str; OWN_LEN] {
    [model, "stream", "purpose", tools_offered::PATHS[0], tools_offered::PATHS[1], tools_offered::PATHS[2]]
}

/// The paths that are looked up in each request body.
#[derive(Debug)]
pub struct RequestPaths {
    set: Arc<PathSet>,
    /// The same for each dialect whose bodies name the model in another member, or those of batches behind the hints.
    by_dialect: Box<[(Dialect, Arc<PathSet>)]>,
    /// The same and those of JSON-RPC, also in each member of a batch.
    with_rpc: Arc<PathSet>,
    /// The hints' paths.
    hints: Arc<[String]>,
    /// How many paths of further models and tools stand behind the hints of a model call.
    others: usize,
    /// The same of the messages, behind those.
    messages: usize,
}

impl RequestPaths {
    /// `model`, `stream`, and these paths of identity hints (dotted, at most
    /// [`PathSet::MAX_DEPTH`] keys).
    ///
    /// Keys match whatever their ASCII case: Ollama, written in Go, obeys `Model` too, and a model
    /// that it would obey must be the one that is routed and checked.
    pub fn new(extra: &[String]) -> Self {
        Self::with_others(extra, false)
    }

    /// The same; with `others`, further models of a body are looked for, too.
    pub fn with_others(extra: &[String], others: bool) -> Self {
        Self::looking_for(extra, others, false)
    }

    /// The same; with `messages`, these are counted.
    pub fn looking_for(extra: &[String], others: bool, messages: bool) -> Self {
        let messages = if messages { messages::PATHS.as_slice() } else { &[] };
        let others: &[&str] = if others { &OTHERS } else { &[] };
        let shared = |model| own(model).into_iter().chain(extra.iter().map(String::as_str));
        let beside = if others.is_empty() { &[] } else { BESIDE.as_slice() };
        let paths = |model| {
            let scalars = shared(model).chain(others.iter().copied()).map(|path| (path, Want::Scalar));
            let beside = beside.iter().map(|(path, beside)| (*path, beside.want()));
            scalars.chain(beside).chain(messages.iter().copied())
        };
        let telling = |set: PathSet, model| set.and_end(model, MODEL);
        let with_rpc = PathSet::ignoring_case(shared(MODEL_KEY).chain(json_rpc::PATHS));
        let is_other =
            |dialect: &Dialect| dialect.body_model() != MODEL_KEY || !dialect.batch_models().is_empty();
        let special = Dialect::all().filter(is_other);
        let set = |dialect: Dialect| {
            let batch = dialect.batch_models().iter().copied();
            let batch = batch.map(|path| (path, Want::Scalar));
            let set = PathSet::ignoring_case_wanting(paths(dialect.body_model()).chain(batch));
            Arc::new(telling(set, dialect.body_model()))
        };
        Self {
            set: Arc::new(telling(PathSet::ignoring_case_wanting(paths(MODEL_KEY)), MODEL_KEY)),
            by_dialect: special.map(|dialect| (dialect, set(dialect))).collect(),
            with_rpc: Arc::new(with_rpc.and_keys(&json_rpc::VERSION_KEYS).in_elements()),
            hints: extra.into(),
            others: others.len() + beside.len(),
            messages: messages.len(),
        }
    }

    /// Whether tools are found wherever an API names them.
    pub fn finds_all_tools(&self) -> bool {
        self.others > 0
    }

    /// Whether messages are counted.
    pub fn counts_messages(&self) -> bool {
        self.messages > 0
    }

    /// The dotted paths of the identity hints.
    pub(super) fn hints(&self) -> &Arc<[String]> {
        &self.hints
    }
}

/// Reads a request's body, chunk by chunk, once.
#[derive(Debug)]
pub struct RequestScan {
    scanner: Scanner,
    found: Found,
}

/// What was read so far.
#[derive(Debug)]
struct Found {
    request: ModelRequest,
    /// `model` was there with a number, true, false or null.
    model_is_no_text: bool,
    /// `stream` was there.
    has_stream: bool,
    /// The paths behind the hints are those of JSON-RPC, not of further models and a batch.
    has_rpc: bool,
    /// How many paths of further models and tools there are.
    others: usize,
    /// How many of messages, behind those.
    messages: usize,
}

impl RequestScan {
    /// At the beginning of a body of a model call.
    pub fn new(paths: &RequestPaths) -> Self {
        Self::with(&paths.set, paths, false)
    }

    /// At the beginning of a body of this dialect.
    pub fn speaking(dialect: Dialect, paths: &RequestPaths) -> Self {
        let own = paths.by_dialect.iter().find(|(other, _)| *other == dialect).map(|(_, set)| set);
        match own {
            Some(own) => Self::with(own, paths, false),
            None if dialect.is_llm() => Self::new(paths),
            // Nothing is known of a plain path: its bodies may be JSON-RPC.
            None => Self::with(&paths.with_rpc, paths, true),
        }
    }

    fn with(set: &Arc<PathSet>, paths: &RequestPaths, has_rpc: bool) -> Self {
        let request = ModelRequest { hints: vec![None; paths.hints.len()].into(), ..ModelRequest::default() };
        Self {
            scanner: Scanner::new(Arc::clone(set)),
            found: Found {
                request,
                model_is_no_text: false,
                has_stream: false,
                has_rpc,
                others: paths.others,
                messages: paths.messages,
            },
        }
    }

    /// The body's next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        let found = &mut self.found;
        found.request.tools_offered.add_bytes(bytes.len());
        self.scanner.feed(bytes, &mut |path, value| found.take(path, value));
    }

    /// What was found, once the body has ended.
    pub fn finish(self) -> ModelRequest {
        let mut request = self.found.request;
        if let Some(rpc) = &mut request.rpc {
            rpc.is_unclear = self.scanner.is_irregular();
        }
        request.irregular = self.scanner.is_irregular();
        ModelRequest { malformed: !self.scanner.is_done() || self.scanner.has_more(), ..request }
    }
}

impl Found {
    fn take(&mut self, path: usize, value: Value<'_>) {
        match (path, value) {
            (MODEL, Value::Str(name)) => {
                self.request.model_doubled |= self.model_is_no_text;
                self.request.model_doubled |= self.request.model.as_ref().is_some_and(|known| *known != name);
                self.request.model = Some(name.into_owned());
            }
            (STREAM, value) => self.take_stream(&value),
            (MODEL, value) => {
                self.request.model_doubled |= self.request.model.is_some();
                self.model_is_no_text = true;
                self.request.model_is_odd |= value != Value::Null;
            }
            (PURPOSE, Value::Str(purpose)) => self.request.is_for_batch |= is_batch(&purpose),
            (PURPOSE, _) => {}
            (TOOLS..OWN_LEN, value) => {
                let is_element = is_in_tools(tools_offered::PATHS[path - TOOLS]);
                self.request.tools_offered.take(&value, is_element);
            }
            (other, value) => match self.request.hints.get_mut(other - OWN_LEN) {
                Some(place) => {
                    let was_there = place.is_some();
                    self.request
                        .odd_hints
                        .note(other - OWN_LEN, matches!(value, Value::Number(_) | Value::Null));
                    *place = match value {
                        Value::Str(text) => Some(text.into()),
                        Value::Number(number) => Some(number.into()),
                        Value::Bool(_) | Value::Null | Value::Part(_) | Value::Raw(_) | Value::End => None,
                    };
                    if was_there {
                        self.request.more_hints = self.request.more_hints.saturating_add(1);
                    }
                }
                None if !self.has_rpc => self.take_other(other - OWN_LEN - self.request.hints.len(), &value),
                None => {
                    let path = other - OWN_LEN - self.request.hints.len();
                    self.request.rpc.get_or_insert_default().take(path, &value);
                }
            },
        }
    }
}

impl Found {
    /// Takes a value of `stream`. Null is as good as none.
    fn take_stream(&mut self, value: &Value<'_>) {
        let stream = if let Value::Bool(stream) = value { Some(*stream) } else { None };
        let is_other = std::mem::replace(&mut self.has_stream, true) && stream != self.request.stream;
        self.request.stream_unclear |= is_other || stream.is_none() && *value != Value::Null;
        self.request.stream = stream;
    }

    /// Takes the value at a path behind the hints: of a further model, of a tool, or of a batch.
    fn take_other(&mut self, path: usize, value: &Value<'_>) {
        let beside = path.checked_sub(OTHERS.len()).and_then(|path| BESIDE.get(path));
        match (beside, value) {
            (Some(place), value) if path < self.others => self.request.tools_offered.take_at(*place, value),
            _ if (self.others..self.others + self.messages).contains(&path) => {
                self.request.messages.take(path - self.others, value);
            }
            (_, Value::Str(name)) => {
                let is_batch = path >= self.others;
                let models = if is_batch { &mut self.request.batch } else { &mut self.request.others };
                models.get_or_insert_default().add(name);
            }
            _ => {}
        }
    }
}

/// Whether the purpose of a file is to be the input of a batch.
pub(super) fn is_batch(purpose: &str) -> bool {
    purpose.trim().eq_ignore_ascii_case("batch")
}

#[cfg(test)]
mod tests;
