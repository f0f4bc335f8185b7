//! Step 5, continued: what the caller's key permits.

use http::{HeaderMap, Method};

use super::identify::Caller;
use super::receive::Received;
use crate::capture::redact_text;
use crate::error::{ErrorKind, Refusal};
use crate::identity::ShownKey;
use crate::protocol::dialects::credentials;
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
            let is_batch = self.call.batch.is_some() && self.received.dialect.batches_name_models();
            let names_none = first.is_none() && !is_batch;
            if names_none && settings.kind().is_llm() && self.may_run_a_model() {
                let message = format!(
                    "the key of {} permits some models only, and the request names none; name one",
                    holder.id()
                );
                return Err(Refusal::new(ErrorKind::ModelDenied, message));
            }
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
