//! Counts of instructions, cache misses and allocations by valgrind's callgrind. It simulates the processor, so that the
//! counts of the same work differ by less than a percent, whatever else the machine does.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::children::Launcher;

/// The caches of the simulated processor. Callgrind knows two levels; the second one is a core's L2 here, since what leaves
/// it is what a request pays for in a busy process.
const CACHES: [&str; 4] = ["--cache-sim=yes", "--I1=32768,8,64", "--D1=32768,8,64", "--LL=1048576,16,64"];

/// The functions through which Rust code allocates (`mimalloc`'s `GlobalAlloc`).
const ALLOCATORS: [&str; 3] = ["mi_malloc_aligned", "mi_zalloc_aligned", "mi_realloc_aligned"];

/// What callgrind has counted, in all threads of the process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// User instructions.
    pub(crate) instructions: f64,
    /// Misses of the first-level instruction cache.
    pub(crate) l1i_misses: f64,
    /// Misses of the second level: instructions, reads and writes.
    pub(crate) l2_misses: f64,
    /// Calls of the allocator that return memory.
    pub(crate) allocations: f64,
    /// Instructions by crate and, for ELIDA, by module.
    pub(crate) modules: BTreeMap<String, f64>,
}

impl Counts {
    /// These counts for each of `number` pieces of work.
    pub(crate) fn per(mut self, number: usize) -> Self {
        let number = number as f64;
        for count in
            [&mut self.instructions, &mut self.l1i_misses, &mut self.l2_misses, &mut self.allocations]
                .into_iter()
                .chain(self.modules.values_mut())
        {
            *count /= number;
        }
        self
    }

    /// What is left when the counts of other work are taken away.
    pub(crate) fn minus(mut self, other: &Self) -> Self {
        self.instructions -= other.instructions;
        self.l1i_misses -= other.l1i_misses;
        self.l2_misses -= other.l2_misses;
        self.allocations -= other.allocations;
        for (module, count) in &mut self.modules {
            *count -= other.modules.get(module).copied().unwrap_or_default();
        }
        self
    }
}

/// Runs programs under callgrind, which writes its counts to a folder.
pub(crate) struct Callgrind {
    folder: tempfile::TempDir,
}

impl Callgrind {
    /// Finds valgrind.
    ///
    /// # Errors
    /// It is not installed.
    pub(crate) fn new() -> io::Result<Self> {
        match Command::new("valgrind").arg("--version").stdout(Stdio::null()).status() {
            Ok(status) if status.success() => Ok(Self { folder: tempfile::tempdir()? }),
            _ => Err(io::Error::other("valgrind is not installed; on Debian: apt-get install valgrind")),
        }
    }

    /// The command line before a program's own. Nothing is counted until [`Callgrind::begin`].
    pub(crate) fn launcher(&self) -> Launcher {
        let file = format!("--callgrind-out-file={}/%p", self.folder.path().display());
        let fixed = ["valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no", &file];
        let prefix = fixed.iter().chain(&CACHES).map(|&word| word.to_owned()).collect();
        Launcher { prefix, threads: Some(1) }
    }

    /// Switches counting on: from here on a program is some fifty times slower.
    ///
    /// # Errors
    /// The process does not answer.
    pub(crate) fn begin(&self, pid: u32) -> io::Result<()> {
        tell(pid, &["instrumentation", "on"])
    }

    /// Sets all counts to zero.
    ///
    /// # Errors
    /// The process does not answer.
    pub(crate) fn zero(&self, pid: u32) -> io::Result<()> {
        tell(pid, &["zero"])
    }

    /// The counts since they were last zero; they are zero afterwards.
    ///
    /// # Errors
    /// The process does not answer, or its file cannot be read.
    pub(crate) fn take(&self, pid: u32) -> io::Result<Counts> {
        tell(pid, &["dump"])?;
        let number = |file: &PathBuf| file.extension()?.to_str()?.parse::<u32>().ok();
        let name = |file: &PathBuf| file.file_stem().is_some_and(|stem| stem == pid.to_string().as_str());
        let files = std::fs::read_dir(self.folder.path())?.filter_map(|entry| Some(entry.ok()?.path()));
        let newest = files.filter(|file| name(file) && number(file).is_some()).max_by_key(number);
        read(&newest.ok_or_else(|| io::Error::other("callgrind has written nothing"))?)
    }
}

/// Sends a command to a process under valgrind.
fn tell(pid: u32, words: &[&str]) -> io::Result<()> {
    let mut command = Command::new("vgdb");
    // Its pipes are named after variables of the environment, which the process does not have.
    command.env_clear().args(["--wait=10".to_owned(), format!("--pid={pid}")]).args(words);
    let output = command.output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned())),
    }
}

/// Reads a file in callgrind's format (valgrind manual, "Callgrind Format Specification").
fn read(file: &Path) -> io::Result<Counts> {
    let text = std::fs::read_to_string(file)?;
    let mut counts = Counts::default();
    let mut names: HashMap<&str, &str> = HashMap::new();
    let (mut function, mut called, mut is_call) = ("", "", false);
    let mut events: Vec<&str> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("events: ") {
            events = rest.split(' ').collect();
        } else if let Some(rest) = line.strip_prefix("totals: ") {
            for (event, count) in events.iter().zip(rest.split(' ')) {
                let count: f64 = count.parse().map_err(io::Error::other)?;
                match *event {
                    "Ir" => counts.instructions = count,
                    "I1mr" => counts.l1i_misses = count,
                    "ILmr" | "DLmr" | "DLmw" => counts.l2_misses += count,
                    _ => {}
                }
            }
        } else if let Some(rest) = line.strip_prefix("fn=") {
            function = full_name(&mut names, rest);
        } else if let Some(rest) = line.strip_prefix("cfn=") {
            called = full_name(&mut names, rest);
        } else if let Some(rest) = line.strip_prefix("calls=") {
            is_call = true;
            if ALLOCATORS.contains(&called) && !function.starts_with("mi_") {
                counts.allocations += rest.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0.0);
            }
        } else if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) {
            // The line after `calls=` is the cost of the callee, whose own lines contain it as well.
            if !std::mem::take(&mut is_call) {
                let own = line.split(' ').nth(1).and_then(|count| count.parse().ok()).unwrap_or(0.0);
                *counts.modules.entry(module(function)).or_default() += own;
            }
        }
    }
    Ok(counts)
}

/// A name may be compressed: `(number) name` the first time, `(number)` later.
fn full_name<'a>(names: &mut HashMap<&'a str, &'a str>, written: &'a str) -> &'a str {
    match written.split_once(' ') {
        Some((number, name)) if number.starts_with('(') => {
            let name = name.split('\'').next().unwrap_or(name);
            names.insert(number, name);
            name
        }
        _ => names.get(written).copied().unwrap_or(written),
    }
}

/// The crate of a function, and the module below ELIDA's; functions of C are `c`.
fn module(function: &str) -> String {
    let start = function.trim_start_matches(['<', '&', '*', '_', ' ']);
    let path: Vec<&str> = start.split("::").collect();
    let word = |part: &str| -> String {
        part.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    match path.as_slice() {
        [first, second, ..] if word(first) == "elida" => format!("elida::{}", word(second)),
        [first, _, ..] if !word(first).is_empty() => word(first),
        _ => "c".to_owned(),
    }
}
