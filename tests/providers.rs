//! No file outside `protocol/dialects`, `demo` and `identity/client.rs` names a model provider: what is known of one
//! is in its own file (docs/adding-a-provider.md). The table of secrets in `policy/secrets` has the keys of all vendors.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

/// Names of providers, as parts of identifiers and strings, in lower case.
const PROVIDERS: [&str; 12] = [
    "anthropic",
    "azure",
    "bedrock",
    "cohere",
    "gemini",
    "google",
    "goog_api",
    "mistral",
    "ollama",
    "openai",
    "vertex",
    "x-goog",
];

/// Where they may be named.
const HOME: [&str; 4] = ["protocol/dialects/", "demo/", "identity/client.rs", "policy/secrets/"];

/// Lines outside that name one and know nothing of it. A new one needs a reason as good as these.
const ALLOWED: [(&str, &str, &str); 2] = [
    ("upstream/settings/values.rs", "https://api.openai.com", "an example of a URL in an error text"),
    (
        "protocol/request/tools_offered.rs",
        "google",
        "names of members; all APIs' tools are looked for in one scan",
    ),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

fn is_test(path: &str) -> bool {
    path.ends_with("tests.rs") || path.ends_with("testing.rs") || path.contains("/tests/")
}

/// The code of a file up to the unit tests at its end.
fn code(text: &str) -> &str {
    match text.find("\n#[cfg(test)]\nmod ") {
        Some(tests) if text[tests..].contains(" {") => &text[..tests],
        _ => text,
    }
}

/// A line without its comment.
fn without_comment(line: &str) -> &str {
    if line.trim_start().starts_with("//") { "" } else { line.split(" // ").next().unwrap_or_default() }
}

#[test]
fn only_its_own_files_name_a_provider() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    paths.sort();
    let mut faults = Vec::new();
    for path in paths {
        let name = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
        if is_test(&name) || HOME.iter().any(|home| name.starts_with(home)) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in code(&text).lines().enumerate() {
            let allowed = ALLOWED.iter().any(|(file, text, _)| name == *file && line.contains(text));
            let line = without_comment(line).to_lowercase();
            if let Some(provider) = PROVIDERS.iter().find(|provider| line.contains(*provider))
                && !allowed
            {
                faults.push(format!("src/{name}:{}: names {provider}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
