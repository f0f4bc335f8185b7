//! The cost of ELIDA: the real program, a bare Pingora proxy of the same build, and a direct connection,
//! in turn and in rounds, with the same backends. nginx, HAProxy and Envoy are measured
//! as well if they are installed. Everything is on loopback and bounded in count and time, and needs only cargo.
//!
//! `cargo bench --bench gateway -- [--quick] [--scale] [--figures] [--budget | --write-budget] [--only NAME] [--write FILE] [--elida FILE]`
#![expect(clippy::expect_used, reason = "a bench may panic: then there is no number")]

mod support;

use std::io;

use support::arguments::Arguments;
use support::children::{self, Equipment, Proxy};
use support::report::Report;
use support::{budget, equipment, figures, others, roles, rounds, scale};

/// The allocator of the real program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const INTRODUCTION: &str = "Written by `just bench`; no number here was written by hand. Each figure is the middle of \
    five rounds; in each round the targets take turns, and ratios and differences are taken within a round. CPU is \
    user and system time of the proxy's process, from `/proc/PID/stat`. ELIDA runs with its default configuration: \
    access log (JSON, read from a pipe), usage tap, metrics, sessions by `X-Session-ID`. It and the bare proxy have a \
    thread per core. \"Added\" is the difference to a direct connection. Backends, load generator and proxy share the \
    machine's cores.";

fn main() -> io::Result<()> {
    let arguments = Arguments::read();
    if let Some((role, arguments)) = &arguments.role {
        roles::play(role, arguments);
        return Ok(());
    }
    // One thread: the load generator leaves the cores to the programs under test.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if arguments.budget {
        return runtime.block_on(budget::run(&arguments));
    }
    let report = runtime.block_on(async {
        match (arguments.scale, arguments.figures) {
            (true, _) => scale::run(&arguments).await,
            (_, true) => figures::run(&arguments).await,
            _ => compare(&arguments).await,
        }
    })?;
    let text = report.finish(&arguments);
    println!("{text}");
    match &arguments.write {
        Some(file) => std::fs::write(file, text),
        None => Ok(()),
    }
}

/// All scenarios, then memory.
async fn compare(arguments: &Arguments) -> io::Result<Report> {
    let mut report = Report::new("Benchmarks", INTRODUCTION);
    let (_running, backends) = children::backends();
    let elida = || children::elida(&arguments.elida, backends, 500_000, Equipment::Default);
    let mut proxies = vec![children::bare(backends), elida()];
    proxies.extend(others::installed(backends));
    for scenario in rounds::scenarios(arguments) {
        if scenario.name.contains(&arguments.only) {
            eprintln!("{} …", scenario.name);
            let rows = scenario.run(backends, &proxies).await?;
            report.comparison(&scenario, scenario.title, &proxies[0].name, &rows);
        }
    }
    drop(proxies);
    if "equipment".contains(&arguments.only) {
        equipment::compare(arguments, backends, &mut report).await?;
    }
    if "memory".contains(&arguments.only) {
        eprintln!("memory …");
        memory(arguments, backends, &mut report).await?;
    }
    Ok(report)
}

/// Memory, each in a new process.
async fn memory(arguments: &Arguments, backends: children::Backends, report: &mut Report) -> io::Result<()> {
    let elida = || children::elida(&arguments.elida, backends, 500_000, Equipment::Default);
    let fresh = || [children::bare(backends), elida()];
    let (streams, sessions) = (arguments.amount(1000), arguments.amount(20_000));
    let mut lines: Vec<Vec<String>> = Vec::new();
    let mut base = None;
    for proxy in fresh() {
        warm(&proxy).await?;
        let bytes = rounds::memory_per_stream(&proxy, streams).await?;
        let ratio = *base.get_or_insert(bytes);
        lines.push(vec![
            format!("an open stream ({streams} of them), {}", proxy.name),
            format!("{bytes:.0}"),
            format!("{:.2}", bytes / ratio),
        ]);
    }
    let [_, elida] = fresh();
    warm(&elida).await?;
    let bytes = rounds::memory_per_session(&elida, "memory", sessions).await?;
    lines.push(vec![
        format!("a session with one request ({sessions} of them), ELIDA"),
        format!("{bytes:.0}"),
        "–".to_owned(),
    ]);
    report.table("Memory", &["for", "bytes", "ratio to bare"], &lines);
    Ok(())
}

/// Warms up threads, pools and buffers.
async fn warm(proxy: &Proxy) -> io::Result<()> {
    rounds::memory_per_session(proxy, "warm", 500).await?;
    rounds::memory_per_stream(proxy, 20).await.map(drop)
}
