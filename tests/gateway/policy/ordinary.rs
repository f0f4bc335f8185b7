//! What the presets find in ordinary sessions of real agent programs: the table in `docs/policies.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::agent::Agent;
use crate::support::program::{Home, Program};
use crate::support::{Backend, Demo, Gateway};

const LIMIT: Duration = Duration::from_secs(180);

/// What programmers do all day.
const COMMANDS: [&str; 3] = [
    "mkdir -p w/src && cd w && git init -q . && echo '# App' > README.md && git add -A && git -c user.name=a -c user.email=a@example.com \
     commit -qm 'Read the manual' && git status --short && git log --oneline | head -3 && git diff --stat; git push -u origin HEAD; rm -rf target",
    "mkdir -p w/src && cd w; grep -rn TODO src | wc -l; find . -name '*.rs' | xargs -r wc -l; cargo test --quiet 2>&1 | tail -3; ls -la; rm -f a.log && rm -rf ./build \
     node_modules; curl -s http://127.0.0.1:9/health | head -1",
    "mkdir -p w/src && cd w; printf 'fn main() {}' > src/main.rs; sed -i 's/main/run/' src/main.rs; git checkout -q -b fix/force-push; git stash list; \
     docker compose ps 2>/dev/null; kubectl get pods 2>/dev/null; npm run build 2>/dev/null; python3 -c 'print(1)'",
];

/// The prompts of an agent, each with the call that its model makes.
fn prompts(agent: Agent) -> Vec<String> {
    let of = |tool: &str, args: Value| format!("please go on with the parser [[tool {tool} {args}]]");
    let mut prompts: Vec<String> = COMMANDS
        .iter()
        .map(|command| match agent {
            Agent::Claude => of("Bash", json!({ "command": command, "description": "work" })),
            Agent::Codex | Agent::Opencode => of("exec_command", json!({ "cmd": command })),
        })
        .collect();
    if agent == Agent::Claude {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/lifecycle.md");
        prompts.push(of("Read", json!({ "file_path": page })));
        prompts.push(of(
            "Edit",
            json!({ "file_path": "w/a.rs", "old_string": "a", "new_string": "fn main() {}" }),
        ));
        prompts.push(of("Write", json!({ "file_path": "w/schema.sql", "content": "DROP TABLE IF EXISTS old;\nCREATE TABLE a (id int);\n" })));
    }
    prompts
}

#[tokio::test(flavor = "multi_thread")]
async fn ordinary_sessions_find_what_the_page_lists() {
    let mut all: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for agent in [Agent::Claude, Agent::Codex] {
        let demo = Demo::start().await;
        let gateway = Gateway::with(format!(
            "backend: {:?}\npolicy:\n  mode: audit\n  presets: [minimal, standard, strict, coding-agent, mcp]\n",
            demo.url()
        ))
        .await;
        for prompt in prompts(agent) {
            let before = demo.ledger().arrived();
            let command = agent.command(&gateway.url(), &prompt, None);
            let outcome = Program::start(command, &Home::new()).outcome_in(LIMIT).await;
            assert_eq!(outcome.code, Some(0), "{prompt}: {outcome:?}");
            let asked = demo.ledger().arrived() - before;
            assert!(asked >= 2, "{prompt}: a call and its result, not {asked} requests: {outcome:?}");
        }
        let flags = gateway.operator().await.get("/control/flags?limit=500").await.json();
        for flag in flags["flags"].as_array().expect("a list") {
            all.entry(flag["rule"].as_str().expect("a rule").to_owned()).or_default().insert(agent.name());
        }
    }
    let mut table = String::from("| rule | found in sessions of |\n|---|---|\n");
    for (rule, agents) in &all {
        table
            .push_str(&format!("| `{rule}` | {} |\n", agents.iter().copied().collect::<Vec<_>>().join(", ")));
    }
    if all.is_empty() {
        table.push_str("| none | – |\n");
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/policies.md");
    let page = std::fs::read_to_string(path).expect("the page");
    let (begin, end) = ("<!-- ordinary sessions: written by a test -->\n", "<!-- /ordinary sessions -->\n");
    let (before, rest) = page.split_once(begin).expect("the table");
    let (written, behind) = rest.split_once(end).expect("its end");
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::write(path, format!("{before}{begin}\n{table}\n{end}{behind}"))
            .expect("the page is written");
    } else {
        assert_eq!(written.trim(), table.trim(), "run this test with WRITE_DOCS=1, and read the change");
    }
}
