//! Scale: ten thousand streams at once, a hundred thousand sessions, a flood of ids.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use super::arguments::Arguments;
use super::children::{self, Proxy};
use super::process;
use super::report::Report;
use super::rounds;
use super::stats::quantile;
use super::streams::{self, Pace};

/// Streams at once.
const STREAMS: usize = 10_000;
/// Sessions that are kept.
const SESSIONS: usize = 100_000;
/// Descriptors a process needs beside those of its streams.
const SPARE: usize = 200;

const INTRODUCTION: &str = "Written by `just scale`; no number here was written by hand. One ELIDA process with the \
    default configuration but for `session.max_active` and `session.max_active_per_principal` (500,000 each; by \
    default 100,000 and 200). MB are 1,000,000 bytes.";

/// Runs all and gives the report.
///
/// # Errors
/// A request or stream failed.
pub(crate) async fn run(arguments: &Arguments) -> io::Result<Report> {
    let mut report = Report::new("ELIDA at scale", INTRODUCTION);
    let (_running, backends) = children::backends();
    let elida = children::elida(&arguments.elida, backends, 500_000);
    let mut lines = Vec::new();
    lines.extend(many_streams(arguments, &elida).await?);
    drop(elida);
    // A fresh process: memory that the streams gave back would hide what the sessions take.
    let elida = children::elida(&arguments.elida, backends, 500_000);
    lines.extend(many_sessions(arguments, &elida).await?);
    report.table("Results", &["what", "measured", "aim"], &lines);
    Ok(report)
}

fn line(what: String, measured: String, aim: &str) -> Vec<String> {
    vec![what, measured, aim.to_owned()]
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Streams with an event each second, all open at the same time for some seconds.
async fn many_streams(arguments: &Arguments, elida: &Proxy) -> io::Result<Vec<Vec<String>>> {
    // Each stream is two descriptors of ELIDA's.
    let room = (descriptors() - SPARE) / 2;
    let count = arguments.amount(STREAMS).min(room);
    let pace = Pace { every: Duration::from_secs(1), events: if arguments.quick { 5 } else { 30 } };
    let before = process::memory(elida.pid());
    let cpu = process::cpu(elida.pid());
    let begun = Instant::now();
    let streams = streams::open_all(elida.address, count, 64, pace).await?;
    let opened = begun.elapsed();
    let open = process::memory(elida.pid());
    let mut times = streams::finish_all(streams, pace).await?;
    let cpu = process::cpu(elida.pid()).saturating_sub(cpu);
    let events = times.len();
    Ok(vec![
        line(
            format!("streams at once (of {STREAMS} wanted; {} descriptors allowed)", descriptors()),
            format!("{count}, without an error"),
            "10000",
        ),
        line("time to open them".to_owned(), format!("{:.1} s", opened.as_secs_f64()), ""),
        line("memory of ELIDA while they are open".to_owned(), megabytes(open), "600 MB"),
        line(
            "memory per open stream".to_owned(),
            format!("{:.1} KB", (open.saturating_sub(before)) as f64 / count as f64 / 1e3),
            "",
        ),
        line(
            "events passed on".to_owned(),
            format!("{events} in {:.1} s", begun.elapsed().as_secs_f64()),
            "",
        ),
        line(
            "from the source to the client, p50 / p99".to_owned(),
            format!("{:.0} / {:.0} µs", quantile(&mut times, 0.5), quantile(&mut times, 0.99)),
            "",
        ),
        line("CPU of ELIDA, all in all".to_owned(), format!("{:.1} s", cpu.as_secs_f64()), ""),
    ])
}

/// Sessions by one request each, kept; then more of them, as somebody who makes up ids would.
async fn many_sessions(arguments: &Arguments, elida: &Proxy) -> io::Result<Vec<Vec<String>>> {
    // Connections, threads and pools have their memory after this.
    rounds::memory_per_session(elida, "warm", 200).await?;
    let count = arguments.amount(SESSIONS);
    let before = process::memory(elida.pid());
    let begun = Instant::now();
    rounds::memory_per_session(elida, "kept", count).await?;
    let took = begun.elapsed();
    let growth = process::memory(elida.pid()).saturating_sub(before);
    let flood = rounds::memory_per_session(elida, "flood", count).await?;
    Ok(vec![
        line(format!("memory for {count} sessions kept"), megabytes(growth), "150 MB for 100000"),
        line("time to make them".to_owned(), format!("{:.1} s", took.as_secs_f64()), ""),
        line("memory per session".to_owned(), format!("{:.0} bytes", growth as f64 / count as f64), ""),
        line(format!("memory per id of a flood of {count} more"), format!("{flood:.0} bytes"), "1000 bytes"),
    ])
}

/// How many descriptors a process may have here.
fn descriptors() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
    line.split_whitespace().next().and_then(|soft| soft.parse().ok()).unwrap_or(1024)
}
