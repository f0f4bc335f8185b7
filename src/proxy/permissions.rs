//! Step 5, continued: what the caller's key permits.

use http::{HeaderMap, Method};

use super::identify::Caller;
use super::receive::Received;
use crate::capture::redact_text;
use crate::error::{ErrorKind, Refusal};
use crate::identity::ShownKey;
use crate::protocol::Dialect;
use crate::protocol::dialects::credentials;
use crate::protocol::dialects::spec::BackendKind;
use crate::protocol::request::ModelRequest;
use crate::upstream::backend::Backend;
use crate::upstream::credentials::Auth;

/// What a request asks for, as far as permissions depend on it.
pub(super) struct Asked<'a> {
    pub(super) received: &'a Received,
    pub(super) caller: &'a Caller,
    pub(super) headers: &'a HeaderMap,
    pub(super) call: &'a ModelRequest,
}

impl Asked<'_> {
    /// Checks that the caller may use this backend, with the model that it will read: `served_as`, if the model has
    /// another name there.
    ///
    /// # Errors
    /// The key does not permit it, or the backend needs a credential that the request does not have.
    pub(super) fn check(&self, backend: &Backend, served_as: Option<&str>) -> Result<(), Refusal> {
        let Some(key) = &self.caller.key else { return Ok(()) };
        let (settings, holder) = (backend.settings(), key.holder());
        if !holder.may_use_backend(settings.name().as_str()) {
            let message =
                format!("the key of {} does not permit the backend {}", holder.id(), settings.name());
            return Err(Refusal::new(ErrorKind::BackendDenied, message));
        }
        if holder.limits_models() {
            let first = served_as.or(self.call.model.as_deref());
            let in_batch = self.call.batch.iter().flat_map(|batch| batch.names());
            let models = first.into_iter().chain(self.call.also.as_deref()).chain(in_batch);
            check_models(key, models)?;
            self.check_others(key)?;
            let is_batch = self.call.batch.is_some() && self.received.dialect.batches_name_models();
            // What another API's member `model` means is not known.
            let names_none = (first.is_none() || !self.is_read()) && !is_batch;
            if names_none && settings.kind().is_llm() && self.may_run_a_model() {
                let message = format!(
                    "the key of {} permits some models only, and it cannot be told from the request which one works; send \
                     a request of an API that names it",
                    holder.id()
                );
                return Err(Refusal::new(ErrorKind::ModelDenied, message));
            }
        }
        if holder.limits_tools() {
            self.check_tools(key, settings.kind())?;
        }
        let query = self.received.uri.query();
        if *settings.auth() == Auth::Passthrough
            && key.text().is_some_and(|text| !credentials::is_present_beside(self.headers, query, text))
        {
            let message = format!(
                "the backend {} takes the caller's own credential, and the request has none beside the key of this \
                 gateway: send the provider's key where the provider wants it, and the key of this gateway in the header \
                 x-elida-key",
                settings.name()
            );
            return Err(Refusal::new(ErrorKind::NoUpstreamCredential, message));
        }
        Ok(())
    }

    /// Checks the tools that a request calls on an MCP server, or offers a model.
    ///
    /// # Errors
    /// The key does not permit one of them, or it cannot be told which ones they are.
    fn check_tools(&self, key: &ShownKey, kind: BackendKind) -> Result<(), Refusal> {
        let reads = [Method::GET, Method::HEAD, Method::OPTIONS, Method::DELETE];
        // Some servers read the body of any method.
        if !self.received.socket
            && reads.contains(&self.received.method)
            && !self.call.tools_offered.has_body()
        {
            return Ok(());
        }
        let is_plain = self.call.unread.is_none() && !self.call.malformed && !self.received.socket;
        if kind == BackendKind::MCP || self.received.dialect == Dialect::MCP {
            match &self.call.rpc {
                _ if !is_plain => return Err(tools_unknown(key)),
                // Nothing of JSON-RPC was read: a path of another API, another media type.
                None => return Err(tools_unknown(key)),
                Some(rpc) if rpc.is_unclear => return Err(tools_unknown(key)),
                Some(rpc) if rpc.calls_tool && (rpc.has_more || rpc.name.is_none()) => {
                    return Err(tools_unknown(key));
                }
                Some(rpc) if rpc.calls_tool => check_tools(key, rpc.names())?,
                Some(_) => {}
            }
        }
        if !kind.is_llm() {
            return Ok(());
        }
        let is_batch = self.call.batch.is_some() || self.call.is_for_batch;
        match self.call.tools_offered.all_names() {
            Some(names) if is_plain && self.is_read() && !is_batch => check_tools(key, names),
            Some(_) | None => Err(tools_unknown(key)),
        }
    }

    /// Checks the models that work beside the first one or in place of it.
    ///
    /// # Errors
    /// The key does not permit one of them, or there are more than are kept.
    fn check_others(&self, key: &ShownKey) -> Result<(), Refusal> {
        let Some(others) = &self.call.others else { return Ok(()) };
        check_models(key, others.names())?;
        match others.has_more() {
            true => Err(model_denied(key, "behind the first 64 in the request")),
            false => Ok(()),
        }
    }

    /// Returns whether the member `model` of the request is known to name the model that works: not in an API that is not
    /// read, and not where Ollama makes a model of another one.
    fn is_read(&self) -> bool {
        let path = self.received.uri.path().trim_end_matches('/');
        let makes_model = ["/api/create", "/api/copy"].iter().any(|call| path.ends_with(call));
        self.received.dialect.is_llm() && !makes_model
    }

    /// Returns whether the request carries a credential that is meant for its backend.
    pub(super) fn has_credential(&self) -> bool {
        let query = self.received.uri.query();
        match self.caller.key.as_ref().and_then(ShownKey::text) {
            Some(text) => credentials::is_present_beside(self.headers, query, text),
            None => credentials::is_present(self.headers, query),
        }
    }

    /// Returns whether a request that names no model may still make one work: jobs over files name their models inside.
    /// The messages of a WebSocket are checked one by one where its path tells what they are.
    fn may_run_a_model(&self) -> bool {
        if self.received.socket {
            return self.received.is_unread_socket();
        }
        !matches!(self.received.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::DELETE)
    }
}

/// Checks that the key permits these tools.
///
/// # Errors
/// It does not permit one of them.
fn check_tools<'t>(key: &ShownKey, tools: impl IntoIterator<Item = &'t str>) -> Result<(), Refusal> {
    match tools.into_iter().find(|tool| !key.holder().may_use_tool(tool)) {
        Some(denied) => {
            let id = key.holder().id();
            let message = format!("the key of {id} does not permit the tool {}", redact_text(denied));
            Err(Refusal::new(ErrorKind::ToolDenied, message))
        }
        None => Ok(()),
    }
}

/// Returns the refusal of a request whose tools are not known.
fn tools_unknown(key: &ShownKey) -> Refusal {
    let message = format!(
        "the key of {} permits some tools only, and it cannot be told from the request which ones it uses; send plain JSON of \
         an API that names them, no batch, no WebSocket, and at most 128 tools",
        key.holder().id()
    );
    Refusal::new(ErrorKind::ToolDenied, message)
}

/// Checks that the key permits these models.
///
/// # Errors
/// It does not permit one of them.
pub(super) fn check_models<'m>(
    key: &ShownKey,
    models: impl IntoIterator<Item = &'m str>,
) -> Result<(), Refusal> {
    match models.into_iter().find(|model| !key.holder().may_use_model(model)) {
        Some(denied) => Err(model_denied(key, denied)),
        None => Ok(()),
    }
}

/// Returns the refusal of a model.
pub(super) fn model_denied(key: &ShownKey, model: &str) -> Refusal {
    let message =
        format!("the key of {} does not permit the model {}", key.holder().id(), redact_text(model));
    Refusal::new(ErrorKind::ModelDenied, message)
}
