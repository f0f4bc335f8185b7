//! Agents that play against the gateway of `elida demo --play`, so that a newcomer sees sessions come alive.
//!
//! Each is a thread that sends one request after another, as its program would. One of them runs away: it asks for ever longer
//! answers without a pause. A session that is killed stays refused, and its agent begins anew under another id after a while.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// How long a reader waits before it looks whether the play is over.
const PATIENCE: Duration = Duration::from_millis(200);
/// How often the gateway is asked whether it takes requests.
const ASKED: Duration = Duration::from_secs(1);
/// Pauses of a killed agent before it begins anew.
const PENANCE: Duration = Duration::from_secs(20);

/// One agent: who it is, and what it asks again and again.
struct Agent {
    session: &'static str,
    program: &'static str,
    path: &'static str,
    model: &'static str,
    /// What it says; `[[…]]` steers the demo provider.
    says: &'static [&'static str],
    /// Agents below the main one, in whose names it asks in turn.
    children: &'static [&'static str],
    pause: Duration,
}

const AGENTS: [Agent; 7] = [
    Agent {
        session: "fix-login-tests",
        program: "claude-cli/2.1.328",
        path: "/v1/messages",
        model: "claude-sonnet-4-6",
        says: &["[[words 120]] read the failing tests", "[[tool Bash {\"command\": \"cargo test login\"}]]"],
        children: &["explore-auth", "write-tests"],
        pause: Duration::from_millis(1500),
    },
    Agent {
        session: "nightly-report",
        program: "OpenAI/Python 2.8.0",
        path: "/v1/chat/completions",
        model: "gpt-5-mini",
        says: &["[[words 60]] sum up the tickets of today"],
        children: &[],
        pause: Duration::from_secs(4),
    },
    Agent {
        session: "refactor-billing",
        program: "codex_cli_rs/0.169.0",
        path: "/v1/responses",
        model: "gpt-5-codex",
        says: &["[[words 90]] split the module invoices", "[[words 30]] [[cached 400]] go on"],
        children: &[],
        pause: Duration::from_secs(2),
    },
    Agent {
        session: "triage-inbox",
        program: "Anthropic/Python 0.75.0",
        path: "/v1/messages",
        model: "claude-haiku-4-5",
        says: &["[[words 25]] is this message urgent?"],
        children: &[],
        pause: Duration::from_secs(3),
    },
    Agent {
        session: "translate-docs",
        program: "ollama-python/0.6.0",
        path: "/api/chat",
        model: "llama3.2",
        says: &["[[words 80]] translate the next page"],
        children: &[],
        pause: Duration::from_secs(3),
    },
    Agent {
        session: "flaky-batch",
        program: "langchain/1.0",
        path: "/v1/chat/completions",
        model: "gpt-5-mini",
        says: &["[[words 15]] item", "[[error 529]] item", "[[words 15]] item"],
        children: &[],
        pause: Duration::from_secs(2),
    },
    Agent {
        session: "runaway-crawler",
        program: "openhands/1.2",
        path: "/v1/messages",
        model: "claude-opus-4-5",
        says: &["[[words 900]] [[pace 2ms]] follow every link, and every link behind it"],
        children: &[],
        pause: Duration::ZERO,
    },
];

/// Plays all agents against the proxy at this address until it takes no requests any more.
pub fn play(proxy: SocketAddr) {
    let over = Arc::new(AtomicBool::new(false));
    thread::spawn(move || {
        while !is_ready(proxy) {
            thread::sleep(ASKED);
        }
        for agent in &AGENTS {
            let over = Arc::clone(&over);
            thread::spawn(move || agent.run(proxy, &over));
        }
        while is_ready(proxy) {
            thread::sleep(ASKED);
        }
        // Open streams would hold the shutdown.
        over.store(true, Ordering::Relaxed);
    });
}

fn is_ready(proxy: SocketAddr) -> bool {
    let head = format!("GET /health/readiness HTTP/1.1\r\nhost: {proxy}\r\nconnection: close\r\n\r\n");
    exchange(proxy, &head, &AtomicBool::new(false)).is_ok_and(|status| status == 200)
}

impl Agent {
    fn run(&self, proxy: SocketAddr, over: &AtomicBool) {
        let mut life = 1;
        for turn in 0_usize.. {
            let says = self.says.get(turn % self.says.len()).copied().unwrap_or_default();
            let status = exchange(proxy, &self.request(proxy, life, turn, says), over);
            if over.load(Ordering::Relaxed) {
                return;
            }
            let is_refused = status.as_ref().is_ok_and(|status| *status == 403 || *status == 400);
            if is_refused {
                life += 1;
            }
            rest(if is_refused { PENANCE } else { self.pause }, over);
            // An answer that was cut is followed by a request that says why.
            if status.is_err() {
                rest(ASKED, over);
            }
        }
    }

    /// Returns a whole request. The first life has the plain name, later ones a number.
    fn request(&self, proxy: SocketAddr, life: usize, turn: usize, says: &str) -> String {
        let Self { session, program, path, model, children, .. } = self;
        let body = self.body(model, says).to_string();
        let number = if life > 1 { format!("-{life}") } else { String::new() };
        let names: Vec<Option<&str>> =
            std::iter::once(None).chain(children.iter().copied().map(Some)).collect();
        let agent = match names.get(turn % names.len()).copied().flatten() {
            Some(name) => format!("x-claude-code-agent-id: {name}\r\n"),
            None => String::new(),
        };
        format!(
            "POST {path} HTTP/1.1\r\nhost: {proxy}\r\nuser-agent: {program}\r\nx-session-id: {session}{number}\r\n{agent}\
             content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    }

    fn body(&self, model: &str, says: &str) -> Value {
        let messages = json!([{"role": "user", "content": says}]);
        match self.path {
            "/v1/responses" => json!({"model": model, "stream": true, "input": says}),
            "/v1/messages" => {
                let tool = json!({"name": "Bash", "input_schema": {"type": "object"}});
                json!({"model": model, "stream": true, "max_tokens": 4096, "messages": messages, "tools": [tool]})
            }
            "/v1/chat/completions" => {
                let options = json!({"include_usage": true});
                json!({"model": model, "stream": true, "stream_options": options, "messages": messages})
            }
            _ => json!({"model": model, "stream": true, "messages": messages}),
        }
    }
}

fn rest(pause: Duration, over: &AtomicBool) {
    let mut left = pause;
    while !left.is_zero() && !over.load(Ordering::Relaxed) {
        let step = left.min(PATIENCE);
        thread::sleep(step);
        left -= step;
    }
}

/// Sends a request and reads its answer to the end. Returns the status.
///
/// # Errors
/// There is no whole answer, or the play is over.
fn exchange(proxy: SocketAddr, request: &str, over: &AtomicBool) -> io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&proxy, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let (mut head, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        if over.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(read) if head.len() < 64 => head.extend_from_slice(piece.get(..read).unwrap_or_default()),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    let head = String::from_utf8_lossy(&head);
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| io::ErrorKind::InvalidData.into())
}
