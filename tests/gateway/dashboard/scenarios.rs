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
async fn a_held_call_goes_on_when_it_is_allowed() {
    let demo = Demo::start().await;
    let rules =
        "policy:\n  rules:\n    - { id: pay, on: tool_call, when: 'tool.name == \"Pay\"', action: hold }\n";
    run(&Gateway::with(format!("backend: {:?}\n{rules}", demo.url())).await, "approvals").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_sessions_and_ten_dashboards() {
    let demo = Demo::start().await;
    let limits = "session: { max_active_per_principal: 20000, starts_per_address: { per_second: 0 } }\n";
    run(&Gateway::with(format!("backend: {:?}\n{limits}", demo.url())).await, "crowd").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_was_cut_off_says_so_and_is_right_again() {
    let demo = Demo::start().await;
    let yaml = format!("backend: {:?}\n", demo.url());
    let mut gateway = Gateway::with(&yaml).await;
    let mut page = start(&gateway, "interruptions");
    page.printed("restart", 1).await;
    gateway.crash_and_restart(&yaml).await;
    succeeded(&page.outcome_in(LIMIT).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyboard_is_enough() {
    with_demo("keyboard").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_serious_is_found_by_axe_and_every_width_fits() {
    with_demo("accessible").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_page_has_a_picture() {
    with_demo("pictures").await;
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
async fn operators_drain_raise_disable_and_verify() {
    let demo = Demo::start().await;
    let yaml = format!(
        "backend: {:?}\nauth:\n  people: {{ login: true }}\n\
         budgets:\n  - {{ name: all, by: client.addr, period: total, limit: 10M tokens }}\n",
        demo.url()
    );
    let variables = [("ELIDA_CONTROL_TOKEN", OsStr::new(TOKEN))];
    run(&Gateway::with_variables(&yaml, &variables).await, "operating").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_can_be_turned_off() {
    let demo = Demo::start().await;
    // The harness writes the section `control`; its next key goes on with it.
    run(&Gateway::with(format!("  dashboard: false\nbackend: {:?}\n", demo.url())).await, "off").await;
}
