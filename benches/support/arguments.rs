//! The command line of the bench.

use std::path::PathBuf;

/// What to run, and for how long.
#[derive(Clone, Debug)]
pub(crate) struct Arguments {
    /// A tenth of the work: shows that the bench works; its figures mean little.
    pub(crate) quick: bool,
    /// Ten thousand streams and a hundred thousand sessions, instead of the comparison.
    pub(crate) scale: bool,
    /// The figures that users ask of a gateway, instead of the comparison.
    pub(crate) figures: bool,
    /// Counts the cost of a request and compares it with `benches/budget.toml`, instead of the comparison.
    pub(crate) budget: bool,
    /// Writes `benches/budget.toml` instead of comparing with it.
    pub(crate) write_budget: bool,
    /// The file of the report, which is also printed.
    pub(crate) write: Option<PathBuf>,
    /// The `elida` binary to measure.
    pub(crate) elida: PathBuf,
    /// Only scenarios whose name contains this.
    pub(crate) only: String,
    /// This process is a child with a role: its name, and its arguments.
    pub(crate) role: Option<(String, Vec<String>)>,
    /// The command line as typed.
    pub(crate) line: String,
}

impl Arguments {
    /// Reads the arguments of this process; an unknown one ends it with a usage line.
    pub(crate) fn read() -> Self {
        let all: Vec<String> = std::env::args().skip(1).collect();
        let shown: Vec<&str> = all.iter().map(String::as_str).filter(|word| *word != "--bench").collect();
        let mut arguments = Self {
            quick: false,
            scale: false,
            figures: false,
            budget: false,
            write_budget: false,
            write: None,
            elida: PathBuf::from(env!("CARGO_BIN_EXE_elida")),
            only: String::new(),
            role: None,
            line: format!("cargo bench --bench gateway -- {}", shown.join(" ")),
        };
        let mut words = all.iter().cloned();
        while let Some(word) = words.next() {
            match word.as_str() {
                // Passed by cargo.
                "--bench" => {}
                "--quick" => arguments.quick = true,
                "--scale" => arguments.scale = true,
                "--figures" => arguments.figures = true,
                "--budget" => arguments.budget = true,
                "--write-budget" => (arguments.budget, arguments.write_budget) = (true, true),
                "--write" => arguments.write = words.next().map(PathBuf::from),
                "--elida" => arguments.elida = words.next().map(PathBuf::from).unwrap_or_default(),
                "--only" => arguments.only = words.next().unwrap_or_default(),
                "--role" => {
                    arguments.role = words.next().map(|role| (role, words.by_ref().collect()));
                }
                other => {
                    eprintln!(
                        "gateway: {other} is not known; --quick, --scale, --figures, --budget, --write-budget, --only NAME, --write FILE, --elida FILE"
                    );
                    std::process::exit(2);
                }
            }
        }
        arguments
    }

    /// The whole amount, or a tenth of it.
    pub(crate) fn amount(&self, whole: usize) -> usize {
        if self.quick { whole / 10 } else { whole }
    }
}
