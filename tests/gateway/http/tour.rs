//! The examples of `docs/http.md`, executed as a reader pastes them.

use std::process::Command;

use crate::support::{Backend, Gateway, RawBackend};

const PAGE: &str = include_str!("../../../docs/http.md");

/// The block of a section that begins with this word.
fn block<'a>(section: &'a str, kind: &str) -> &'a str {
    let after = section.split_once(&format!("```{kind}\n")).expect("a block").1;
    after.split("```").next().expect("an end")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_do_what_the_page_says() {
    let body = "x".repeat(5000);
    let backend = RawBackend::answering(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{body}"
    ))
    .await;
    let sections: Vec<&str> = PAGE.split("\n## ").skip(1).collect();
    assert_eq!(sections.len(), 4);
    for section in sections {
        let yaml = block(section, "yaml").replace("http://localhost:8000", &backend.url());
        let gateway = Gateway::with(yaml).await;
        let target = backend.url().trim_start_matches("http://").replace(':', "-");
        let here = |text: &str| text.replace("localhost-8000", &target);
        let commands = here(block(section, "sh"))
            .replace("localhost:8080", &gateway.proxy().to_string())
            .replace("localhost:9090", &gateway.control().to_string());
        let run = tokio::task::spawn_blocking(move || Command::new("sh").args(["-ec", &commands]).output());
        let output = run.await.expect("the shell").expect("sh runs");
        let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
        for line in here(block(section, "text")).lines() {
            assert!(text.contains(&line.to_lowercase()), "{line}\nis not in\n{text}");
        }
    }
}
