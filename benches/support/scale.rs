//! Scale: ten thousand concurrent streams, a hundred thousand sessions, a flood of session ids.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::arguments::Arguments;
use super::children::{self, Equipment, Proxy};
use super::process;
use super::report::Report;
use super::rounds;
use super::stats::quantile;
use super::streams::{self, Pace};

/// Concurrent streams.
const STREAMS: usize = 10_000;
/// Sessions that are kept.
const SESSIONS: usize = 100_000;
/// Descriptors that ELIDA reserves for itself and for operators (docs/operations.md, open files).
const SPARE: usize = 128 + 256;
/// After this time sessions with a retention of one second are removed.
const FORGOTTEN: Duration = Duration::from_secs(5);
/// When no record has arrived for this long, none is under way.
const PATIENCE: Duration = Duration::from_secs(20);

const INTRODUCTION: &str = "Written by `just scale`; no number here was written by hand. One ELIDA process with the \
    default configuration but for `session.max_active` and `session.max_active_per_principal` (500,000 each; by \
    default 100,000 and 200). MB are 1,000,000 bytes.";

/// Runs everything and returns the report.
///
/// # Errors
/// A request or stream failed.
pub(crate) async fn run(arguments: &Arguments) -> io::Result<Report> {
    let mut report = Report::new("ELIDA at scale", INTRODUCTION);
    let (_running, backends) = children::backends();
    let elida = children::elida(&arguments.elida, backends, 500_000, Equipment::Default);
    let mut lines = Vec::new();
    lines.extend(many_streams(arguments, &elida).await?);
    drop(elida);
    // A new process: memory that the streams released would hide what the sessions need.
    let elida = children::elida(&arguments.elida, backends, 500_000, Equipment::Default);
    lines.extend(many_sessions(arguments, &elida).await?);
    drop(elida);
    let elida = children::elida(&arguments.elida, backends, 500_000, Equipment::Brief);
    lines.extend(many_endings(arguments, &elida).await?);
    report.table("Results", &["what", "measured", "aim"], &lines);
    Ok(report)
}

fn line(what: String, measured: String, aim: &str) -> Vec<String> {
    vec![what, measured, aim.to_owned()]
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Streams with one event per second, all open at the same time for some seconds.
async fn many_streams(arguments: &Arguments, elida: &Proxy) -> io::Result<Vec<Vec<String>>> {
    // Each stream uses two of ELIDA's descriptors, and a sixteenth is reserved for idle connections to backends.
    let room = (descriptors() - SPARE) / 16 * 15 / 2;
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

/// Sessions with one request each, which are kept; then more of them, as from a client that invents ids.
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

/// Sessions that end a second after their only request, in rounds: each must have a record, and memory must not
/// grow from round to round, except from the first to the second: tables keep their largest size.
async fn many_endings(arguments: &Arguments, elida: &Proxy) -> io::Result<Vec<Vec<String>>> {
    let count = arguments.amount(SESSIONS);
    let mut lines = Vec::new();
    for (round, prefix) in ["first", "second", "third", "fourth"].into_iter().enumerate() {
        let begun = Instant::now();
        rounds::memory_per_session(elida, prefix, count).await?;
        let made = begun.elapsed();
        let found = all_recorded(elida, count * (round + 1)).await?;
        lines.push(line(
            format!("sessions with one request, created and ended (the {prefix} {count})"),
            format!("{} records of {} requests", found.0, found.1),
            &format!("{} of {}", count * (round + 1), count * (round + 1)),
        ));
        lines.push(line(
            "until the last of them was made / had ended and had its record".to_owned(),
            format!("{:.1} / {:.1} s", made.as_secs_f64(), begun.elapsed().as_secs_f64()),
            "",
        ));
        // An ended session is removed a second later, in the next pass of the reaper.
        tokio::time::sleep(FORGOTTEN).await;
        lines.push(line("memory then".to_owned(), megabytes(process::memory(elida.pid())), "flat"));
    }
    lines.push(line(
        "`elida cdr export`, then `elida cdr verify`".to_owned(),
        verified(arguments, elida)?,
        "in order",
    ));
    Ok(lines)
}

/// Exports the records and verifies them; returns the program's output, and how long it took.
fn verified(arguments: &Arguments, elida: &Proxy) -> io::Result<String> {
    let begun = Instant::now();
    let control = format!("http://{}", elida.control.ok_or_else(|| io::Error::other("no control API"))?);
    let file = elida.folder().join("records.ndjson");
    let cdr = |words: &[&OsStr]| Command::new(&arguments.elida).arg("cdr").args(words).output();
    let exported = cdr(&[
        "export".as_ref(),
        "--control".as_ref(),
        control.as_ref(),
        "--output".as_ref(),
        file.as_ref(),
    ])?;
    let key = elida.folder().join("cdr-key.pub");
    let checked = cdr(&["verify".as_ref(), file.as_ref(), "--key".as_ref(), key.as_ref()])?;
    if !(exported.status.success() && checked.status.success()) {
        return Err(io::Error::other(
            String::from_utf8_lossy(&[exported.stderr, checked.stderr].concat()).into_owned(),
        ));
    }
    let report = String::from_utf8_lossy(&checked.stdout);
    let summary = report.lines().next().unwrap_or_default();
    Ok(format!("{summary}; {:.1} s", begun.elapsed().as_secs_f64()))
}

/// Waits until the history holds the records of this many sessions, or no more arrive.
async fn all_recorded(elida: &Proxy, count: usize) -> io::Result<(usize, usize)> {
    let mut last = (0, Instant::now());
    loop {
        let found = recorded(elida.folder())?;
        if found.0 >= count || found.0 == last.0 && last.1.elapsed() > PATIENCE {
            return Ok(found);
        }
        if found.0 != last.0 {
            last = (found.0, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The number of records in the history of a folder, and the number of requests in them.
///
/// # Errors
/// The file cannot be read.
fn recorded(folder: &Path) -> io::Result<(usize, usize)> {
    let read = || {
        let file = rusqlite::Connection::open(folder.join("history.db"))?;
        file.query_row(
            "SELECT count(DISTINCT session_id), coalesce(sum(requests), 0) FROM records",
            [],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
        )
    };
    let (sessions, requests) = read().map_err(io::Error::other)?;
    let number = |count: i64| usize::try_from(count).map_err(io::Error::other);
    Ok((number(sessions)?, number(requests)?))
}

/// The limit of open files for new processes.
fn descriptors() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
    line.split_whitespace().next().and_then(|soft| soft.parse().ok()).unwrap_or(1024)
}
