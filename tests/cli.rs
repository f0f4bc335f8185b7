//! The binary's exit codes and words, without a gateway.

use std::process::{Command, Output};

fn elida(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_elida"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ELIDA")) {
        command.env_remove(name);
    }
    command.env_remove("LOG_LEVEL").env_remove("DEFAULT_BACKEND").env_remove("PROXY_PORT");
    command.args(arguments).envs(variables.iter().copied()).output().expect("the binary runs")
}

fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[test]
fn check_says_ok_or_every_fault() {
    let good = elida(&["check", "-c", "conf/elida.yaml"], &[]);
    assert_eq!(told(&good), (0, "conf/elida.yaml: ok\n".into(), String::new()));

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bad.yaml");
    std::fs::write(&file, "lisen: ':1'\nbackends:\n  a: { url: b, type: http }\n").expect("a file");
    let file = file.display().to_string();
    let expected = format!(
        "{file}:1: lisen: no key is called 'lisen' (did you mean listen?)\n\
         {file}:3: backends.a.url: 'b' is not an http:// or https:// URL \
         (write it like http://localhost:11434 or https://api.openai.com)\n\
         server.threads: 'x' does not fit; set by ELIDA__SERVER__THREADS (write a whole number)\n\
         elida: the configuration has 3 faults\n"
    );
    let variables = [("ELIDA_CONFIG", file.as_str()), ("ELIDA__SERVER__THREADS", "x")];
    assert_eq!(told(&elida(&["check"], &variables)), (2, String::new(), expected.clone()));
    assert_eq!(told(&elida(&["run"], &variables)), (2, String::new(), expected));
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [&["nonsense"][..], &["kill"], &["sessions", "--limit", "0"], &[]] {
        assert_eq!(elida(arguments, &[]).status.code(), Some(2), "{arguments:?}");
    }
    assert_eq!(told(&elida(&["--version"], &[])).1, format!("elida {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_control_api_that_is_not_there_is_named() {
    let (code, out, error) = told(&elida(&["stats"], &[("ELIDA_CONTROL", "http://127.0.0.1:1")]));
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(error.starts_with("elida: no answer from the control API at http://127.0.0.1:1: "), "{error}");
    assert!(error.ends_with("Another address: --control URL or ELIDA_CONTROL\n"), "{error}");
    let (code, _, error) = told(&elida(&["kills", "--token-file", "/nowhere"], &[]));
    assert_eq!(code, 1);
    assert!(error.starts_with("elida: cannot read the control token in /nowhere: "), "{error}");
}
