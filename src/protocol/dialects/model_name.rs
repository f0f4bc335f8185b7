//! Where requests name their model beside their body.

use super::path_method::plain_spelling;
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

    /// Paths to the models of the requests in a JSON body that is a batch.
    pub(in crate::protocol) fn batch_models(self) -> &'static [&'static str] {
        self.0.batch_models
    }

    /// Returns whether each request in a batch must name its model.
    pub fn batches_name_models(self) -> bool {
        self.0.batches_name_models
    }

    /// Whether a form that is sent to this path, in whatever spelling, may upload the file of a batch: `/v1/files` of OpenAI
    /// (platform.openai.com/docs/api-reference/files), Mistral and Groq, `/openai/files` of Azure.
    pub fn takes_batch_files(path: &str) -> bool {
        ends_in(path, "/files")
    }

    /// Whether a JSON body that is sent to this path, in whatever spelling, may bring a file in another way: in parts
    /// (platform.openai.com/docs/api-reference/uploads), or from a URL (Azure's `/openai/files/import`).
    pub fn takes_files_elsewhere(path: &str) -> bool {
        ["/uploads", "/files/import", "/files"].iter().any(|end| ends_in(path, end))
    }

    /// Whether the body of a request to this path is a file that names no model and is not read.
    pub fn is_upload(self, path: &str) -> bool {
        self.0.uploads.iter().any(|rule| rule.matches(path))
    }
}

/// Whether a path, in whatever spelling, ends so.
fn ends_in(path: &str, end: &str) -> bool {
    path.trim_end_matches('/').ends_with(end) || plain_spelling(path).is_some_and(|path| path.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_of_batch_files_are_known_in_any_spelling() {
        for path in ["/v1/files", "/openai/files/", "/v1/Files", "/v1/fil%65s", "/v1//x/../files;a"] {
            assert!(Dialect::takes_batch_files(path), "{path}");
        }
        for path in ["/v1/files/file-1", "/v1/files/file-1/content", "/v1/profiles", "/"] {
            assert!(!Dialect::takes_batch_files(path), "{path}");
        }
        for path in ["/v1/uploads", "/openai/files/import", "/v1/upload%73/", "/v1/files"] {
            assert!(Dialect::takes_files_elsewhere(path), "{path}");
        }
        assert!(!Dialect::takes_files_elsewhere("/v1/uploads/upload_1/parts"));
    }
}
