//! Tests of the metrics.

use super::*;

fn line<'a>(text: &'a str, start: &str) -> &'a str {
    text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start} in {text}"))
}

#[test]
fn a_request_leaves_its_numbers() {
    let metrics = Metrics::new().unwrap();
    let backend = metrics.backend("openai");
    backend.bytes_in(10);
    backend.bytes_out(30);
    backend.bytes_out(12);
    backend.first_byte(Duration::from_millis(30));
    backend.error("backend_timeout");
    backend.finished(Served::Backend(RouteMethod::Model), "POST", 200, Duration::from_millis(700));
    backend.tokens("gpt-5", &[(TokenKind::Input, 7), (TokenKind::Reasoning, 0)]);
    let text = metrics.encode();
    for (start, value) in [
        (r#"elida_bytes_total{backend="openai",direction="in"}"#, "10"),
        (r#"elida_bytes_total{backend="openai",direction="out"}"#, "42"),
        (r#"elida_time_to_first_byte_seconds_count{backend="openai"}"#, "1"),
        (r#"elida_backend_errors_total{backend="openai",reason="backend_timeout"}"#, "1"),
        (r#"elida_http_requests_total{backend="openai",code="200",method="POST",route="model"}"#, "1"),
        (r#"elida_http_request_duration_seconds_count{backend="openai",route="model"}"#, "1"),
        (r#"elida_tokens_total{backend="openai",model="gpt-5",type="input"}"#, "7"),
    ] {
        assert!(line(&text, start).ends_with(&format!(" {value}")), "{start} in {text}");
    }
    assert!(!text.contains("reasoning"), "a kind that was not used makes no series");
}

#[test]
fn sessions_kills_and_reloads_are_counted() {
    let metrics = Metrics::new().unwrap();
    metrics.session_started("traffic");
    metrics.session_started("traffic");
    metrics.session_ended("killed", "traffic");
    metrics.session_killed("control");
    metrics.kill_latency(Duration::from_micros(700));
    metrics.overhead(Duration::from_micros(80));
    metrics.config_reloaded(false);
    let text = metrics.encode();
    for (start, value) in [
        (r#"elida_sessions_active{kind="traffic"}"#, "1"),
        (r#"elida_sessions_total{kind="traffic",state="killed"}"#, "1"),
        (r#"elida_session_kills_total{source="control"}"#, "1"),
        (r#"elida_kill_latency_seconds_bucket{le="0.001"}"#, "1"),
        (r#"elida_proxy_overhead_seconds_bucket{le="0.0001"}"#, "1"),
        (r#"elida_config_reloads_total{result="rejected"}"#, "1"),
        (r#"elida_config_reloads_total{result="applied"}"#, "0"),
    ] {
        assert!(line(&text, start).ends_with(&format!(" {value}")), "{start} in {text}");
    }
}

#[test]
fn a_gauge_counts_what_is_inside() {
    let metrics = Metrics::new().unwrap();
    let legs = metrics.open_legs("stream");
    let (one, two) = (legs.enter(), metrics.open_legs("stream").enter());
    assert_eq!(legs.get(), 2);
    drop(one);
    drop(two);
    assert_eq!(legs.get(), 0);
    let connection = metrics.connections().enter();
    assert!(line(&metrics.encode(), "elida_connections").ends_with(" 1"));
    drop(connection);
}

#[test]
fn labels_that_peers_choose_are_bounded() {
    let metrics = Metrics::new().unwrap();
    let backend = metrics.unrouted();
    for n in 0..300 {
        backend.tokens(&format!("model-{n}"), &[(TokenKind::Output, 1)]);
    }
    backend.tokens(&"x".repeat(4000), &[(TokenKind::Output, 1)]);
    backend.tokens("model-7", &[(TokenKind::Output, 1)]);
    for method in ["post", "BREW", "A\"B"] {
        backend.finished(Served::Refused, method, 999, Duration::ZERO);
    }
    backend.finished(Served::Refused, "GET", 0, Duration::ZERO);
    let text = metrics.encode();
    assert_eq!(text.lines().filter(|line| line.starts_with("elida_tokens_total")).count(), 201);
    let other = line(&text, r#"elida_tokens_total{backend="none",model="other""#);
    assert!(other.ends_with(" 101"), "{other}");
    let model = line(&text, r#"elida_tokens_total{backend="none",model="model-7""#);
    assert!(model.ends_with(" 2"), "{model}");
    let refused = r#"elida_http_requests_total{backend="none",code="other",method="OTHER""#;
    assert!(line(&text, refused).ends_with(" 3"));
    assert!(text.contains(r#"code="none",method="GET""#));
}

#[test]
fn the_process_and_the_build_show() {
    let text = Metrics::new().unwrap().encode();
    assert!(text.contains(concat!("elida_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1")));
    assert!(cfg!(not(target_os = "linux")) || text.contains("process_resident_memory_bytes"));
}

#[test]
fn every_metric_stands_in_the_documentation() {
    let page = include_str!("../../../docs/metrics.md");
    for spec in table::ALL {
        assert!(page.contains(&format!("`{}", spec.name)), "{} is not in docs/metrics.md", spec.name);
        for label in spec.labels {
            let row = page.lines().find(|row| row.contains(&format!("`{}`", spec.name))).unwrap_or_default();
            assert!(row.contains(&format!("`{label}`")), "{}: {label} is not in its row", spec.name);
        }
    }
}
