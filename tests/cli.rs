//! The exit codes and messages of the binary, without a gateway.

use std::process::{Command, Output};

fn elida(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_elida"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ELIDA")) {
        command.env_remove(name);
    }
    for name in elida::upstream::egress::VARIABLES {
        command.env_remove(name);
    }
    command.env_remove("LOG_LEVEL").env_remove("DEFAULT_BACKEND").env_remove("PROXY_PORT");
    command.args(arguments).envs(variables.iter().copied()).output().expect("the binary runs")
}

fn result(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[test]
fn check_says_ok_or_every_fault() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().display().to_string();
    let good = elida(&["check", "-c", "conf/elida.yaml"], &[("ELIDA_DATA_DIR", &data)]);
    assert_eq!(result(&good), (0, "conf/elida.yaml: ok\n".into(), String::new()));

    let file = folder.path().join("bad.yaml");
    std::fs::write(&file, "lisen: ':1'\nbackends:\n  a: { url: b, type: http }\n").expect("a file");
    let file = file.display().to_string();
    let expected = format!(
        "{file}:1:1: lisen: unknown key 'lisen' (did you mean listen?)\n\
         {file}:3:8: backends.a.url: 'b' is not an http:// or https:// URL \
         (write it like http://localhost:11434 or https://api.openai.com)\n\
         server.threads: 'x' does not fit; set by ELIDA__SERVER__THREADS (write a whole number)\n\
         elida: the configuration has 3 faults\n"
    );
    let variables =
        [("ELIDA_CONFIG", file.as_str()), ("ELIDA__SERVER__THREADS", "x"), ("ELIDA_DATA_DIR", &data)];
    assert_eq!(result(&elida(&["check"], &variables)), (2, String::new(), expected.clone()));
    assert_eq!(result(&elida(&["run"], &variables)), (2, String::new(), expected));
}

#[test]
fn check_tells_warnings_apart_and_json_to_machines() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("odd.yaml");
    let text = format!("data_dir: {:?}\nsession:\n  scope: global\n", folder.path());
    std::fs::write(&file, &text).expect("a file");
    let file = file.display().to_string();
    let (code, out, error) = result(&elida(&["check", "-c", &file], &[]));
    assert_eq!((code, out), (0, format!("{file}: ok, 1 warning\n")));
    assert!(error.starts_with(&format!("{file}:3:3: warning: session.scope: global: ")), "{error}");

    let json = |output: Output| -> serde_json::Value {
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    };
    let report = json(elida(&["check", "--json", "-c", &file], &[]));
    assert_eq!((&report["ok"], report["faults"].as_array().map(Vec::len)), (&true.into(), Some(0)));
    assert_eq!(report["warnings"][0]["path"], "session.scope");
    std::fs::write(&file, text + "  idle_timeout: soon\nlisten: [\nlisten: x\n").expect("a file");
    let bad = elida(&["check", "--json", "-c", &file], &[]);
    assert_eq!(bad.status.code(), Some(2));
    let report = json(bad);
    let places: Vec<_> = report["faults"].as_array().expect("faults").iter().collect();
    assert_eq!(report["ok"], false);
    assert_eq!((&places[0]["line"], &places[0]["column"]), (&4.into(), &3.into()), "{report}");
    assert_eq!(places[0]["path"], "session.idle_timeout");
    assert!(places.iter().any(|fault| fault["message"].as_str().unwrap_or("").contains("not YAML")));
}

#[test]
fn check_names_the_models_without_a_price() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("models.yaml");
    let text = format!(
        "data_dir: {:?}\nbackends:\n  cloud: {{ url: 'http://127.0.0.1:1', type: openai, default: true, \
         models: [gpt-5, 'gpt-*', openai/gpt-4o] }}\n  local: {{ url: 'http://127.0.0.1:2', type: ollama, models: [llama3.2] }}\n",
        folder.path()
    );
    std::fs::write(&file, text).expect("a file");
    let file = file.display().to_string();
    let expected = format!(
        "{file}: ok\nno price, so no cost: llama3.2 (backends.local) \
         (add a row to usage.prices_file if they cost something)\n"
    );
    assert_eq!(result(&elida(&["check", "-c", &file], &[])), (0, expected, String::new()));
    let json = elida(&["check", "--json", "-c", &file], &[]);
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).expect("one JSON object");
    assert_eq!(report["unpriced_models"], serde_json::json!([{"backend": "local", "model": "llama3.2"}]));
}

#[test]
fn an_old_name_of_a_key_still_works_and_check_mentions_the_new_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("old.yaml");
    let check = |health: &str, variables: &[(&str, &str)]| {
        let backend = format!("backends:\n  a:\n    url: http://h\n    type: ollama\n    health:\n{health}");
        std::fs::write(&file, format!("data_dir: {:?}\n{backend}", folder.path())).expect("a file");
        result(&elida(&["check", "-c", &file.display().to_string()], variables))
    };
    let shown = file.display();
    let warning = |place: &str, old: &str, new: &str, by: &str| {
        format!(
            "{place}warning: backends.a.health.{old}: `{old}` is now called `{new}`; the old name still \
             works{by} (write {new})\n"
        )
    };
    let (code, out, error) = check("      rest: 20s\n      max_rest: 1m\n", &[]);
    assert_eq!((code, out), (0, format!("{shown}: ok, 2 warnings\n")));
    let rest = warning(&format!("{shown}:7:7: "), "rest", "eject_for", "");
    assert_eq!(error, rest.clone() + &warning(&format!("{shown}:8:7: "), "max_rest", "max_eject", ""));

    let (code, out, error) = check("      eject_for: 20s\n      max_eject: 1m\n", &[]);
    assert_eq!((code, out, error), (0, format!("{shown}: ok\n"), String::new()));

    let (code, _, error) = check("      rest: 20m\n", &[]);
    assert_eq!(code, 2);
    assert!(
        error.contains(&format!("{shown}:7:7: backends.a.health.rest: 20m is not between 0 and")),
        "{error}"
    );
    let (code, _, error) = check("      rest: soon\n", &[]);
    assert_eq!(code, 2);
    assert!(error.contains(&format!("{shown}:7:7: backends.a.health.rest: 'soon' does not fit")), "{error}");

    let (code, _, error) = check("      rest: 20s\n      eject_for: 10s\n", &[]);
    assert_eq!(code, 2);
    let both =
        "backends.a.health.rest: 'rest' is the old name of 'eject_for', and both are set (remove rest)";
    assert!(error.contains(&format!("{shown}:7:7: {both}")), "{error}");

    let variable = [("ELIDA__BACKENDS__A__HEALTH__REST", "30s")];
    let (code, _, error) = check("      timeout: 1s\n", &variable);
    let by = format!("; set by {}", variable[0].0);
    assert_eq!((code, error), (0, warning("", "rest", "eject_for", &by)));
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [&["nonsense"][..], &["kill"], &["sessions", "--limit", "0"], &[]] {
        assert_eq!(elida(arguments, &[]).status.code(), Some(2), "{arguments:?}");
    }
    assert_eq!(result(&elida(&["--version"], &[])).1, format!("elida {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_control_api_that_is_not_there_is_named() {
    let (code, out, error) = result(&elida(&["stats"], &[("ELIDA_CONTROL", "http://127.0.0.1:1")]));
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(error.starts_with("elida: no answer from the control API at http://127.0.0.1:1: "), "{error}");
    assert!(error.ends_with("Another address: --control URL or ELIDA_CONTROL\n"), "{error}");
    let (code, _, error) = result(&elida(&["kills", "--token-file", "/nowhere"], &[]));
    assert_eq!(code, 1);
    assert!(error.starts_with("elida: cannot read the control token in /nowhere: "), "{error}");
}

#[test]
fn completions_are_valid_bash_and_know_every_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("elida.bash");
    let (code, out, _) = result(&elida(&["completions", "bash"], &[]));
    std::fs::write(&script, &out).expect("a file");
    let check = Command::new("bash").arg("-n").arg(&script).output().expect("bash runs");
    assert!(code == 0 && check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    let typed = format!(
        ". {}; COMP_WORDS=(elida do); COMP_CWORD=1; _elida elida do elida; echo \"${{COMPREPLY[*]}}\"",
        script.display()
    );
    let completed = Command::new("bash").args(["-c", &typed]).output().expect("bash runs");
    assert_eq!(String::from_utf8_lossy(&completed.stdout), "doctor\n");
    assert!(result(&elida(&["completions", "zsh"], &[])).1.starts_with("#compdef elida\n"));
    assert!(result(&elida(&["completions", "fish"], &[])).1.contains("complete -c elida"));
    assert_eq!(elida(&["completions", "tcsh"], &[]).status.code(), Some(2));
}

#[test]
fn the_schemas_are_the_shipped_files() {
    let (code, out, _) = result(&elida(&["schema"], &[]));
    assert!(code == 0 && out == include_str!("../conf/schema.json"), "run: just schema");
    let (code, out, _) = result(&elida(&["schema", "--of", "record"], &[]));
    assert!(code == 0 && out == include_str!("../docs/cdr.schema.json"), "run: just schema");
    let (code, out, _) = result(&elida(&["schema", "--of", "openapi"], &[]));
    assert!(code == 0 && out == include_str!("../docs/openapi.json"), "run: just schema");
    assert_eq!(elida(&["schema", "--of", "nonsense"], &[]).status.code(), Some(2));
}

#[test]
fn the_help_tells_examples_and_exit_codes() {
    let (code, out, _) = result(&elida(&["--help"], &[]));
    assert_eq!(code, 0);
    for text in ["  elida demo ", "  doctor  ", "Exit codes: 0 success, 1 failure, 2 wrong usage"] {
        assert!(out.contains(text), "{out}");
    }
    assert!(!out.contains('\u{1b}'), "no colours without a terminal");
}

/// Runs a command that must exit by itself; one that goes on, like a gateway that starts, is killed.
fn bounded(mut command: Command) -> Output {
    let pipes = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = pipes.spawn().expect("the binary runs");
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while child.try_wait().expect("the child").is_none() {
        if std::time::Instant::now() > limit {
            child.kill().expect("it runs");
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.wait_with_output().expect("its output")
}

/// `elida check` and `elida run` with a file that does not start: both report the same and exit with 2.
fn both_refuse(yaml: &str, variables: &[(&str, &std::ffi::OsStr)], fault: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("elida.yaml");
    std::fs::write(&file, format!("data_dir: {:?}\n{yaml}\n", folder.path())).expect("a file");
    for command in ["check", "run"] {
        let mut elida = Command::new(env!("CARGO_BIN_EXE_elida"));
        elida.env_clear().args([command, "-c"]).arg(&file).envs(variables.iter().copied());
        let (code, out, error) = result(&bounded(elida));
        assert_eq!(code, 2, "{command} of {yaml}: {out}{error}");
        assert!(error.contains(fault), "{command} of {yaml}: {error}");
    }
}

#[test]
fn check_foresees_what_keeps_run_from_starting() {
    let folder = tempfile::tempdir().expect("a folder");
    let junk = folder.path().join("ca.pem");
    std::fs::write(&junk, "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n").expect("a file");
    let listen = "listen: '127.0.0.1:0'\ncontrol: { listen: '127.0.0.1:0' }";
    let redis = |keys: &str| format!("{listen}\nsession: {{ store: redis, redis: {{ {keys} }} }}");
    both_refuse(
        &redis(&format!("url: 'rediss://localhost', tls: {{ ca_file: {junk:?} }}")),
        &[],
        "session.redis.tls.ca_file: it cannot be used",
    );
    both_refuse(&redis("url: 'redis://localhost/seven'"), &[], "session.redis.url: it cannot be used");
    both_refuse(
        &format!(
            "{listen}\nbackends: {{ a: {{ url: 'https://h', type: http, tls: {{ ca_file: {junk:?} }} }} }}"
        ),
        &[],
        "backends.a.tls.ca_file: ",
    );
    both_refuse(
        "listen: ':18080'\ncontrol: { listen: '127.0.0.1:18080' }",
        &[],
        "control.listen: 127.0.0.1:18080 is taken by the proxy",
    );
    both_refuse(
        &format!("{listen}\nserver: {{ timeouts: {{ write: 30d }} }}"),
        &[],
        "server.timeouts.write: 30days is longer than a socket can wait",
    );
    both_refuse(
        &format!("{listen}\nsession: {{ idle_timeout: 100000000000y }}"),
        &[],
        "session.idle_timeout: '100000000000y' is longer than 100 years",
    );
}

#[test]
fn a_token_that_cannot_be_read_does_not_leave_the_door_open() {
    use std::os::unix::ffi::OsStrExt;
    let token = std::ffi::OsStr::from_bytes(b"0123456789abcdef0123456789abcde\xff");
    let listen = "listen: '127.0.0.1:0'\ncontrol: { listen: '127.0.0.1:0' }";
    both_refuse(
        listen,
        &[("ELIDA_CONTROL_TOKEN", token)],
        "ELIDA_CONTROL_TOKEN: its value is not UTF-8 text",
    );
    let mut elida = Command::new(env!("CARGO_BIN_EXE_elida"));
    elida.env_clear().args(["stats", "--control", "http://127.0.0.1:1"]).env("ELIDA_CONTROL_TOKEN", token);
    let (code, _, error) = result(&elida.output().expect("the binary runs"));
    assert_eq!((code, error.contains("ELIDA_CONTROL_TOKEN is not UTF-8 text")), (1, true), "{error}");
}

#[test]
fn check_tries_the_addresses_and_the_history_of_this_machine() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("elida.yaml");
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let held = held.local_addr().expect("an address");
    let check = |keys: &str| {
        let text = format!("data_dir: {:?}\ncontrol: {{ listen: '127.0.0.1:0' }}\n{keys}\n", folder.path());
        std::fs::write(&file, text).expect("a file");
        result(&elida(&["check", "-c", &file.display().to_string()], &[]))
    };
    // From the block for documentation (RFC 5737): no host has this address.
    let (code, _, error) = check("listen: '192.0.2.1:8080'");
    assert!(code == 2 && error.contains("listen: cannot listen on 192.0.2.1:8080"), "{error}");
    // The running gateway already holds its port.
    assert_eq!(check(&format!("listen: '{held}'")).0, 0);
    let (code, out, error) =
        check(&format!("listen: '127.0.0.1:0'\nhistory: {{ file: {:?} }}", folder.path()));
    assert_eq!((code, out.contains("ok, 1 warning")), (0, true), "{out}{error}");
    assert!(error.contains("warning: history.file: no history is kept"), "{error}");
}

#[test]
fn check_warns_of_a_name_that_begins_the_own_paths_of_a_service() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("elida.yaml");
    let check = |openai: &str, azure: &str, routing: &str| {
        let backends = format!(
            "backends:\n  {openai}: {{ url: 'https://api.openai.com', type: openai, default: true }}\n\
             \x20 azure: {{ url: '{azure}', type: openai }}\n"
        );
        let listen = "listen: '127.0.0.1:0'\ncontrol: { listen: '127.0.0.1:0' }";
        let text = format!("data_dir: {:?}\n{listen}\n{backends}{routing}\n", folder.path());
        std::fs::write(&file, text).expect("a file");
        result(&elida(&["check", "-c", &file.display().to_string()], &[])).2
    };
    let own = "https://house.openai.azure.com";
    let warning = check("openai", own, "");
    assert!(warning.contains("warning: backends.openai: /openai/… also begins the own paths"), "{warning}");
    assert!(warning.contains("rename this backend, or write /openai in backends.azure.url"), "{warning}");
    assert_eq!(check("chat", own, ""), "");
    assert_eq!(check("openai", &format!("{own}/openai"), ""), "");
    assert_eq!(check("openai", own, "routing: { methods: [header, model, default] }"), "");
}
