//! Step 3: reads what path and body say of the call. The whole body of a model call is held, because SDKs write `model`
//! last, and forwarded byte for byte. A form is held until its model is known, and read on while the rest is uploaded.
//! Other bodies are streamed.

use http::HeaderMap;
use http::header::{CONTENT_TYPE, EXPECT};
use pingora_core::{Error, Result};
use pingora_proxy::Session;

use super::error_response::{REFUSED, Reject};
use super::receive::Received;
use super::request_ctx::{Outcome, Routed};
use super::{batch, dispatch};
use crate::capture::redact_text;
use crate::error::{ErrorKind, Refusal};
use crate::protocol::BackendKind;
use crate::protocol::request::{BodyReader, ModelRequest};
use crate::protocol::wire::multipart::FormScan;

/// What was read of a request before it is routed.
#[derive(Default)]
pub(crate) struct ReadRequest {
    pub(crate) call: ModelRequest,
    /// Reads the rest of a form while it is uploaded; `None` when nothing is left to be read.
    pub(crate) form: Option<Box<BodyReader>>,
}

/// How a body is read.
struct Plan {
    reader: BodyReader,
    /// Maximum bytes of the body.
    limit: usize,
    /// Bytes of a form that are held to find its model.
    held: usize,
    /// What depends on the model of a form; `None` when it may be found later.
    needed: Option<&'static str>,
}

/// Reads the model request from path and body, and holds as much of the body as that takes. `limits_models`: the caller's
/// key permits some models only.
///
/// # Errors
/// The body is too large, the client stalled or left, or the leg was cut meanwhile.
pub(crate) async fn read(
    session: &mut Session,
    received: &Received,
    limits_models: bool,
) -> Result<ReadRequest, Reject> {
    let headers = &session.req_header().headers;
    if let Some(form) = batch::file(received, headers, limits_models) {
        return Ok(ReadRequest { form: Some(Box::new(form)), ..ReadRequest::default() });
    }
    let plan = Plan::of(received, headers, limits_models)?;
    let has_body = !session.as_mut().is_body_empty();
    let mut read = match plan {
        Some(plan) => read_body(session, received, plan).await?,
        None => ReadRequest::default(),
    };
    read.call.tools_offered.note_body(has_body);
    received.dialect.read_path(received.uri.path(), &mut read.call);
    Ok(read)
}

async fn read_body(session: &mut Session, received: &Received, plan: Plan) -> Result<ReadRequest, Reject> {
    let Plan { mut reader, limit, held, needed } = plan;
    check_declared(received, limit)?;
    if session.as_mut().is_body_empty() {
        return Ok(ReadRequest::default());
    }
    if received.awaits_continue {
        // The client waits for 100 Continue (RFC 9110, 10.1.1), and only the proxy can send it here.
        session.write_continue_response().await?;
        session.req_header_mut().remove_header(&EXPECT);
    }
    let upload = &received.handle.upload;
    upload.buffer_for_replay();
    while let Some(chunk) = session.as_mut().read_request_body().await.map_err(Error::into_down)? {
        if upload.bytes() > limit as u64 {
            return Err(too_large(limit).into());
        }
        reader.feed(&chunk);
        let Some(form) = reader.form_so_far() else { continue };
        let is_enough = form.model.is_some() || (needed.is_none() && reader.has_file());
        let is_full = upload.bytes() > held as u64;
        if session.as_mut().is_body_done() || !(is_enough || is_full) {
            continue;
        }
        if let Some(reason) = needed.filter(|_| !is_enough) {
            return Err(late_model(held, reason).into());
        }
        upload.stop_buffering();
        // Makes what is held one chunk.
        session.as_mut().enable_retry_buffering();
        return Ok(ReadRequest { call: reader.so_far(), form: Some(Box::new(reader)) });
    }
    Ok(ReadRequest { call: reader.finish(), form: None })
}

impl Plan {
    /// Returns how the body is read before routing; `None` for one that is streamed. Model calls are read, and any JSON,
    /// since it may name a model. `curl -d` labels JSON as a form of pairs, so a known path is enough.
    fn of(received: &Received, headers: &HeaderMap, limits_models: bool) -> Result<Option<Self>, Refusal> {
        let settings = &received.handle.settings;
        let (limits, dialect) = (&settings.limits, received.dialect);
        let media = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let coding = received.coding;
        if dialect.is_llm() && FormScan::is_form(media) {
            let wanted = dispatch::wanted(headers, settings.routes.header())?;
            let blocks =
                settings.routes.blocks_models().then_some("some models are blocked (routing.blocked_models)");
            let permits = || limits_models.then_some("the key permits some models only (auth.principals)");
            let path = received.uri.path();
            let mut by_path = ModelRequest::default();
            dialect.read_path(path, &mut by_path);
            let routes =
                || settings.routes.depends_on_model(wanted, path).filter(|_| by_path.model.is_none());
            return Ok(Some(Self {
                reader: BodyReader::form(media, coding, limits.max_upload, &settings.call_paths),
                limit: limits.max_upload,
                held: limits.max_body_llm,
                needed: blocks.or_else(routes).or_else(permits),
            }));
        }
        let is_read = dialect.is_read() && !dialect.is_upload(received.uri.path());
        if !is_read && !media.to_ascii_lowercase().contains("json") {
            return Ok(None);
        }
        let limit = held_limit(received);
        let reader = BodyReader::new(dialect, coding, limit, &settings.call_paths);
        Ok(Some(Self { reader, limit, held: limit, needed: None }))
    }
}

/// Reads the next bytes of a form that is being uploaded. `headers` are the request's.
///
/// # Errors
/// The form names a second model or, in the file of a batch, one that is refused, or cannot be read any more while models are
/// blocked.
pub(crate) fn read_on(
    routed: &mut Routed,
    outcome: &mut Outcome,
    headers: &HeaderMap,
    chunk: &[u8],
) -> Result<()> {
    let Routed { who, leg, route, .. } = routed;
    let Some(form) = &mut who.form else { return Ok(()) };
    form.feed(chunk);
    let in_batch = batch::check_file(form, &who.received, &who.caller, headers);
    let found = form.form_so_far();
    let refusal = if let Err(refusal) = in_batch {
        refusal
    } else if found.is_some_and(|found| found.model_doubled) {
        let message = "the form names two models; write the field model once";
        Refusal::new(ErrorKind::BadRequest, message)
    } else if form.is_lost()
        && (who.received.handle.settings.routes.restricts_models() || who.caller.limits_models())
    {
        let message = "the form cannot be read to its end, so its model cannot be held against \
                       routing.blocked_models, routing.strict_models and the key; send it uncompressed, as RFC 7578 has it";
        Refusal::new(ErrorKind::PolicyBlocked, message)
    } else {
        if let Some(model) =
            found.and_then(|found| found.model.as_deref()).filter(|_| who.call.model.is_none())
        {
            leg.routed(route.backend.settings().name(), Some(&redact_text(model)));
            who.call.model = Some(model.to_owned());
        }
        return Ok(());
    };
    outcome.refusal = Some(Box::new(refusal));
    Error::e_explain(REFUSED, "what the form asks for is refused")
}

/// Returns the maximum size in bytes of a body that is held.
pub(crate) fn held_limit(received: &Received) -> usize {
    let limits = &received.handle.settings.limits;
    if received.dialect.is_read() { limits.max_body_llm } else { limits.max_body }
}

/// Returns the maximum size in bytes of a body that is streamed to a backend of this kind.
pub(crate) fn streamed_limit(received: &Received, backend: BackendKind) -> usize {
    let limits = &received.handle.settings.limits;
    if received.dialect.is_llm() || backend.is_llm() { limits.max_upload } else { limits.max_body }
}

/// Checks the length that the head declares.
///
/// # Errors
/// It is larger than `limit` bytes.
pub(crate) fn check_declared(received: &Received, limit: usize) -> Result<(), Refusal> {
    if received.declared.is_some_and(|length| length > limit as u64) { Err(too_large(limit)) } else { Ok(()) }
}

/// Returns the refusal of a body larger than `limit` bytes.
pub(crate) fn too_large(limit: usize) -> Refusal {
    let message = format!(
        "the request body is larger than {limit} bytes (server.limits.max_body_llm for model calls, MCP and A2A, \
         max_upload for forms and files to model backends, max_body for others)"
    );
    Refusal::new(ErrorKind::BodyTooLarge, message)
}

/// Returns the refusal of a form whose model comes too late.
fn late_model(held: usize, reason: &str) -> Refusal {
    let message = format!(
        "the form names no model in its first {held} bytes (server.limits.max_body_llm), but {reason}; \
         write the field model before the file"
    );
    Refusal::new(ErrorKind::BadRequest, message)
}
