//! Tests and demo touch nothing outside temporary folders of their own. `just test-isolated` runs the whole suite so.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn isolated(command: &Path, arguments: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/isolated");
    let mut isolated = Command::new(script);
    // The runner's own variables would make the inner run report to it.
    let runner = std::env::vars_os().map(|(name, _)| name);
    for name in runner.filter(|name| name.to_string_lossy().starts_with("NEXTEST")) {
        isolated.env_remove(name);
    }
    isolated.arg(command).args(arguments).output().expect("bash")
}

fn told(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

#[test]
fn readme_and_demo_pass_where_all_but_their_own_folder_is_read_only() {
    let tests = std::env::current_exe().expect("the tests");
    let output =
        isolated(&tests, &["operations::readme::", "operations::demo_state::", "operations::start::"]);
    let told = told(&output);
    assert!(output.status.success() && told.contains("test result: ok. "), "{told}");
    assert!(told.contains("the_quickstart_does_what_the_readme_says ... ok"), "{told}");
}

#[test]
fn what_a_run_leaves_behind_is_found() {
    let output = isolated(Path::new("sh"), &["-c", "echo left > \"$TMPDIR/left\""]);
    assert_eq!(output.status.code(), Some(71), "{}", told(&output));
    assert!(told(&output).contains("/tmp/own/left"), "{}", told(&output));
    let output = isolated(Path::new("sh"), &["-c", "rm -d \"$HOME\" 2>/dev/null; ls -d \"$HOME\""]);
    assert!(output.status.success(), "{}", told(&output));
}

/// Source files of the program and its tests.
fn sources() -> Vec<PathBuf> {
    let mut folders =
        ["src", "tests", "benches"].map(|name| Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).to_vec();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path())
        {
            if entry.is_dir() && entry.file_name().is_some_and(|name| name != "node_modules") {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                files.push(entry);
            }
        }
    }
    files
}

#[test]
fn no_source_names_a_shared_temporary_folder_or_a_home() {
    let places =
        ["temp_dir()", "\"/tmp", " /tmp", "\"/var/tmp", "home_dir()", "var(\"HOME\")", "var_os(\"HOME\")"];
    // The demo names the folder in an error, this file names what it looks for, and the commands of the presets are never run.
    let known = ["src/app/demo.rs", "tests/gateway/operations/isolation.rs", "src/policy/presets/tests.rs"];
    for file in sources().iter().filter(|file| !known.iter().any(|known| file.ends_with(known))) {
        let text = std::fs::read_to_string(file).expect("UTF-8");
        for place in places {
            assert!(!text.contains(place), "{} names {place}; use tempfile::tempdir()", file.display());
        }
    }
}
