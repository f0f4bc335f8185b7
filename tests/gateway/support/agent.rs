//! The agent programs: how each is started with a gateway, and what it shows its
//! user. Settings other than the gateway's address only keep them from calling other hosts.

use std::process::Command;

use serde_json::{Value, json};

use super::program::{Outcome, installed};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    Claude,
    Codex,
    Opencode,
}

impl Agent {
    /// Its name in `docs/clients.md`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Claude => "Claude Code",
            Self::Codex => "Codex",
            Self::Opencode => "opencode",
        }
    }

    /// Its name in the gateway (`identity.client`).
    pub fn client(self) -> &'static str {
        match self {
            Self::Claude => "claude-code",
            Self::Codex => "codex",
            Self::Opencode => "opencode",
        }
    }

    /// One run with a prompt, in a new session or in an earlier one.
    pub fn command(self, url: &str, prompt: &str, resume: Option<&str>) -> Command {
        let key = if self == Self::Claude { "sk-ant-test" } else { "sk-test" };
        self.command_with_key(url, key, prompt, resume)
    }

    /// The same with another API key.
    pub fn command_with_key(self, url: &str, key: &str, prompt: &str, resume: Option<&str>) -> Command {
        match self {
            Self::Claude => claude(url, key, prompt, resume),
            Self::Codex => codex(url, key, prompt, resume),
            Self::Opencode => opencode(url, key, prompt, resume),
        }
    }

    /// A prompt that makes the demo provider call the program's shell tool; it prints `tool-42`.
    pub fn tool_prompt(self) -> &'static str {
        match self {
            Self::Claude => r#"go on [[tool Bash {"command":"echo tool-$((40+2))","description":"say"}]]"#,
            Self::Codex => r#"go on [[tool exec_command {"cmd":"echo tool-$((40+2))"}]]"#,
            Self::Opencode => r#"go on [[tool bash {"command":"echo tool-$((40+2))","description":"say"}]]"#,
        }
    }

    /// The session id that the program itself reports.
    pub fn session(self, outcome: &Outcome) -> String {
        let key = match self {
            Self::Claude => "session_id",
            Self::Codex => "thread_id",
            Self::Opencode => "sessionID",
        };
        let named = outcome.values().into_iter().find_map(|line| Some(line[key].as_str()?.to_owned()));
        named.unwrap_or_else(|| panic!("no {key}: {outcome:?}"))
    }

    /// What the user reads at the end: the answer, or the error.
    pub fn shown(self, outcome: &Outcome) -> String {
        let mut texts = outcome.values().into_iter().filter_map(|line| {
            let text = match self {
                Self::Claude => line["result"].as_str(),
                Self::Codex if line["item"]["type"] == "agent_message" => line["item"]["text"].as_str(),
                Self::Codex => line["error"]["message"].as_str(),
                Self::Opencode if line["type"] == "error" => line["error"]["data"]["message"].as_str(),
                Self::Opencode => line["part"]["text"].as_str(),
            };
            text.map(str::to_owned)
        });
        texts.next_back().unwrap_or_else(|| panic!("nothing shown: {outcome:?}"))
    }
}

fn claude(url: &str, key: &str, prompt: &str, resume: Option<&str>) -> Command {
    let binary = "tests/clients/node_modules/@anthropic-ai/claude-code-linux-x64/claude";
    let mut command = Command::new(installed("ELIDA_TEST_CLAUDE", binary));
    command.args(["-p", prompt, "--output-format", "stream-json", "--verbose"]);
    command.args(["--model", "claude-sonnet-4-5", "--allowedTools", "Bash"]);
    command.args(resume.map(|id| ["--resume", id]).into_iter().flatten());
    command.env("ANTHROPIC_BASE_URL", url).env("ANTHROPIC_API_KEY", key);
    command.env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1").env("DISABLE_TELEMETRY", "1");
    // The default is up to ten retries, which takes minutes.
    command.env("CLAUDE_CODE_MAX_RETRIES", "2");
    command
}

fn codex(url: &str, key: &str, prompt: &str, resume: Option<&str>) -> Command {
    let binary =
        "tests/clients/node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex";
    let mut command = Command::new(installed("ELIDA_TEST_CODEX", binary));
    command.args([
        "exec",
        "--json",
        "--skip-git-repo-check",
        "-s",
        "danger-full-access",
        "-m",
        "gpt-5-codex",
    ]);
    let provider = format!(
        "model_providers.gw={{name=\"gw\",base_url=\"{url}/v1\",env_key=\"GATEWAY_KEY\",wire_api=\"responses\"}}"
    );
    let quiet = ["analytics.enabled", "check_for_update_on_startup", "features.plugins", "features.apps"];
    for setting in quiet {
        command.args(["-c", &format!("{setting}=false")]);
    }
    command.args(["-c", "model_provider=\"gw\"", "-c", &provider]);
    command.args(resume.map(|id| ["resume", id]).into_iter().flatten());
    command.arg(prompt).env("GATEWAY_KEY", key);
    command
}

fn opencode(url: &str, key: &str, prompt: &str, resume: Option<&str>) -> Command {
    let binary = "tests/clients/node_modules/opencode-linux-x64/bin/opencode";
    let mut command = Command::new(installed("ELIDA_TEST_OPENCODE", binary));
    let config: Value = json!({
        "autoupdate": false, "share": "disabled", "model": "gw/gpt-demo", "small_model": "gw/gpt-demo",
        "provider": {"gw": {
            "npm": "@ai-sdk/openai-compatible", "name": "gw",
            "options": {"baseURL": format!("{url}/v1"), "apiKey": key},
            "models": {"gpt-demo": {"name": "demo", "tool_call": true}},
        }},
    });
    command.args(["run", "--format", "json"]);
    command.args(resume.map(|id| ["--session", id]).into_iter().flatten());
    // opencode quotes an argument that contains a space.
    command.args(prompt.split(' ')).env("OPENCODE_CONFIG_CONTENT", config.to_string());
    for name in ["AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD", "DEFAULT_PLUGINS"] {
        command.env(format!("OPENCODE_DISABLE_{name}"), "1");
    }
    command
}
