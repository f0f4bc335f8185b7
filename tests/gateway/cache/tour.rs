//! The examples of `docs/cache.md`, executed as a reader pastes them, and `conf/examples/cache.yaml`.

use std::process::Command;

use super::hits::{answer, field, origin};
use crate::support::{Backend, Call, Gateway, RawBackend};

const PAGE: &str = include_str!("../../../docs/cache.md");
const EXAMPLE: &str = include_str!("../../../conf/examples/cache.yaml");
/// Where page and example have the backend.
const BACKEND: &str = "http://localhost:9100";

async fn files() -> RawBackend {
    origin(|request, _| match request.head.field("if-none-match") {
        Some("\"1\"") => "HTTP/1.1 304 X\r\nCache-Control: max-age=300\r\n\r\n".to_owned(),
        _ => answer(
            200,
            "Content-Type: application/json\r\nCache-Control: max-age=300\r\nETag: \"1\"\r\n",
            "{}",
        ),
    })
    .await
}

fn blocks(language: &str) -> Vec<&'static str> {
    let tour = PAGE.split("\n## ").find(|section| section.starts_with("A tour")).expect("the section");
    let fence = format!("```{language}\n");
    let parts: Vec<&str> = tour.split(fence.as_str()).skip(1).collect();
    parts.into_iter().map(|block| block.split("```").next().expect("an end")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_does_what_the_page_says() {
    let backend = files().await;
    let gateway = Gateway::with(blocks("yaml").concat().replace(BACKEND, &backend.url())).await;
    let (commands, outputs) = (blocks("sh"), blocks("text"));
    assert_eq!((commands.len(), outputs.len()), (4, 4));
    for (commands, expected) in commands.into_iter().zip(outputs) {
        let commands = commands.replace("localhost:8080", &gateway.proxy().to_string());
        let commands = commands.replace("localhost:9090", &gateway.control().to_string());
        let output = tokio::task::spawn_blocking(move || Command::new("sh").args(["-c", &commands]).output());
        let output = output.await.expect("the shell").expect("sh runs");
        let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
        for line in expected.lines() {
            let wanted = line.to_lowercase();
            let fits = |found: &str| match wanted.chars().next() {
                Some('"' | '{') => found.contains(&wanted),
                _ if wanted.ends_with('=') => found.starts_with(&wanted),
                _ => found == wanted,
            };
            assert!(text.lines().any(|found| fits(found.trim_end())), "{line}\nis not in\n{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_runs() {
    let backend = files().await;
    let own = EXAMPLE.replace(BACKEND, &backend.url()).replace("listen: \"127.0.0.1:8080\"\n", "");
    let gateway = Gateway::with(own).await;
    for status in ["elida; fwd=uri-miss; stored", "elida; hit; ttl="] {
        let answer = Call::get("/a").send(gateway.proxy()).await;
        assert!(field(&answer, "cache-status").starts_with(status), "{:?}", answer.head);
    }
    assert_eq!(backend.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_switch_the_cache_on() {
    let backend = files().await;
    let yaml = format!("backends:\n  files: {{ url: {:?}, type: http }}\n", backend.url());
    for names in [["CACHE_ENABLED", "CACHE_MAX_MEMORY"], ["ELIDA_CACHE_ENABLED", "ELIDA_CACHE_MAX_MEMORY"]] {
        let variables = [(names[0], "true".as_ref()), (names[1], "32MiB".as_ref())];
        let gateway = Gateway::with_variables(&yaml, &variables).await;
        let stats = gateway.operator().await.get("/admin/cache/stats").await.json();
        assert_eq!((&stats["enabled"], &stats["max_bytes"]), (&true.into(), &(32 << 20).into()), "{stats}");
    }
    let gateway = Gateway::with(&yaml).await;
    let stats = gateway.operator().await.get("/admin/cache/stats").await.json();
    assert_eq!((&stats["enabled"], &stats["entries"]), (&false.into(), &0.into()), "{stats}");
    let answer = Call::get("/a").send(gateway.proxy()).await;
    assert_eq!(field(&answer, "cache-status"), "");
}
