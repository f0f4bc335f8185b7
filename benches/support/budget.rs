//! What a request, an event of a stream and a new session may cost, counted and not timed: `benches/budget.toml` has the
//! numbers, and a count that exceeds its number fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::arguments::Arguments;
use super::callgrind::{Callgrind, Counts};
use super::children::{self, Equipment, Launcher, Proxy};
use super::load::{self, Connection};
use super::rounds;
use super::streams::{self, Pace};
use super::syscalls::Strace;

/// Requests before counting: threads, pools and sessions are there, and the simulated caches are warm.
const WARM: usize = 150;
/// Requests that are counted.
const REQUESTS: usize = 1000;
/// Sessions that are begun and counted.
const SESSIONS: usize = 200;
/// Events of the short stream; the long one has [`EVENTS`] more.
const FEW: usize = 20;
/// Events that are counted.
const EVENTS: usize = 200;
/// Streams that are open when the memory of as many more is measured.
const STREAMS: usize = 250;
/// Slow enough that each event is a read of its own, also in a simulated processor.
const PACE: Duration = Duration::from_millis(8);

/// The cost of one piece of work.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cost {
    instructions: u64,
    allocations: u64,
    l1i_misses: u64,
    l2_misses: u64,
}

/// The costs of a program.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Costs {
    /// Resident bytes of an open stream that is silent.
    stream_bytes: u64,
    /// A small JSON request and its answer over kept connections, in a session that exists.
    request: Cost,
    /// What is added when the request begins a session.
    new_session: Cost,
    /// An event of a stream.
    event: Cost,
    /// System calls of a request that read, write or wait for a socket, by name.
    syscalls: BTreeMap<String, f64>,
    /// Instructions of a request by crate, and by module in ELIDA; the larger ones.
    modules: BTreeMap<String, u64>,
}

/// `benches/budget.toml`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    /// How much a count may exceed its number, as a part of it.
    tolerance: f64,
    elida: Costs,
    /// What a caller's key, two limits and a budget of two levels add to a request.
    #[serde(default)]
    governed: Cost,
    /// What the presets `standard` and `coding-agent` add to a request.
    #[serde(default)]
    judged: Cost,
    /// And to an event of a stream.
    #[serde(default)]
    judged_event: Cost,
    /// For comparison, and to tell what another machine adds to both.
    bare_pingora: Costs,
}

/// Measures both programs, prints the counts next to the budget, and then either rewrites the budget or checks it.
///
/// # Errors
/// A program could not be measured, or exceeds the budget.
pub(crate) async fn run(arguments: &Arguments) -> io::Result<()> {
    let file = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/budget.toml"));
    let old: Budget = std::fs::read_to_string(&file)
        .ok()
        .map(|text| toml::from_str(&text).map_err(io::Error::other))
        .transpose()?
        .unwrap_or(Budget { tolerance: 0.02, ..Budget::default() });
    let (_running, backends) = children::backends();
    let elida = |launcher: &Launcher| {
        children::elida_under(launcher, &arguments.elida, backends, 500_000, Equipment::Default)
    };
    let bare = |launcher: &Launcher| children::bare_under(launcher, backends);
    let governed = |launcher: &Launcher| {
        children::elida_under(launcher, &arguments.elida, backends, 500_000, Equipment::Governed)
    };
    let (elida, [plain, plain_event]) = measure(elida).await?;
    let governed = cost(&measure_governed(governed).await?.minus(&plain));
    let judged = |launcher: &Launcher| {
        children::elida_under(launcher, &arguments.elida, backends, 500_000, Equipment::Judged)
    };
    let (judged, judged_event) = measure_judged(judged).await?;
    let (judged, judged_event) = (cost(&judged.minus(&plain)), cost(&judged_event.minus(&plain_event)));
    let (bare_pingora, _) = measure(bare).await?;
    let new = Budget { tolerance: old.tolerance, elida, governed, judged, judged_event, bare_pingora };
    let (text, exceeded) = compare(&old, &new);
    println!("{text}");
    if arguments.write_budget {
        let written = toml::to_string(&new).map_err(io::Error::other)?;
        return std::fs::write(&file, format!("{HEAD}{written}"));
    }
    match exceeded.is_empty() {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "over the budget of {}: {}\nMake it cheaper, or run `just budget --write-budget` and say in the commit why it costs more.",
            file.display(),
            exceeded.join(", ")
        ))),
    }
}

const HEAD: &str = "\
# What ELIDA may cost, counted by callgrind (user instructions, simulated caches) and strace; `just budget` checks it, and
# `just budget --write-budget` writes this file. A commit that raises a number says why.

";

/// The request that is counted.
fn request(session: &str, key: &str) -> Vec<u8> {
    let text = "[[words 12]] what is a session border controller good for, and who pays for it?";
    load::request("/v1/chat/completions", session, key, &load::chat(text, false))
}

/// Counts a request over a kept connection, in a session that exists.
async fn count_request(
    callgrind: &Callgrind,
    pid: u32,
    connection: &mut Connection,
    same: &[u8],
) -> io::Result<Counts> {
    for at in 0..2 * WARM {
        if at == WARM {
            callgrind.begin(pid)?;
        }
        connection.exchange(same).await?;
    }
    callgrind.zero(pid)?;
    for _ in 0..REQUESTS {
        connection.exchange(same).await?;
    }
    Ok(callgrind.take(pid)?.per(REQUESTS))
}

/// Counts a request of a caller with a key, limits and budgets.
async fn measure_governed(start: impl Fn(&Launcher) -> Proxy) -> io::Result<Counts> {
    let callgrind = Callgrind::new()?;
    let proxy = start(&callgrind.launcher());
    eprintln!("{} …", proxy.name);
    let mut connection = Connection::open(proxy.address).await?;
    count_request(&callgrind, proxy.pid(), &mut connection, &request("budget", children::KEY)).await
}

/// Counts a request and an event that rules judge.
async fn measure_judged(start: impl Fn(&Launcher) -> Proxy) -> io::Result<(Counts, Counts)> {
    let callgrind = Callgrind::new()?;
    let proxy = start(&callgrind.launcher());
    eprintln!("{} …", proxy.name);
    let mut connection = Connection::open(proxy.address).await?;
    let same = request("budget", "sk-budget");
    let per_request = count_request(&callgrind, proxy.pid(), &mut connection, &same).await?;
    Ok((per_request, count_event(&callgrind, &proxy).await?))
}

/// Counts an event of a stream.
async fn count_event(callgrind: &Callgrind, proxy: &Proxy) -> io::Result<Counts> {
    let mut of_streams = Vec::new();
    for events in [FEW, FEW, FEW + EVENTS] {
        let pace = Pace { every: PACE, events };
        let stream = streams::open_all(proxy.address, 1, 1, pace).await?;
        streams::finish_all(stream, pace).await?;
        of_streams.push(callgrind.take(proxy.pid())?);
    }
    // The first stream has warmed the way.
    let [_, short, long] = <[Counts; 3]>::try_from(of_streams).expect("three streams");
    Ok(long.minus(&short).per(EVENTS))
}

/// Counts one program: under callgrind, then under strace. Returns what a request and an event cost beside all costs.
async fn measure(start: impl Fn(&Launcher) -> Proxy) -> io::Result<(Costs, [Counts; 2])> {
    let callgrind = Callgrind::new()?;
    let proxy = start(&callgrind.launcher());
    eprintln!("{} …", proxy.name);
    let pid = proxy.pid();
    let mut connection = Connection::open(proxy.address).await?;
    let same = request("budget", "sk-budget");
    let per_request = count_request(&callgrind, pid, &mut connection, &same).await?;
    for number in 0..SESSIONS {
        connection.exchange(&request(&format!("budget-{number}"), "sk-budget")).await?;
    }
    let per_session = callgrind.take(pid)?.per(SESSIONS).minus(&per_request);
    let per_event = count_event(&callgrind, &proxy).await?;
    drop(proxy);
    let single = Launcher { threads: Some(1), ..Launcher::default() };
    let costs = Costs {
        modules: largest(&per_request),
        request: cost(&per_request),
        new_session: cost(&per_session),
        event: cost(&per_event),
        stream_bytes: stream_bytes(&start(&single)).await?,
        syscalls: syscalls(&start(&single), &same).await?,
    };
    Ok((costs, [per_request, per_event]))
}

/// The memory of an open stream beside others, since the first ones also fill pages of the allocator that others share.
async fn stream_bytes(proxy: &Proxy) -> io::Result<u64> {
    let pace = Pace { every: Duration::from_secs(3600), events: 2 };
    let _first = streams::open_all(proxy.address, STREAMS, 1, pace).await?;
    Ok(rounds::memory_per_stream(proxy, STREAMS).await?.max(0.0).round() as u64)
}

fn cost(counts: &Counts) -> Cost {
    let whole = |count: f64| count.max(0.0).round() as u64;
    Cost {
        instructions: whole(counts.instructions),
        allocations: whole(counts.allocations),
        l1i_misses: whole(counts.l1i_misses),
        l2_misses: whole(counts.l2_misses),
    }
}

/// The modules that make at least half a percent.
fn largest(counts: &Counts) -> BTreeMap<String, u64> {
    let large = counts.modules.iter().filter(|(_, own)| **own > counts.instructions / 200.0);
    large.map(|(module, own)| (module.clone(), own.round() as u64)).collect()
}

/// The system calls of a request; those of timers, logs and other threads are less than one in four requests.
async fn syscalls(proxy: &Proxy, request: &[u8]) -> io::Result<BTreeMap<String, f64>> {
    let mut connection = Connection::open(proxy.address).await?;
    for _ in 0..WARM {
        connection.exchange(request).await?;
    }
    let strace = match Strace::attach(proxy.pid()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            eprintln!("System calls are not counted here: {error}");
            return Ok(BTreeMap::new());
        }
        strace => strace?,
    };
    for _ in 0..REQUESTS {
        connection.exchange(request).await?;
    }
    let calls = strace.finish()?.into_iter().map(|(name, calls)| {
        let each: f64 = calls / REQUESTS as f64;
        (name, (each * 4.0).round() / 4.0)
    });
    Ok(calls.filter(|(_, each)| *each > 0.0).collect())
}

/// How much the memory of a stream may differ beyond the tolerance: the allocator takes pages from the kernel in steps.
const MEMORY_CHANCE: f64 = 1500.0;

/// A count of a piece of work: its name, its value, and how much it may differ beyond the tolerance.
type Count = (&'static str, fn(&Cost) -> u64, f64);

/// A piece of work: its name and its cost.
type Work = (&'static str, fn(&Costs) -> &Cost);

/// The counts of a piece of work. A cache miss more or less is chance; so is an allocation, when a buffer grows now and then.
const COUNTS: [Count; 4] = [
    ("instructions", |cost| cost.instructions, 0.0),
    ("allocations", |cost| cost.allocations, 1.0),
    ("L1i misses", |cost| cost.l1i_misses, 100.0),
    ("L2 misses", |cost| cost.l2_misses, 100.0),
];

/// How much dearer this machine is than the one that wrote the budget, as a part of it: its C library and the features of its
/// processor choose other functions to copy and search memory, for the bare proxy as for ELIDA.
fn dearer(bare: f64, bare_budget: f64) -> f64 {
    if bare_budget < 1000.0 { 0.0 } else { (bare / bare_budget - 1.0).clamp(0.0, 0.1) }
}

/// A table of all counts, and those that exceed the budget.
fn compare(old: &Budget, new: &Budget) -> (String, Vec<String>) {
    let mut exceeded = Vec::new();
    let mut text = format!("{:<28}{:>12}{:>12}{:>14}\n", "per", "counted", "budget", "bare Pingora");
    let mut line = |name: String, [new, old, bare]: [f64; 3], room: f64| {
        let _ = writeln!(text, "{name:<28}{new:>12}{old:>12}{bare:>14}");
        if new > old + room {
            exceeded.push(format!("{name} {new} instead of {old}"));
        }
    };
    let works: [Work; 3] = [
        ("request", |costs| &costs.request),
        ("new session", |costs| &costs.new_session),
        ("event", |costs| &costs.event),
    ];
    for (work, of) in works {
        for (name, count, chance) in COUNTS {
            let [counted, budget, bare, bare_budget] =
                [&new.elida, &old.elida, &new.bare_pingora, &old.bare_pingora]
                    .map(|costs| count(of(costs)) as f64);
            let room = chance + budget * (old.tolerance + dearer(bare, bare_budget));
            line(format!("{work}: {name}"), [counted, budget, bare], room);
        }
    }
    let added = [
        ("governed", &new.governed, &old.governed),
        ("judged", &new.judged, &old.judged),
        ("judged event", &new.judged_event, &old.judged_event),
    ];
    for (work, new, of_budget) in added {
        for (name, count, chance) in COUNTS {
            let [counted, budget] = [new, of_budget].map(|cost| count(cost) as f64);
            // A difference, and what is spent is written each second: a slower machine does that more often per request.
            let chance = chance + budget * 2.0 * old.tolerance;
            // What the file has no number for yet is only shown.
            let is_new = of_budget.instructions == 0;
            let room = if is_new { f64::INFINITY } else { chance + budget * old.tolerance };
            line(format!("{work}: {name}"), [counted, budget, 0.0], room);
        }
    }
    let bytes = [&new.elida, &old.elida, &new.bare_pingora].map(|costs| costs.stream_bytes as f64);
    line("stream: resident bytes".to_owned(), bytes, MEMORY_CHANCE + bytes[1] * old.tolerance);
    let names = new.elida.syscalls.keys().chain(new.bare_pingora.syscalls.keys());
    for name in names.collect::<BTreeSet<_>>() {
        let counts = [&new.elida, &old.elida, &new.bare_pingora]
            .map(|costs| costs.syscalls.get(name).copied().unwrap_or_default());
        line(format!("request: {name}"), counts, 0.25);
    }
    let names = new.elida.modules.keys().chain(old.elida.modules.keys());
    for name in names.collect::<BTreeSet<_>>() {
        let [new, old, bare] = [&new.elida, &old.elida, &new.bare_pingora]
            .map(|costs| costs.modules.get(name).copied().unwrap_or_default());
        let _ = writeln!(text, "  in {name:<23}{new:>12}{old:>12}{bare:>14}");
    }
    (text, exceeded)
}
