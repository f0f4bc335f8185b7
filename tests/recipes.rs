//! The recipes of the justfile and the container's file say what the pages say of them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
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
        "test",
        "test-coverage",
        "test-integration",
        "test-one",
        "test-trace",
        "test-unit",
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
        for dependency in dependencies.split_whitespace() {
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
