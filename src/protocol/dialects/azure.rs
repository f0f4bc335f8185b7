//! Azure OpenAI: the API of OpenAI below `/openai/deployments/NAME/…`. The deployment decides which model answers; a
//! `model` in the body is ignored
//! (learn.microsoft.com/azure/ai-services/openai/reference: `POST …/openai/deployments/{deployment-id}/chat/completions`).

use super::path_method::spelled_out;
use crate::protocol::facts::model_request::ModelRequest;

/// Parameters of a query that name the model of a WebSocket: the deployment in the preview API, the model in others
/// (`/openai/realtime?deployment=…`).
pub(super) const SOCKET_MODEL: &[&str] = &["model", "deployment"];

/// Takes the deployment that the path names for the model. Any place counts, not only the last: a server that normalises
/// dots or empty segments must not find another one than was checked here.
pub(super) fn read_path(path: &str, call: &mut ModelRequest) {
    if !path.contains('%') && !contains(path, "deployments") {
        return;
    }
    let path = spelled_out(path);
    let mut segments = path.split(['/', '\\']).filter(|segment| !segment.is_empty()).peekable();
    while let Some(segment) = segments.next() {
        if segment.eq_ignore_ascii_case("deployments")
            && let Some(name) = segments.peek()
        {
            call.named_by_path(name);
        }
    }
}

fn contains(path: &str, word: &str) -> bool {
    path.as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str, body: Option<&str>) -> ModelRequest {
        let mut call = ModelRequest { model: body.map(str::to_owned), ..ModelRequest::default() };
        read_path(path, &mut call);
        call
    }

    #[test]
    fn the_deployment_is_the_model() {
        for path in [
            "/openai/deployments/prod-4o/chat/completions",
            "/azure/openai/deployments/prod-4o/audio/transcriptions",
            "/openai/Deployments//prod%2D4o/embeddings",
            "/openai/deployments/x/../../deployments/prod-4o/completions"
                .replace("x/../../deployments/", "")
                .as_str(),
        ] {
            let call = read(path, Some("gpt-4o"));
            assert_eq!(
                (call.model.as_deref(), call.also.as_deref()),
                (Some("prod-4o"), Some("gpt-4o")),
                "{path}"
            );
            assert!(!call.model_doubled, "{path}");
        }
        assert_eq!(read("/v1/chat/completions", Some("gpt-4o")).model.as_deref(), Some("gpt-4o"));
        assert!(read("/openai/deployments/a/../../deployments/b/chat/completions", None).model_doubled);
    }
}
