//! Tests of the log.

use super::*;
use crate::settings::fault::Faults;
use crate::telemetry::settings::LoggingConfig;
use parking_lot::Mutex;

/// A writer whose output the test can read.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Page {
    fn lines(&self) -> Vec<serde_json::Value> {
        let bytes = self.0.lock().clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn access() -> AccessLine<'static> {
    AccessLine {
        client_ip: [10, 0, 0, 5].into(),
        method: "POST",
        url: "/v1/messages?beta=true&api_key=sk-secret",
        status: Some(200),
        duration_ms: 1200,
        session_id: Some("abc\"\n{\"level\":\"ERROR\"}"),
        request_id: "r-1",
        principal: Some("cred:0123"),
        backend: Some("anthropic"),
        attempts: 1,
        failover_from: None,
        model: None,
        operation: None,
        bytes_in: 10,
        bytes_out: 20,
        queue_ms: Some(3),
        ttfb_ms: Some(400),
        stream: true,
        client: Some("claude-code"),
        outcome: "ok",
    }
}

fn settings(level: Level, access_log: bool) -> Settings {
    let written = LoggingConfig { level, access_log, ..LoggingConfig::default() };
    written.compile(&mut Faults::default()).unwrap()
}

#[test]
fn an_access_line_is_one_flat_json_line_without_secrets() {
    let page = Page::default();
    let (log, guard) = Log::to(page.clone(), &settings(Level::Error, true));
    log.access(&access());
    log.reconfigure(&settings(Level::Error, false));
    log.access(&access());
    drop(guard);
    let lines = page.lines();
    assert_eq!(lines.len(), 1, "switched off means off");
    let line = &lines[0];
    assert_eq!(line["message"], "request_completed");
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["url"], "/v1/messages?beta=true&api_key=***");
    assert_eq!(line["duration_ms"], 1200);
    assert_eq!(line["model"], serde_json::Value::Null);
    for name in ["client_ip", "status", "session_id", "bytes_in", "ttfb_ms", "stream", "outcome"] {
        assert!(!line[name].is_null(), "{name}");
    }
}

#[test]
fn diagnostics_follow_the_level_and_noisy_crates_only_warn() {
    let page = Page::default();
    let (log, guard) = Log::to(page.clone(), &settings(Level::Info, true));
    let subscriber = tracing_subscriber::registry().with(Diagnostics(Arc::clone(&log)));
    tracing::subscriber::with_default(subscriber, || {
        tracing::debug!("not yet");
        tracing::info!(count = 3, place = "a\nb", level = "mine", "told");
        tracing::info!(target: "pingora_core::server", "noise");
        tracing::warn!(target: "pingora_core::server", "warning");
        log.reconfigure(&settings(Level::Debug, true));
        tracing::debug!(long = ?"x".repeat(9000), "now");
    });
    drop(guard);
    let lines = page.lines();
    let told: Vec<_> = lines.iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert_eq!(told, ["told", "warning", "now"]);
    assert_eq!((&lines[0]["count"], &lines[0]["place"]), (&3.into(), &"a\nb".into()));
    assert_eq!((&lines[0]["level"], &lines[0]["field"]), (&"INFO".into(), &"mine".into()));
    assert_eq!(lines[1]["target"], "pingora_core::server");
    assert!(lines[2]["long"].as_str().unwrap().len() <= FIELD_MAX);
}

/// A closed pipe.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }
}

#[test]
fn a_closed_pipe_stops_nobody() {
    let (log, guard) = Log::to(Closed, &settings(Level::Info, true));
    for _ in 0..1000 {
        log.access(&access());
    }
    drop(guard);
    log.access(&access());
}

/// A reader that never reads.
struct Stuck(std::sync::mpsc::Receiver<()>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.recv();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stuck_reader_costs_lines_and_they_are_counted() {
    let (hold, stuck) = std::sync::mpsc::channel();
    let (log, guard) = Log::to(Stuck(stuck), &settings(Level::Info, true));
    let metrics = crate::telemetry::metrics::Metrics::new().unwrap();
    metrics.watch_log(&log);
    let line = serde_json::json!({"filler": "x".repeat(900)});
    for _ in 0..QUEUE_LINES + 2000 {
        log.log_event(Level::Info, "full", &line);
    }
    let text = metrics.encode();
    let counted = text.lines().find(|line| line.starts_with("elida_log_lines_dropped_total ")).unwrap();
    let count: u64 = counted.rsplit(' ').next().unwrap().parse().unwrap();
    assert!((1000..=2000).contains(&count), "{counted}");
    drop(hold);
    drop(guard);
}

/// The only test that installs its log for the process, so lines of other tests may appear between its own.
#[test]
fn what_pingora_logs_comes_out_here_too() {
    let page = Page::default();
    let (log, guard) = Log::to(page.clone(), &settings(Level::Info, true));
    log.install().unwrap();
    assert!(log.install().is_err(), "once per process");
    log::warn!(target: "pingora_proxy::probe", "a warning\nof theirs");
    log::info!(target: "pingora_proxy::probe", "their noise");
    log::info!(target: "probe", "of some crate");
    log::debug!(target: "probe", "not yet");
    log.reconfigure(&settings(Level::Debug, true));
    log::debug!(target: "probe", "now");
    tracing::debug!(target: "probe", "now too");
    log.reconfigure(&settings(Level::Error, true));
    tracing::warn!(target: "probe", "no more");
    drop(guard);
    let lines = page.lines();
    let told: Vec<_> = lines
        .iter()
        .filter(|line| line["target"].as_str().is_some_and(|target| target.contains("probe")))
        .map(|line| (line["level"].as_str().unwrap(), line["message"].as_str().unwrap()))
        .collect();
    let expected =
        [("WARN", "a warning\nof theirs"), ("INFO", "of some crate"), ("DEBUG", "now"), ("DEBUG", "now too")];
    assert_eq!(told, expected);
    let ours = lines.iter().find(|line| line["message"] == "a warning\nof theirs").unwrap();
    assert_eq!(ours["target"], "pingora_proxy::probe");
    assert!(ours.get("log.target").is_none(), "{ours}");
}

#[test]
fn text_is_for_eyes() {
    let page = Page::default();
    let written = LoggingConfig { format: Format::Text, ..LoggingConfig::default() };
    let (log, guard) = Log::to(page.clone(), &written.compile(&mut Faults::default()).unwrap());
    log.access(&access());
    drop(guard);
    let bytes = page.0.lock().clone();
    let line = String::from_utf8(bytes).unwrap();
    assert!(line.contains(" INFO request_completed client_ip=10.0.0.5 method=POST url="), "{line}");
    assert_eq!(line.lines().count(), 1);
}
