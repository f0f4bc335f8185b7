//! The OpenAPI 3.1 document of the control API, generated from the route table and the types in `api`.
//!
//! `docs/openapi.json` is this document; `GET /openapi.json` serves it and `elida schema --of openapi` prints it.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::api::error::ErrorCode;
use super::api::events::SchemaOf;
use super::operator::{Gate, Need};
use super::routes;
use super::service::ControlState;
use crate::identity::roles::{Right, Role};

mod schemas;

use schemas::{SCHEMAS, Schemas};

/// What every request may be answered with, whatever its endpoint.
const GUARD_ERRORS: &[ErrorCode] = &[ErrorCode::HostNotAllowed, ErrorCode::OriginNotAllowed];

/// The description of one endpoint.
#[derive(Debug)]
pub(super) struct Operation {
    id: &'static str,
    summary: &'static str,
    tag: &'static str,
    need: Need,
    /// The answer has more members with a credential, and none is required.
    is_open: bool,
    /// Other paths of the same endpoint.
    aliases: &'static [&'static str],
    is_by_tenant: bool,
    is_audited: bool,
    /// What `{id}` in the path is; `{name}` is the name of a budget.
    names: &'static str,
    query: Option<SchemaOf>,
    body: Option<SchemaOf>,
    responses: Vec<Answer>,
    errors: &'static [ErrorCode],
}

/// A response that is not an error.
#[derive(Debug)]
struct Answer {
    status: u16,
    description: &'static str,
    media: &'static [&'static str],
    /// `None`: text.
    schema: Option<SchemaOf>,
}

impl Operation {
    /// Describes an endpoint whose caller needs this right; `summary` is one sentence.
    pub(super) fn new(tag: &'static str, id: &'static str, summary: &'static str, right: Right) -> Self {
        Self { need: Need::Right(right), ..Self::probe(tag, id, summary) }
    }

    /// Describes an endpoint that needs no credential.
    pub(super) fn probe(tag: &'static str, id: &'static str, summary: &'static str) -> Self {
        Self {
            id,
            summary,
            tag,
            need: Need::Nothing,
            is_open: false,
            aliases: &[],
            is_by_tenant: false,
            is_audited: false,
            names: "The id or the uid of a session.",
            query: None,
            body: None,
            responses: Vec::new(),
            errors: &[],
        }
    }

    /// Says what `{id}` in the path is, if not a session.
    pub(super) fn names(mut self, what: &'static str) -> Self {
        self.names = what;
        self
    }

    /// `{id}` in the path is the id of an override.
    pub(super) fn names_override(mut self) -> Self {
        self.names = "The id of an override.";
        self
    }

    /// The endpoint needs another right than its group.
    pub(super) fn needs(mut self, right: Right) -> Self {
        self.need = Need::Right(right);
        self
    }

    /// The endpoint needs a credential, but no role.
    pub(super) fn for_everyone(mut self) -> Self {
        self.need = Need::Credential;
        self
    }

    /// The endpoint has other paths, too.
    pub(super) fn also(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    /// Returns the other paths of the endpoint.
    pub(super) fn aliases(&self) -> &'static [&'static str] {
        self.aliases
    }

    /// Returns whether the endpoint can be called without a credential.
    pub(super) fn is_open(&self) -> bool {
        self.need == Need::Nothing
    }

    /// The endpoint needs no credential, but answers less without one.
    pub(super) fn token_optional(mut self) -> Self {
        (self.need, self.is_open) = (Need::Nothing, true);
        self
    }

    /// The endpoint covers the objects of one tenant, where the caller's role is for one.
    pub(super) fn by_tenant(mut self) -> Self {
        self.is_by_tenant = true;
        self
    }

    /// A line of the audit log is written for it although it changes nothing.
    pub(super) fn audited(mut self) -> Self {
        self.is_audited = true;
        self
    }

    /// Returns the gate before the endpoint.
    pub(super) fn gate(&self, state: &Arc<ControlState>) -> Gate {
        let Self { id: action, need, is_by_tenant, is_audited, .. } = *self;
        Gate { state: Arc::clone(state), action, need, is_by_tenant, is_audited }
    }

    /// The parameters of the query.
    pub(super) fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(T::json_schema);
        self
    }

    /// The JSON body, which may be absent.
    pub(super) fn body<T: JsonSchema>(mut self) -> Self {
        self.body = Some(SchemaGenerator::subschema_for::<T>);
        self
    }

    /// A JSON answer with status 200.
    pub(super) fn ok<T: JsonSchema>(self, description: &'static str) -> Self {
        self.answer::<T>(200, description)
    }

    /// A JSON answer with this status.
    pub(super) fn answer<T: JsonSchema>(mut self, status: u16, description: &'static str) -> Self {
        let schema: Option<SchemaOf> = Some(SchemaGenerator::subschema_for::<T>);
        self.responses.push(Answer { status, description, media: &["application/json"], schema });
        self
    }

    /// A text of one of these media types, with status 200.
    pub(super) fn text(mut self, media: &'static [&'static str], description: &'static str) -> Self {
        self.responses.push(Answer { status: 200, description, media, schema: None });
        self
    }

    /// The codes of its errors, beside those of every request.
    pub(super) fn errors(mut self, errors: &'static [ErrorCode]) -> Self {
        self.errors = errors;
        self
    }

    fn describe(&self, path: &str, schemas: &mut Schemas) -> Value {
        let named = [("name", "The name of a budget."), ("id", self.names)];
        let named = named.iter().filter(|(name, _)| path.contains(&format!("{{{name}}}")));
        let mut parameters: Vec<Value> = named
            .map(|(name, description)| {
                json!({"name": name, "in": "path", "required": true, "description": description,
                       "schema": {"type": "string"}})
            })
            .collect();
        parameters.extend(self.query.map(|query| schemas.parameters(query)).unwrap_or_default());
        let mut described = json!({
            "operationId": self.id,
            "summary": self.summary,
            "tags": [self.tag],
            "responses": self.responses(schemas),
        });
        if !parameters.is_empty() {
            described["parameters"] = parameters.into();
        }
        if let Some(body) = self.body {
            let schema = body(&mut schemas.requests);
            let content = json!({"application/json": {"schema": schema}});
            described["requestBody"] = json!({"required": false, "content": content});
        }
        described["security"] = match self.need {
            // The roles that may call it (OpenAPI 3.1, "Security Requirement Object").
            Need::Right(right) => json!([{"token": right.roles().map(Role::name).collect::<Vec<_>>()}]),
            Need::Credential => json!([{"token": []}]),
            Need::Nothing if self.is_open => json!([{}, {"token": []}]),
            Need::Nothing => json!([]),
        };
        if !self.aliases.is_empty() {
            described["x-aliases"] = json!(self.aliases);
        }
        if matches!(self.need, Need::Right(_)) {
            described["x-by-tenant"] = self.is_by_tenant.into();
        }
        if self.id == "readEvents" {
            described["x-events"] = schemas.events();
        }
        described
    }

    fn responses(&self, schemas: &mut Schemas) -> Value {
        let mut responses = Map::new();
        for Answer { status, description, media, schema } in &self.responses {
            let schema = schema.map_or_else(
                || json!({"type": "string"}),
                |schema| schema(&mut schemas.responses).to_value(),
            );
            let content: Map<String, Value> =
                media.iter().map(|media| ((*media).to_owned(), json!({"schema": schema}))).collect();
            let response = json!({"description": description, "content": content});
            responses.insert(status.to_string(), response);
        }
        let token: &[ErrorCode] = match self.need {
            Need::Right(_) => &[ErrorCode::Unauthorized, ErrorCode::RoleRequired],
            Need::Credential => &[ErrorCode::Unauthorized],
            Need::Nothing => &[],
        };
        // The middleware reads every body before a route sees it.
        let body: &[ErrorCode] = match self.body {
            Some(_) => &[ErrorCode::BadRequest, ErrorCode::RequestTimeout, ErrorCode::BodyTooLarge],
            None => &[],
        };
        let mut by_status: BTreeMap<u16, Vec<ErrorCode>> = BTreeMap::new();
        for code in GUARD_ERRORS.iter().chain(token).chain(body).chain(self.errors) {
            let codes = by_status.entry(code.status()).or_default();
            if !codes.contains(code) {
                codes.push(*code);
            }
        }
        for (status, codes) in by_status {
            responses.insert(status.to_string(), error(&codes));
        }
        let other = json!({"application/problem+json": {"schema": schemas.problem()}});
        responses.insert("default".into(), json!({"description": "Another error.", "content": other}));
        responses.into()
    }
}

/// The response of one error status: its codes and its body.
fn error(codes: &[ErrorCode]) -> Value {
    let names: Vec<&str> = codes.iter().map(|code| code.name()).collect();
    let types: Vec<String> = names.iter().map(|name| format!("urn:elida:{name}")).collect();
    let schema = json!({
        "allOf": [{"$ref": format!("#{SCHEMAS}/Problem")}],
        "properties": {"code": {"enum": names}, "type": {"enum": types}},
    });
    let described: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    let mut response = json!({
        "description": described.join(", "),
        "content": {"application/problem+json": {"schema": schema}},
    });
    if codes.iter().any(|code| code.has_retry_after()) {
        response["headers"] = json!({
            "Retry-After": {"description": "Seconds to wait before trying again.", "schema": {"type": "integer"}},
        });
    }
    response
}

/// The OpenAPI document.
pub fn document() -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for routes::Endpoint { path, method, operation, .. } in routes::endpoints() {
        let described = operation.describe(path, &mut schemas);
        let item = paths.entry(path).or_insert_with(|| json!({}));
        item[method.as_str().to_ascii_lowercase()] = described;
    }
    json!({
        "openapi": "3.1.1",
        "info": {
            "title": "ELIDA control API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Lists and kills the sessions of AI agents, and reads the history, the health and the \
                configuration of an ELIDA instance. A path that is not listed here is answered with 404 `not_found`, \
                another method of a listed path with 405 `method_not_allowed`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:9090", "description": "The default of control.listen"}],
        "security": [{"token": []}],
        "tags": routes::TAGS.map(|(name, description)| json!({"name": name, "description": description})),
        "paths": paths,
        "components": {
            "schemas": schemas.definitions(),
            "securitySchemes": {"token": {
                "type": "http",
                "scheme": "bearer",
                "description": "The token of ELIDA_CONTROL_TOKEN or control.auth.token_file. Without one, which is \
                    possible on loopback only, requests need no token.",
            }},
        },
    })
}

#[cfg(test)]
#[path = "../../tests/gateway/support/openapi.rs"]
#[expect(unreachable_pub, reason = "the end-to-end tests use it, too")]
pub(super) mod answers;
#[cfg(test)]
mod examples;
#[cfg(test)]
use crate::settings::json_schema;
#[cfg(test)]
mod tests;
