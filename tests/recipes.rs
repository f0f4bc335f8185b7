//! The recipes of the justfile and the container's file say what the pages say of them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Name, parameters and dependencies of each recipe, and its commands.
fn recipes() -> Vec<(String, String, Vec<String>)> {
    let text = text("justfile");
    let mut recipes: Vec<(String, String, Vec<String>)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.contains(":=")) {
        if let Some(command) = line.strip_prefix("    ") {
            recipes.last_mut().unwrap().2.push(command.to_owned());
        } else if let Some((head, dependencies)) = line.rsplit_once(':') {
            let name = head.split(' ').next().unwrap().to_owned();
            recipes.push((name, dependencies.trim().to_owned(), Vec::new()));
        }
    }
    recipes
}

#[test]
fn every_task_has_its_recipe() {
    let recipes = recipes();
    let names: BTreeSet<&str> = recipes.iter().map(|(name, ..)| name.as_str()).collect();
    for name in [
        "audit",
        "build",
        "ci",
        "clean",
        "deps-check",
        "dev",
        "down",
        "fmt",
        "image",
        "install",
        "lint",
        "logs",
        "quality",
        "run",
        "setup",
        "status",
        "test",
        "test-coverage",
        "test-integration",
        "test-one",
        "test-trace",
        "test-unit",
        "test-watch",
        "type-check",
        "up",
    ] {
        assert!(names.contains(name), "there is no recipe {name}");
    }
}

#[test]
fn every_recipe_names_only_what_exists() {
    let recipes = recipes();
    for (name, dependencies, commands) in &recipes {
        assert!(!dependencies.is_empty() || !commands.is_empty(), "{name} does nothing");
        // `&&` divides what runs before the recipe from what runs after it.
        for dependency in dependencies.split_whitespace().filter(|word| *word != "&&") {
            assert!(recipes.iter().any(|(known, ..)| known == dependency), "{name} needs {dependency}");
        }
        for word in commands.iter().flat_map(|command| command.split([' ', '='])) {
            let is_file = ["conf/", "docker/", ".ci/"].iter().any(|folder| word.starts_with(folder));
            let is_made = word == "conf/schema.json";
            assert!(
                !is_file || is_made || Path::new(env!("CARGO_MANIFEST_DIR")).join(word).exists(),
                "{name}: {word}"
            );
        }
    }
}

#[test]
fn the_image_is_built_with_the_oldest_supported_compiler_and_looks_after_itself() {
    let image = text("docker/Dockerfile");
    let manifest = text("Cargo.toml");
    let version =
        manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    assert!(image.contains(&format!("ARG RUST_VERSION={version}\nFROM rust:${{RUST_VERSION}}-")), "{image}");
    let health = "HEALTHCHECK --interval=30s --timeout=3s --start-period=5s --retries=3 CMD [\"elida\", \"healthcheck\"]";
    assert!(image.contains(health), "{image}");
    assert!(image.contains("\nUSER elida\n") && image.contains("\nSTOPSIGNAL SIGTERM\n"), "{image}");
}

/// A folder with the justfile, in which programs and scripts only write down how they are called.
struct Workshop(tempfile::TempDir);

impl Workshop {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for made in [".ci", "conf", "docs", "docker/fleet", "target/release", "programs", "tmp"] {
            fs::create_dir_all(at(made)).unwrap();
        }
        fs::write(at("justfile"), text("justfile")).unwrap();
        fs::write(at("target/release/elida"), "built").unwrap();
        let log = at("calls");
        for program in [
            "programs/cargo",
            "programs/docker",
            ".ci/run",
            ".ci/isolated",
            ".ci/setup",
            "docker/fleet/run.sh",
        ] {
            let name = program.strip_prefix("programs/").unwrap_or(program);
            fs::write(at(program), format!("#!/bin/sh\necho \"{name}${{*:+ }}$*\" >> '{}'\n", log.display()))
                .unwrap();
            fs::set_permissions(at(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self(folder)
    }

    /// Runs a recipe and returns the calls that it made.
    fn calls(&self, recipe: &[&str]) -> String {
        let folder = self.0.path();
        let path = std::env::var("PATH").unwrap();
        let done = std::process::Command::new("just")
            .args(recipe)
            .current_dir(folder)
            .env("PATH", format!("{}:{path}", folder.join("programs").display()))
            .env("JUST_TEMPDIR", folder.join("tmp"))
            .output()
            .expect("just (.ci/setup installs it)");
        assert!(done.status.success(), "{recipe:?}: {done:?}");
        let calls = fs::read_to_string(folder.join("calls")).unwrap_or_default();
        let _ = fs::remove_file(folder.join("calls"));
        calls
    }
}

#[test]
fn every_recipe_makes_its_calls() {
    let workshop = Workshop::new();
    let lint = "cargo fmt --check\ncargo clippy --quiet --all-targets -- --deny warnings\n";
    let types = "cargo check --quiet --all-targets --all-features\n";
    let lock = "cargo metadata --locked --format-version 1\n";
    for (recipe, calls) in [
        (&["build"][..], "cargo build --release\n".to_owned()),
        (&["run"], "cargo run --release --quiet -- run --config conf/elida.yaml\n".to_owned()),
        (&["dev", "my.yaml"], "cargo run --quiet -- run --config my.yaml --log-level debug\n".to_owned()),
        (&["demo", "--listen", "x"], "cargo run --quiet -- demo --listen x\n".to_owned()),
        (&["check"], "cargo run --quiet -- check --config conf/elida.yaml\n".to_owned()),
        (&["fleet"], "cargo build --quiet --bin elida\ndocker/fleet/run.sh target/debug/elida\n".to_owned()),
        (&["fmt"], "cargo fmt\n".to_owned()),
        (&["lint"], lint.to_owned()),
        (&["type-check"], types.to_owned()),
        (&["deps-check"], lock.to_owned()),
        (&["quality"], format!("{lint}{types}{lock}")),
        (&["audit"], "cargo audit --version\ncargo audit\n".to_owned()),
        (&["test"], format!("{lint}cargo nextest run\ncargo bench --quiet --bench gateway -- --budget\n")),
        (&["test-one", "name"], "cargo nextest run name\n".to_owned()),
        (&["test-trace", "name"], "cargo nextest run --no-capture name\n".to_owned()),
        (&["test-unit"], "cargo nextest run --lib\n".to_owned()),
        (&["test-integration"], "cargo nextest run --test *\n".to_owned()),
        (&["test-coverage"], "cargo llvm-cov nextest --html\n".to_owned()),
        (&["test-watch", "name"], "cargo watch --version\ncargo watch --exec nextest run name\n".to_owned()),
        (
            &["test-isolated", "--lib"],
            "cargo nextest run --no-run\n.ci/isolated cargo nextest run --lib\n".to_owned(),
        ),
        (&["status"], "cargo run --quiet -- healthcheck --control http://127.0.0.1:9090\n".to_owned()),
        (&["ci"], ".ci/run\n".to_owned()),
        (&["setup"], ".ci/setup --tests\n".to_owned()),
        (&["install"], "cargo install --path . --locked\n".to_owned()),
        (&["image"], "docker build -f docker/Dockerfile -t elida .\n".to_owned()),
        (&["up"], "docker compose -f docker/compose.yaml up --build --detach\n".to_owned()),
        (&["logs", "redis"], "docker compose -f docker/compose.yaml logs --follow redis\n".to_owned()),
        (&["down"], "docker compose -f docker/compose.yaml down\n".to_owned()),
        (&["clean"], "cargo clean\n".to_owned()),
    ] {
        assert_eq!(workshop.calls(recipe), calls, "just {}", recipe.join(" "));
        let is_built = workshop.0.path().join("bin/elida").exists();
        assert!(recipe != ["build"] || is_built, "the binary is in bin/elida");
        assert!(recipe != ["clean"] || !is_built, "the binary is gone");
    }
}
