//! The cost of Redis, the history and OpenTelemetry together, compared with none of them.

use std::io;

use super::arguments::Arguments;
use super::children::{self, Backends, Equipment, Proxy};
use super::load::Connection;
use super::report::Report;
use super::rounds;

/// The measured scenarios.
const SCENARIOS: [&str; 3] = ["small", "latency", "streams"];

/// Runs the scenarios with and without, and adds their tables; does nothing without a `redis-server`.
///
/// # Errors
/// A request or stream failed.
pub(crate) async fn compare(
    arguments: &Arguments,
    backends: Backends,
    report: &mut Report,
) -> io::Result<()> {
    let Some(redis) = children::redis() else {
        eprintln!("no redis-server: what Redis, history and OpenTelemetry cost is not measured");
        return Ok(());
    };
    let elida = |equipment| children::elida(&arguments.elida, backends, 500_000, equipment);
    let proxies = [elida(Equipment::Nothing), elida(Equipment::Full { redis: redis.address })];
    for scenario in rounds::scenarios(arguments) {
        if SCENARIOS.contains(&scenario.name) {
            eprintln!("{}, with and without Redis, history and OpenTelemetry …", scenario.name);
            let rows = scenario.run(backends, &proxies).await?;
            let title = format!("With Redis, history and OpenTelemetry, and without. {}", scenario.title);
            report.comparison(&scenario, &title, &proxies[0].name, &rows);
        }
    }
    let [_, full] = &proxies;
    let lost = losses(full).await?;
    report.table("What found no room on the way (ELIDA with)", &["counter", "lost"], &lost);
    Ok(())
}

/// The counters of dropped items, with their values.
async fn losses(elida: &Proxy) -> io::Result<Vec<Vec<String>>> {
    let control = elida.control.ok_or_else(|| io::Error::other("no control API"))?;
    let metrics = Connection::open(control).await?.get("/metrics").await?;
    let lost = metrics.lines().filter(|line| line.contains("dropped_total") && !line.starts_with('#'));
    Ok(lost.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect())
}
