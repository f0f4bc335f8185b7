//! Holds the models in batches against the rules for models: in a JSON body when it is routed, in a file that is uploaded
//! while it passes. Costs nothing where no models are refused.

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::dispatch;
use super::identify::Caller;
use super::permissions::check_models;
use super::receive::Received;
use crate::error::{ErrorKind, Refusal};
use crate::protocol::Dialect;
use crate::protocol::request::batch_file::BatchFault;
use crate::protocol::request::{BatchModels, BodyReader, ModelRequest};
use crate::protocol::wire::multipart::FormScan;
use crate::routing::Table;

/// Checks the models in a batch for the backend that was chosen. Whether they are blocked or served was checked when that was
/// chosen. `restricts`: some models are refused.
///
/// # Errors
/// They are too many to be checked, or one of them has another name at the backend.
pub(super) fn check(
    batch: &BatchModels,
    routes: &Table,
    backend: usize,
    restricts: bool,
) -> Result<(), Refusal> {
    if batch.has_more() && restricts {
        return Err(too_many());
    }
    match batch.names().find_map(|model| routes.served_as(backend, model)) {
        Some(name) => {
            let message = format!(
                "a model in the batch has another name at its backend (rewrite_model), which is not written into batches; \
                 name {name} yourself"
            );
            Err(Refusal::new(ErrorKind::BadRequest, message))
        }
        None => Ok(()),
    }
}

/// Returns the reader of a form that may upload the file of a batch; `None` for other requests, and if no models are refused.
/// `limits_models`: the caller's key permits some models only.
pub(super) fn file(received: &Received, headers: &HeaderMap, limits_models: bool) -> Option<BodyReader> {
    let settings = &received.handle.settings;
    if !(settings.routes.restricts_models() || limits_models) || received.dialect.is_llm() {
        return None;
    }
    let media = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let is_upload = FormScan::is_form(media) && Dialect::takes_batch_files(received.uri.path());
    is_upload.then(|| BodyReader::batch_file(media, received.coding, settings.limits.max_upload))
}

/// Checks what the file of a batch has shown so far; does nothing for other forms.
///
/// # Errors
/// It names a model that a request of its own could not name, or a line cannot be read.
pub(super) fn check_file(
    form: &mut BodyReader,
    received: &Received,
    caller: &Caller,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    let Some((call, fault)) = form.take_batch_news() else { return Ok(()) };
    let routes = &received.handle.settings.routes;
    let message = match fault {
        Some(BatchFault::Purpose) => {
            let message = "the form names two purposes; write the field purpose once";
            return Err(Refusal::new(ErrorKind::BadRequest, message));
        }
        Some(BatchFault::Line(line)) => format!(
            "line {line} of the batch's file cannot be read, so its model cannot be held against \
             routing.blocked_models, routing.strict_models and the key; write each line as one JSON object in UTF-8"
        ),
        None if call.batch.as_ref().is_some_and(|batch| batch.has_more()) => return Err(too_many()),
        None => {
            let target = received.uri.path_and_query().map_or("/", |target| target.as_str());
            let wanted = dispatch::wanted(headers, routes.header())?;
            dispatch::decide_by_model(routes, wanted, target, call, None)
                .map_err(|error| dispatch::undecided(&error, routes.header()))?;
            return caller.key.as_ref().map_or(Ok(()), |key| check_models(key, call.models()));
        }
    };
    let kind = match () {
        () if routes.blocks_models() => ErrorKind::PolicyBlocked,
        () if caller.limits_models() => ErrorKind::ModelDenied,
        () => ErrorKind::BodyUnreadable,
    };
    Err(Refusal::new(kind, message))
}

/// Refuses the file of a batch that does not pass here in one piece: uploaded in parts, which can be cut anywhere, or fetched by
/// the provider.
///
/// # Errors
/// The request brings such a file, and `restricts` says that some models are refused.
pub(super) fn check_elsewhere(
    received: &Received,
    call: &ModelRequest,
    restricts: bool,
) -> Result<(), Refusal> {
    let is_refused = call.is_for_batch && restricts && Dialect::takes_files_elsewhere(received.uri.path());
    if !is_refused {
        return Ok(());
    }
    let message = "the file of a batch that comes in parts or from elsewhere cannot be read, so its models cannot be held against \
                   routing.blocked_models, routing.strict_models and the key; upload it as one form (/v1/files)";
    Err(Refusal::new(ErrorKind::PolicyBlocked, message))
}

fn too_many() -> Refusal {
    let message = format!(
        "the batch names more than {} different models, so they cannot be held against routing.blocked_models, \
         routing.strict_models and the key; send several batches",
        BatchModels::MAX
    );
    Refusal::new(ErrorKind::BadRequest, message)
}
