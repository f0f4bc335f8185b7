//! The schemas of the types in requests and responses.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::super::api::error::ProblemDetails;
use super::super::api::events::{EVENTS, SchemaOf};

/// Where the schemas of an OpenAPI document are.
pub(super) const SCHEMAS: &str = "/components/schemas";

/// The generators of the schemas: a type can look different as a request and as a response.
pub(super) struct Schemas {
    pub(super) requests: SchemaGenerator,
    pub(super) responses: SchemaGenerator,
}

impl Schemas {
    pub(super) fn new() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = SCHEMAS.into();
            settings.meta_schema = None;
        });
        Self {
            requests: settings.clone().for_deserialize().into_generator(),
            responses: settings.for_serialize().into_generator(),
        }
    }

    pub(super) fn problem(&mut self) -> Value {
        self.responses.subschema_for::<ProblemDetails>().to_value()
    }

    /// The data of each event of the feed, by the event's name.
    pub(super) fn events(&mut self) -> Value {
        let schemas =
            EVENTS.iter().map(|(name, schema)| ((*name).to_owned(), schema(&mut self.responses).to_value()));
        Value::Object(schemas.collect())
    }

    /// The members of a query struct as parameters. An absent parameter is `None`, never null.
    pub(super) fn parameters(&mut self, query: SchemaOf) -> Vec<Value> {
        let schema = query(&mut self.requests).to_value();
        let properties = schema["properties"].as_object().cloned().unwrap_or_default();
        properties
            .into_iter()
            .map(|(name, mut schema)| {
                let description = schema
                    .as_object_mut()
                    .and_then(|schema| schema.remove("description"))
                    .unwrap_or_default();
                json!({"name": name, "in": "query", "description": description, "schema": not_null(schema)})
            })
            .collect()
    }

    /// All schemas that were referred to, by name.
    pub(super) fn definitions(mut self) -> Map<String, Value> {
        let mut all = self.requests.take_definitions(true);
        for (name, response) in self.responses.take_definitions(true) {
            // Of a type that is both, the schema of the response says more: which members are always there.
            all.insert(name, response);
        }
        all
    }
}

/// The schema without `null`, as a member of `Option` has it.
fn not_null(mut schema: Value) -> Value {
    if schema["default"].is_null()
        && let Some(schema) = schema.as_object_mut()
    {
        schema.remove("default");
    }
    if let Some(kinds) = schema["type"].as_array() {
        let kinds: Vec<Value> = kinds.iter().filter(|kind| **kind != "null").cloned().collect();
        if let [only] = &kinds[..] {
            schema["type"] = only.clone();
        }
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let kinds: Vec<&Value> = any.iter().filter(|kind| kind["type"] != "null").collect();
        if let [only] = kinds[..] {
            return only.clone();
        }
    }
    schema
}
