//! A request and its answer, as they are given to try rules on.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Given;

/// A request that rules are tried on in all phases.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GivenRequest {
    /// The method; POST, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The path, such as `/v1/messages`.
    pub path: String,
    /// The fields of the head.
    pub headers: BTreeMap<String, String>,
    /// The body: JSON, or a text that is taken as it is.
    pub body: Given,
}

/// The answer to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GivenAnswer {
    /// The status; it changes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The fields of the head. `content-type` says how the body is read: `application/json`, if absent.
    pub headers: BTreeMap<String, String>,
    /// The body: JSON, or a text that is taken as it is, such as that of an event stream.
    pub body: Given,
}
