use std::ffi::OsStr;
use std::time::Duration;

use crate::support::program::{Home, Outcome, Program, node};
use crate::support::{Backend, Demo, Gateway};

/// A browser takes its time where two cores run four tests.
const LIMIT: Duration = Duration::from_secs(120);
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Starts a scenario of `page.mjs`.
fn start(gateway: &Gateway, scenario: &str) -> Program {
    let mut command = node("dashboard/page.mjs");
    command.arg(scenario).env("CONTROL", gateway.control().to_string());
    command.env("PROXY", gateway.proxy().to_string()).env("TOKEN", TOKEN);
    Program::start(command, &Home::new())
}

fn succeeded(outcome: &Outcome) {
    assert_eq!(outcome.code, Some(0), "{}", outcome.text());
}

async fn run(gateway: &Gateway, scenario: &str) {
    succeeded(&start(gateway, scenario).outcome_in(LIMIT).await);
}

async fn with_demo(scenario: &str) {
    let demo = Demo::start().await;
    run(&Gateway::start(&demo).await, scenario).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_appears_grows_and_is_killed() {
    with_demo("live").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_by_selection_shows_its_list_first() {
    with_demo("selection").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_agents_say_is_text() {
    let demo = Demo::start().await;
    // Ids of clients are as hostile as they can be: any printable character.
    let yaml = format!("backend: {:?}\nsession: {{ id_pattern: '^[!-~]+$' }}\n", demo.url());
    run(&Gateway::with(&yaml).await, "hostile").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_can_do_nothing() {
    with_demo("foreign").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_log_in_and_do_what_they_may() {
    let demo = Demo::start().await;
    let yaml = format!("backend: {:?}\nauth:\n  people: {{ login: true }}\n", demo.url());
    let variables = [("ELIDA_CONTROL_TOKEN", OsStr::new(TOKEN))];
    run(&Gateway::with_variables(&yaml, &variables).await, "login").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_can_be_turned_off() {
    let demo = Demo::start().await;
    // The harness writes the section `control`; its next key goes on with it.
    run(&Gateway::with(format!("  dashboard: false\nbackend: {:?}\n", demo.url())).await, "off").await;
}
