//! Where requests name their model beside their body.

use super::spec::Dialect;
use crate::protocol::facts::model_request::{ModelPlace, ModelRequest};

impl Dialect {
    /// Adds what the path says of a request.
    pub fn read_path(self, path: &str, request: &mut ModelRequest) {
        if let Some(read) = self.0.read_path {
            read(path, request);
        }
    }

    /// Takes a parameter of the query that names the model of a WebSocket.
    pub fn read_parameter(self, name: &str, value: &str, request: &mut ModelRequest) {
        if self.0.socket_model.contains(&name) {
            request.model_doubled |= request.model.as_ref().is_some_and(|known| known != value);
            request.model = Some(value.to_owned());
            request.model_place = ModelPlace::Fixed;
        }
    }

    /// The member of a JSON body that names the model.
    pub(in crate::protocol) fn body_model(self) -> &'static str {
        self.0.body_model
    }

    /// Whether the body of a request to this path is a file that names no model and is not read.
    pub fn is_upload(self, path: &str) -> bool {
        self.0.uploads.iter().any(|rule| rule.matches(path))
    }
}
