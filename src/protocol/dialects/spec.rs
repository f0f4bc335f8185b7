//! What a dialect and a provider are: the tables that the rest of the crate reads instead of naming one.
//!
//! A dialect is the API that a request speaks; a provider is what a backend is configured to be
//! (`backends.NAME.type`). Each file of this folder has one static of each kind, or of one of them;
//! [`super::registry`] lists them. `docs/adding-a-provider.md` shows how to write one.

use std::fmt;
use std::hash::{Hash, Hasher};

use http::Method;

use super::answer_rules::AnswerRules;
use super::error_body::ErrorForm;
use super::model_list::{ModelListForm, ModelListRequest};
use super::openai;
use super::request_shape::RequestShape;
use crate::protocol::facts::model_request::ModelRequest;
use crate::protocol::wire::sse::COMMENT;

/// The API of one request: it decides how the request is detected, how usage is read and how an error is worded.
///
/// Two are equal when they are the same entry of the registry.
#[derive(Clone, Copy)]
pub struct Dialect(pub(super) &'static DialectSpec);

/// All that is known of a dialect.
pub(super) struct DialectSpec {
    /// A stable word for logs and labels.
    pub(super) name: &'static str,
    pub(super) content: Content,
    /// Where requests of this dialect are sent. A request belongs to the first dialect of the registry that has
    /// a rule which matches.
    pub(super) rules: &'static [DetectionRule],
    /// Where its WebSockets are opened.
    pub(super) socket_paths: &'static [PathRule],
    /// How POSTed paths end, and the word of OpenTelemetry for what is asked there (`gen_ai.operation.name`). A
    /// path that is not named here gets no span of a model call.
    pub(super) operations: &'static [(&'static str, &'static str)],
    /// Paths below which stored answers are read, cancelled or changed; a POST there makes no answer.
    pub(super) stored: &'static [PathRule],
    /// Reads what the path says of a request, where the path names the model.
    pub(super) read_path: Option<fn(&str, &mut ModelRequest)>,
    /// The member of a JSON body that names the model.
    pub(super) body_model: &'static str,
    /// Paths to the models of the requests in a JSON body that is a batch.
    pub(super) batch_models: &'static [&'static str],
    /// Whether each request in such a batch must name its model; elsewhere one may name an agent, whose model is not known.
    pub(super) batches_name_models: bool,
    /// Parameters of the query in which the handshake of a WebSocket names the model.
    pub(super) socket_model: &'static [&'static str],
    /// Where bodies are files that name no model and are not read, although the dialect reads others.
    pub(super) uploads: &'static [PathRule],
    /// Where its requests have their texts.
    pub(super) request_shape: &'static RequestShape,
    /// How its answers are read; `None` when they are not.
    pub(super) answers: Option<&'static AnswerRules>,
    pub(super) errors: ErrorForm,
    /// An event of its streams that says nothing; `None` where clients are kept waiting by comments.
    pub(super) ping: Option<&'static [u8]>,
    /// How a client of this dialect wants `GET /v1/models` answered.
    pub(super) model_list: ModelListForm,
    /// Its word in `gen_ai.provider.name` when the type of the backend names none.
    pub(super) gen_ai_provider: &'static str,
}

/// What the requests of a dialect are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Requests to a model: bodies name it, answers count tokens.
    Model,
    /// JSON-RPC 2.0.
    JsonRpc,
    /// Nothing that is read.
    Unread,
}

impl DialectSpec {
    /// An API of models in the shapes of OpenAI, which detects nothing. A dialect names what differs.
    pub(super) const MODEL: Self = Self {
        name: "",
        content: Content::Model,
        rules: &[],
        socket_paths: &[],
        operations: &[],
        stored: &[],
        read_path: None,
        body_model: "model",
        batch_models: &[],
        batches_name_models: false,
        socket_model: &["model"],
        uploads: &[],
        request_shape: &openai::REQUEST,
        answers: None,
        errors: ErrorForm::COMMON,
        ping: None,
        model_list: openai::MODEL_LIST,
        gen_ai_provider: openai::GEN_AI_PROVIDER,
    };
}

/// A path, and a header field that the request must have as well.
pub(super) type DetectionRule = (PathRule, Option<&'static str>);

/// What a path must be like. A route's prefix (`/openai/v1/chat/completions`) may precede it.
pub(super) enum PathRule {
    EndsWith(&'static str),
    Contains(&'static str),
    Matches(fn(&str) -> bool),
    Any,
}

impl PathRule {
    pub(super) fn matches(&self, path: &str) -> bool {
        match self {
            Self::EndsWith(end) => path.ends_with(end),
            Self::Contains(part) => path.contains(part),
            Self::Matches(test) => test(path),
            Self::Any => true,
        }
    }
}

impl Dialect {
    /// The dialect once the backend is known: what the path leaves open, the type of the backend decides.
    pub fn on(self, backend: BackendKind) -> Self {
        let own = backend.0.reads.iter().find(|(detected, _)| Self(detected) == self);
        own.map_or(self, |(_, own)| Self(own))
    }

    /// A stable word for logs and labels.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// True when bodies of this dialect name a model and answers count tokens.
    pub fn is_llm(self) -> bool {
        self.0.content == Content::Model
    }

    /// True when its requests are JSON-RPC.
    pub fn is_json_rpc(self) -> bool {
        self.0.content == Content::JsonRpc
    }

    /// What keeps the client of an event stream waiting between two events: an event of the dialect that says nothing, or a
    /// comment.
    pub fn keep_alive(self) -> &'static [u8] {
        self.0.ping.unwrap_or(COMMENT)
    }

    /// True when bodies of this dialect are read while they pass.
    pub fn is_read(self) -> bool {
        self.0.content != Content::Unread
    }

    /// True when a request makes the model write an answer. Others read, cancel or change one that was made before: its
    /// tokens were counted when it was made.
    pub fn makes_answer(self, method: &Method, path: &str) -> bool {
        // `/v1/messages/` names no answer.
        let path = path.trim_end_matches('/');
        self.is_llm() && method == Method::POST && !self.0.stored.iter().any(|rule| rule.matches(path))
    }

    /// How its answers are read; `None` when they are not.
    pub(in crate::protocol) fn answer_rules(self) -> Option<&'static AnswerRules> {
        self.0.answers
    }
}

impl PartialEq for Dialect {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for Dialect {}

impl fmt::Debug for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

/// What a configured backend is (`backends.NAME.type`).
///
/// Two are equal when they are the same entry of the registry.
#[derive(Clone, Copy)]
pub struct BackendKind(pub(super) &'static ProviderSpec);

/// All that is known of a provider, or of another kind of backend.
pub(super) struct ProviderSpec {
    /// The word of the configuration file.
    pub(super) name: &'static str,
    /// What the configuration's schema says of it.
    pub(super) summary: &'static str,
    /// Its word in `gen_ai.provider.name`; `None` when the dialect of the request decides.
    pub(super) gen_ai_provider: Option<&'static str>,
    /// The header field that carries its key, in lower case.
    pub(super) auth_header: &'static str,
    /// How its models are listed; `None` when it has no list.
    pub(super) model_list: Option<ModelListRequest>,
    /// Header fields of a client that belong to the request for the list of models, in lower case.
    pub(super) client_headers: &'static [&'static str],
    /// What a detected dialect is at this provider: paths are shared, or say nothing.
    pub(super) reads: &'static [(&'static DialectSpec, &'static DialectSpec)],
}

impl ProviderSpec {
    /// A server that takes its key as a bearer token and has no list of models. A provider names what differs.
    pub(super) const SERVER: Self = Self {
        name: "",
        summary: "",
        gen_ai_provider: None,
        auth_header: "authorization",
        model_list: None,
        client_headers: &[],
        reads: &[],
    };
}

impl BackendKind {
    /// The word of the configuration file.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// True for a server of models.
    pub fn is_llm(self) -> bool {
        self.0.gen_ai_provider.is_some()
    }

    /// The header field that carries the key of such a backend, in lower case.
    pub fn auth_header(self) -> &'static str {
        self.0.auth_header
    }

    /// How the models of such a backend are listed; `None` when it has no list.
    pub fn model_list(self) -> Option<&'static ModelListRequest> {
        self.0.model_list.as_ref()
    }

    /// `gen_ai.provider.name` of a request in this dialect: by the type of the backend, or by the dialect where
    /// the type says nothing.
    pub fn gen_ai_provider(self, dialect: Dialect) -> &'static str {
        self.0.gen_ai_provider.unwrap_or(dialect.0.gen_ai_provider)
    }
}

impl PartialEq for BackendKind {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for BackendKind {}

impl Hash for BackendKind {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}

impl fmt::Debug for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}
