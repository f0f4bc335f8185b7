//! Paths of models' APIs that make no model write: files, batches, what clients report.

use http::Method;

use super::spec::Dialect;

/// How paths end where a POST creates something. From the references of OpenAI (files, uploads, batches, fine-tuning), Mistral
/// (files, OCR is none), Anthropic (files; Claude Code's events) and Gemini (uploads of files).
const CREATES: [&str; 15] = [
    "/files",
    "/uploads",
    "/v1/batches",
    "/openai/batches",
    "/fine_tuning/jobs",
    "/upload/v1beta/files",
    "/api/event_logging/batch",
    "/tokenize",
    "/vector_stores",
    "/v1/conversations",
    "/v1/containers",
    "/client_secrets",
    "/v1/realtime/sessions",
    "/v1beta/cachedContents",
    "/v1/cachedContents",
];

/// Lists whose elements take these orders: `/v1/batches/ID/cancel`.
const ORDERS: [(&str, &[&str]); 6] = [
    ("batches", &["cancel"]),
    ("uploads", &["parts", "complete", "cancel"]),
    ("jobs", &["cancel", "pause", "resume"]),
    ("vector_stores", &["search", "files", "file_batches"]),
    ("conversations", &["items"]),
    ("containers", &["files"]),
];

/// Whether a path is written as no two servers read it differently.
fn is_plain(path: &str) -> bool {
    !path.bytes().any(|byte| matches!(byte, b'%' | b';' | b'\\'))
        && !path.contains("//")
        && !path.contains("/.")
}

fn is_known(path: &str) -> bool {
    let path = path.strip_suffix('/').unwrap_or(path);
    let mut segments = path.rsplit('/');
    let (order, _, list) = (segments.next(), segments.next(), segments.next());
    let takes = |(known, orders): &(&str, &[&str])| {
        list == Some(known) && order.is_some_and(|order| orders.contains(&order))
    };
    is_plain(path) && (CREATES.iter().any(|end| path.ends_with(end)) || ORDERS.iter().any(takes))
}

impl Dialect {
    /// Whether a request at a path of no known API may make a model write an answer. Those that only read or delete do not.
    pub fn may_ask_model(method: &Method, path: &str, has_body: bool) -> bool {
        let only_reads =
            matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::DELETE) && !has_body;
        !only_reads && !is_known(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_batches_ask_no_model() {
        let may_ask = |method, path, has_body| Dialect::may_ask_model(&method, path, has_body);
        for path in [
            "/v1/files",
            "/v1/batches",
            "/openai/v1/batches/batch_1/cancel",
            "/v1/uploads/u/parts",
            "/v1/fine_tuning/jobs",
            "/upload/v1beta/files",
            "/api/event_logging/batch",
            "/v1/vector_stores",
            "/v1/vector_stores/vs_1/search",
            "/v1/conversations/conv_1/items",
            "/v1/realtime/client_secrets",
            "/v1beta/cachedContents",
        ] {
            assert!(!may_ask(Method::POST, path, true), "{path}");
        }
        for path in
            ["/foo", "/v1/files/x", "/v1/%66iles", "/foo;/files", "/v1/threads/t/runs", "/foo//files", "/"]
        {
            assert!(may_ask(Method::POST, path, true), "{path}");
        }
        for (method, has_body, may) in [
            (Method::GET, false, false),
            (Method::HEAD, false, false),
            (Method::DELETE, false, false),
            (Method::GET, true, true),
            (Method::POST, false, true),
            (Method::PUT, true, true),
            (Method::PATCH, true, true),
        ] {
            assert_eq!(may_ask(method.clone(), "/foo", has_body), may, "{method} {has_body}");
        }
    }
}
