//! The scenarios: each one runs against every target in turn, in rounds, so that other load on the machine
//! affects all of them alike.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::arguments::Arguments;
use super::children::{Backends, Proxy};
use super::load;
use super::process;
use super::stats::{median, quantile};
use super::streams::{self, Pace};

/// The result of one run of a scenario against one target.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sample {
    /// CPU time of the proxy per request or event, in microseconds.
    pub(crate) cpu: f64,
    /// Latency of an answer or event, in microseconds.
    pub(crate) p50: f64,
    /// In microseconds as well.
    pub(crate) p99: f64,
    /// Requests or events per second.
    pub(crate) rate: f64,
}

/// All samples of one target, in the order of the rounds.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) samples: Vec<Sample>,
}

impl Row {
    /// The median of one figure.
    pub(crate) fn median(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(figure))
    }

    /// The median of `with`, applied to this target's sample and another's of the same round.
    pub(crate) fn beside(&self, other: &Row, with: impl Fn(&Sample, &Sample) -> f64) -> f64 {
        median(self.samples.iter().zip(&other.samples).map(|(mine, theirs)| with(mine, theirs)))
    }
}

/// A comparison.
pub(crate) struct Scenario {
    /// The name for `--only`.
    pub(crate) name: &'static str,
    /// The description in the report.
    pub(crate) title: &'static str,
    /// The unit of CPU time and rate.
    pub(crate) unit: &'static str,
    rounds: usize,
    work: Work,
}

enum Work {
    /// Requests with a text of this many bytes over this many connections, this many each, as fast as they are
    /// answered or at this interval.
    Requests { text: usize, connections: usize, each: usize, every: Option<Duration> },
    /// Concurrent streams.
    Streams { count: usize, pace: Pace },
}

/// All scenarios.
pub(crate) fn scenarios(arguments: &Arguments) -> Vec<Scenario> {
    let amount = |whole| arguments.amount(whole);
    let rounds = if arguments.quick { 1 } else { 5 };
    let pace = Pace { every: Duration::from_millis(5), events: amount(800) };
    let every = Some(Duration::from_millis(10));
    vec![
        Scenario {
            name: "small",
            title: "Small JSON, 32 connections kept alive, as fast as they are answered",
            unit: "request",
            rounds,
            work: Work::Requests { text: 120, connections: 32, each: amount(800), every: None },
        },
        Scenario {
            name: "large",
            title: "Request bodies of 200 KB, 8 connections kept alive, as fast as they are answered",
            unit: "request",
            rounds,
            work: Work::Requests { text: 200_000, connections: 8, each: amount(300), every: None },
        },
        Scenario {
            name: "latency",
            title: "Small JSON, 8 connections kept alive, one request each 10 ms on each",
            unit: "request",
            rounds,
            work: Work::Requests { text: 120, connections: 8, each: amount(300), every },
        },
        Scenario {
            name: "streams",
            title: "Paced streams, 200 at once, an event each 5 ms on each",
            unit: "event",
            rounds,
            work: Work::Streams { count: 200, pace },
        },
    ]
}

impl Scenario {
    /// Runs it against all targets; the first row is the direct connection.
    ///
    /// # Errors
    /// A request failed: then the figures would mean nothing.
    pub(crate) async fn run(&self, backends: Backends, proxies: &[Proxy]) -> io::Result<Vec<Row>> {
        let direct = Row { name: "direct".to_owned(), samples: Vec::new() };
        let mut rows = vec![direct];
        rows.extend(proxies.iter().map(|proxy| Row { name: proxy.name.clone(), samples: Vec::new() }));
        for round in 0..self.rounds {
            for turn in 0..rows.len() {
                // Each target is the first once.
                let target = (turn + round) % rows.len();
                let proxy = target.checked_sub(1).map(|index| &proxies[index]);
                let address = proxy.map_or_else(|| self.backend(backends), |proxy| proxy.address);
                let sample = self.sample(address, proxy).await.map_err(|error| {
                    io::Error::other(format!("{}: {}: {error}", self.name, rows[target].name))
                })?;
                rows[target].samples.push(sample);
            }
        }
        Ok(rows)
    }

    fn backend(&self, backends: Backends) -> SocketAddr {
        match self.work {
            Work::Requests { .. } => backends.demo,
            Work::Streams { .. } => backends.paced,
        }
    }

    async fn sample(&self, address: SocketAddr, proxy: Option<&Proxy>) -> io::Result<Sample> {
        let used = || proxy.map_or(Duration::ZERO, |proxy| process::cpu(proxy.pid()));
        let (before, begun) = (used(), Instant::now());
        let mut times = self.work.run(address).await?;
        let (used, took) = (used().saturating_sub(before), begun.elapsed());
        let count = times.len() as f64;
        Ok(Sample {
            cpu: used.as_secs_f64() * 1e6 / count,
            p50: quantile(&mut times, 0.5),
            p99: quantile(&mut times, 0.99),
            rate: count / took.as_secs_f64(),
        })
    }
}

impl Work {
    async fn run(&self, address: SocketAddr) -> io::Result<Vec<f64>> {
        match *self {
            Self::Requests { text, connections, each, every } => {
                // The directive keeps the answer small: the provider echoes other text.
                let text = format!("[[words 12]] {}", "lorem ipsum dolor ".repeat(text / 18));
                let body = load::chat(&text, false);
                let make = |index| {
                    load::request("/v1/chat/completions", &format!("bench-{index}"), "sk-bench", &body)
                };
                load::run(address, connections, each, every, make).await
            }
            Self::Streams { count, pace } => {
                let streams = streams::open_all(address, count, count, pace).await?;
                streams::finish_all(streams, pace).await
            }
        }
    }
}

/// How much memory a proxy needs for each of `count` open, silent streams, in bytes.
///
/// # Errors
/// A stream could not be opened.
pub(crate) async fn memory_per_stream(proxy: &Proxy, count: usize) -> io::Result<f64> {
    let pace = Pace { every: Duration::from_secs(3600), events: 2 };
    let before = process::memory(proxy.pid());
    let streams = streams::open_all(proxy.address, count, 32, pace).await?;
    let after = process::memory(proxy.pid());
    drop(streams);
    Ok((after as f64 - before as f64) / count as f64)
}

/// How much memory each of `count` new sessions needs, in bytes: one small request each, with a hundred
/// sessions per principal.
///
/// # Errors
/// A request failed.
pub(crate) async fn memory_per_session(proxy: &Proxy, prefix: &str, count: usize) -> io::Result<f64> {
    const CONNECTIONS: usize = 16;
    let before = process::memory(proxy.pid());
    let body = load::chat("[[words 2]]", false);
    let mut tasks = tokio::task::JoinSet::new();
    for lane in 0..CONNECTIONS {
        let (address, body, prefix) = (proxy.address, body.clone(), prefix.to_owned());
        tasks.spawn(async move {
            let mut connection = load::Connection::open(address).await?;
            for index in (lane..count).step_by(CONNECTIONS) {
                let session = format!("{prefix}-{index:08}-0123-4567-89ab-cdef01234567");
                let principal = format!("sk-{prefix}-{}", index / 100);
                let request = load::request("/v1/chat/completions", &session, &principal, &body);
                connection.exchange(&request).await?;
            }
            Ok::<_, io::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(io::Error::other)??;
    }
    Ok((process::memory(proxy.pid()) as f64 - before as f64) / count as f64)
}
