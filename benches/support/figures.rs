//! The figures that users ask of a gateway, all in one run: latency, requests per second, connections, hits of the cache and memory,
//! with a thousand streams open and a full cache, and without an error.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::arguments::Arguments;
use super::children::{self, Equipment, Proxy};
use super::files;
use super::load::Connection;
use super::process;
use super::report::Report;
use super::stats::quantile;
use super::streams::{self, Pace};

/// Streams that are open all the time.
const STREAMS: usize = 1000;
/// Connections that replay the load.
const CLIENTS: usize = 32;
/// Different files in the load, and how many requests it has.
const FILES: usize = 5000;
const REQUESTS: usize = 60_000;
/// Other files that fill the cache before.
const FILLING: usize = 24_000;

const INTRODUCTION: &str = "Written by `just bench-load`; no number here was written by hand. One ELIDA process with the default \
    configuration, `cache: { enabled: true, max_memory: 256MB }`, 1,000 event streams that are open all the time with an event per \
    second each, and a cache that other files have filled. Then 32 kept connections replay GETs of 5,000 files of 8 to 16 KiB, drawn by Zipf's \
    law (exponent 1), as fast as they are answered. Backends, load generator and ELIDA share the machine's cores. The run fails if a figure is missed, \
    or if a request or a stream fails.";

/// Runs the load and returns the report.
///
/// # Errors
/// A request or stream failed, or a figure is missed.
pub(crate) async fn run(arguments: &Arguments) -> io::Result<Report> {
    let mut report = Report::new("Load", INTRODUCTION);
    let (_running, backends) = children::backends();
    let elida = children::elida(&arguments.elida, backends, 500_000, Equipment::Cached);
    fill(&elida, arguments.amount(FILLING)).await?;
    let pace = Pace { every: Duration::from_secs(1), events: if arguments.quick { 10 } else { 45 } };
    let open = streams::open_all(elida.address, STREAMS, 64, pace).await?;
    let connections = open.len() + CLIENTS;
    let reading = tokio::spawn(streams::finish_all(open, pace));
    let mut replayed = replay(&elida, arguments.amount(REQUESTS)).await?;
    let is_over = reading.is_finished();
    let (memory, stored) = (replayed.memory, stored(&elida).await?);
    let mut events = reading.await.map_err(io::Error::other)??;
    let (p95, rate) = (quantile(&mut replayed.times, 0.95) / 1e3, replayed.rate);
    let share = replayed.hits as f64 / replayed.times.len() as f64;
    let figures = [
        ("latency of a GET, p95", format!("{p95:.2} ms"), "below 50 ms", p95 < 50.0),
        ("GETs per second, beside 1,000 events per second", format!("{rate:.0}"), "1,000", rate >= 1000.0),
        ("connections at once", connections.to_string(), "1,000", connections >= 1000 && !is_over),
        ("hits of the cache", format!("{:.1} %", share * 100.0), "above 70 %", share > 0.7),
        (
            "memory, at most",
            format!(
                "{:.0} MB, of which {:.0} MB are stored answers",
                memory as f64 / 1e6,
                stored as f64 / 1e6
            ),
            "below 512 MB",
            memory < 512_000_000,
        ),
        ("failed requests and streams", "0".to_owned(), "0", true),
    ];
    let missed: Vec<&str> = figures.iter().filter(|(.., holds)| !holds).map(|(what, ..)| *what).collect();
    if !missed.is_empty() {
        return Err(io::Error::other(format!("missed: {missed:?} of {figures:?}")));
    }
    let mut lines: Vec<Vec<String>> =
        figures.map(|(what, measured, aim, _)| vec![what.to_owned(), measured, aim.to_owned()]).into();
    let late =
        format!("{:.2} / {:.2} ms", quantile(&mut events, 0.5) / 1e3, quantile(&mut events, 0.95) / 1e3);
    lines.push(vec!["from the source of an event to its client, p50 / p95".to_owned(), late, String::new()]);
    let p50 = quantile(&mut replayed.times, 0.5) / 1e3;
    lines.push(vec!["latency of a GET, p50".to_owned(), format!("{p50:.2} ms"), String::new()]);
    report.table("Figures", &["what", "measured", "aim"], &lines);
    Ok(report)
}

/// What the replay has measured.
struct Replayed {
    /// How long each request took, in microseconds.
    times: Vec<f64>,
    hits: usize,
    rate: f64,
    /// The most memory of the process, in bytes.
    memory: u64,
}

/// Fills the cache with files that the load does not have.
async fn fill(elida: &Proxy, count: usize) -> io::Result<()> {
    let mut connection = Connection::open(elida.address).await?;
    for number in 0..count {
        connection.get(&format!("/files/fill/{number}")).await?;
    }
    Ok(())
}

/// Replays the load over all clients.
async fn replay(elida: &Proxy, requests: usize) -> io::Result<Replayed> {
    let (load, next) = (Arc::new(zipf(requests)), Arc::new(AtomicUsize::new(0)));
    let begun = Instant::now();
    let mut clients: JoinSet<_> =
        (0..CLIENTS).map(|_| client(elida.address, Arc::clone(&load), Arc::clone(&next))).collect();
    let (mut times, mut hits, mut memory) = (Vec::with_capacity(requests), 0, 0);
    let mut beat = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            done = clients.join_next() => {
                let Some(done) = done else { break };
                let (own_times, own_hits) = done.map_err(io::Error::other)??;
                times.extend(own_times);
                hits += own_hits;
            }
            _ = beat.tick() => memory = memory.max(process::memory(elida.pid())),
        }
    }
    let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
    Ok(Replayed { times, hits, rate, memory: memory.max(process::memory(elida.pid())) })
}

/// Asks for files until none is left; returns how long each request took, and how many were hits.
async fn client(
    address: SocketAddr,
    load: Arc<Vec<usize>>,
    next: Arc<AtomicUsize>,
) -> io::Result<(Vec<f64>, usize)> {
    let mut connection = Connection::open(address).await?;
    let (mut times, mut hits) = (Vec::new(), 0);
    while let Some(number) = load.get(next.fetch_add(1, Relaxed)) {
        let begun = Instant::now();
        let answer = connection.get(&format!("/files/{number}")).await?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        if body.len() != files::size(*number) {
            return Err(io::Error::other(format!("{} bytes of file {number}: {head}", body.len())));
        }
        hits += usize::from(head.to_ascii_lowercase().contains("cache-status: elida; hit"));
    }
    Ok((times, hits))
}

/// Bytes of stored answers.
async fn stored(elida: &Proxy) -> io::Result<u64> {
    let control = elida.control.ok_or_else(|| io::Error::other("no control API"))?;
    let answer = Connection::open(control).await?.get("/admin/cache/stats").await?;
    let body = answer.split_once("\r\n\r\n").unwrap_or_default().1;
    let stats: serde_json::Value = serde_json::from_str(body).map_err(io::Error::other)?;
    stats["bytes"].as_u64().ok_or_else(|| io::Error::other(answer))
}

/// Draws files by Zipf's law, the same ones in each run.
fn zipf(requests: usize) -> Vec<usize> {
    let sums: Vec<f64> = (1..=FILES)
        .scan(0.0, |sum, rank| {
            *sum += 1.0 / rank as f64;
            Some(*sum)
        })
        .collect();
    let whole = sums[FILES - 1];
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let draw = |_| {
        // xorshift64 (Marsaglia).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let at = (state >> 11) as f64 / (1_u64 << 53) as f64 * whole;
        sums.partition_point(|sum| *sum < at)
    };
    (0..requests).map(draw).collect()
}
