use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::Gateway;
use crate::support::program::{Home, Program, installed, node};

/// The package, and how long all its tests may take.
const PACKAGE: &str = "tests/clients/node_modules/http-cache-tests";
const LIMIT: Duration = Duration::from_secs(240);

/// Tests that fail although nothing is served that must not be: of `Surrogate-Control`, which RFC 9111 does not have, and of a
/// backend that is gone, where a 502 counts as if it came from the cache.
const SAFE: [&str; 2] = ["surrogate-", "stale-close-"];

#[tokio::test(flavor = "multi_thread")]
async fn the_tests_of_http_caches_pass() {
    let package: PathBuf = installed("ELIDA_TEST_CACHE_TESTS", PACKAGE);
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Command::new(node("").get_program());
    server.arg(package.join("server/server.mjs")).env("npm_config_port", "0");
    server.env("npm_config_protocol", "http").env("npm_config_pidfile", folder.path().join("pid"));
    let mut server = Program::start(server, &Home::new());
    let line = server.line("Listening").await;
    let port: u16 =
        line.trim_end_matches('/').rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let gateway = Gateway::with(format!(
        "backends:\n  b: {{ url: 'http://localhost:{port}', type: http }}\ncache: {{ enabled: true, default_ttl: 0 }}\n"
    ))
    .await;
    let mut tests = node("cache_tests.mjs");
    tests.arg(&package).arg(format!("http://{}", gateway.proxy()));
    let outcome = Program::start(tests, &Home::new()).outcome_in(LIMIT).await;
    let results: Vec<Value> =
        outcome.lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let text = |result: &Value, name: &str| result[name].as_str().unwrap_or_default().to_owned();
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for result in &results {
        *counts.entry((text(result, "kind"), text(result, "outcome"))).or_default() += 1;
    }
    let failed: Vec<String> = results
        .iter()
        .filter(|result| result["kind"] == "required" && result["outcome"] != "pass")
        .map(|result| format!("{}: {}", text(result, "id"), text(result, "why")))
        .collect();
    let shown = format!("{counts:?}\n{}\n{}", failed.join("\n"), outcome.errors);
    println!("{shown}");
    let passed = counts.get(&("required".to_owned(), "pass".to_owned())).copied().unwrap_or(0);
    assert!(passed >= 141, "{shown}");
    // What comes from the cache must not come from there: no-store, private, Authorization, Vary, cookies, and what is too old.
    let leaks = failed.iter().filter(|failure| {
        failure.contains("comes from cache") && !SAFE.iter().any(|start| failure.starts_with(start))
    });
    assert_eq!(leaks.collect::<Vec<_>>(), Vec::<&String>::new(), "{shown}");
}
