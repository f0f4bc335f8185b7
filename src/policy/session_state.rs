//! What rules know of a session: its score, its marks, what was counted before, and what may not be repeated.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::loops::{LoopWatch, Observation, TurnCall};
use super::rule::{Action, Role, Rule, Severity};
use super::verdict::Finding;
use crate::error::ErrorKind;

/// After this time half of a score is gone, in milliseconds.
const HALF_LIFE: f64 = 30.0 * 60_000.0;
/// For how long what was refused is refused again at once, in milliseconds.
const REFUSED: u64 = 60_000;
/// The most findings that are told apart.
const MAX_COUNTED: usize = 4096;
/// The most marks.
const MAX_MARKS: usize = 64;
/// The most orders against repeats.
const MAX_ORDERS: usize = 32;
/// The most agents whose turns are remembered.
const MAX_AGENTS: usize = 128;
/// The most tools of MCP servers whose definitions are remembered.
const MAX_TOOLS: usize = 1024;
/// The most rules whose findings are counted by rule.
const MAX_RULES: usize = 256;
/// The most rules that slow a session down.
const MAX_PACES: usize = 16;

/// What rules know of a session. It exists from the first finding on.
#[derive(Debug, Default)]
pub struct SessionState {
    inner: Mutex<Inner>,
    /// The turns of each agent; absent unless loops are looked for.
    turns: Mutex<Vec<TurnsOfAgent>>,
    /// Digests of the definitions of tools as the session first saw them, by server and name; absent unless MCP is spoken.
    tools: Mutex<HashMap<ToolOfServer, Box<str>>>,
}

/// A server and the name of one of its tools.
type ToolOfServer = (Box<str>, Box<str>);

/// An agent, `None` for the main one, with its turns.
type TurnsOfAgent = (Option<Box<str>>, Box<LoopWatch>);

#[derive(Debug, Default)]
struct Inner {
    score: f64,
    /// When the score was that, in milliseconds.
    at: u64,
    marks: Vec<Arc<str>>,
    counted: std::collections::HashSet<(Arc<str>, u64)>,
    orders: Vec<Order>,
    paces: Vec<(Arc<str>, u64)>,
    /// Why the session is being killed.
    killed: Option<Refused>,
    rules: Vec<RuleCount>,
}

/// How often a rule has held in the session.
#[derive(Clone, Debug)]
pub struct RuleCount {
    /// Its id.
    pub rule: Arc<str>,
    /// What it asks for.
    pub action: Action,
    /// How bad it is.
    pub severity: Severity,
    /// How often, each text counted once.
    pub count: u64,
}

/// What may not be repeated.
#[derive(Clone, Debug)]
struct Order {
    agent: Option<Box<str>>,
    digests: Box<[u64]>,
    until: u64,
    refused: Refused,
}

/// Why something was refused.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The rule.
    pub rule: Arc<Rule>,
    /// What the client was told.
    pub message: Arc<str>,
    /// The kind of the refusal.
    pub kind: ErrorKind,
}

impl SessionState {
    /// Takes a request of an agent, and returns what it adds to the agent's turns.
    pub fn observe(&self, agent: Option<&str>, body: u64, calls: &[TurnCall], now: u64) -> Observation {
        let mut turns = self.turns.lock();
        let at = match turns.iter().position(|(known, _)| known.as_deref() == agent) {
            Some(at) => at,
            None => {
                if turns.len() >= MAX_AGENTS {
                    turns.remove(0);
                }
                turns.push((agent.map(Into::into), Box::default()));
                turns.len() - 1
            }
        };
        turns[at].1.observe(body, calls, Duration::from_millis(now))
    }

    /// Notes how an MCP server defines a tool. Returns whether it has defined it in another way before in this session; `None` if
    /// there are too many tools to tell.
    pub fn redefines(&self, server: &str, tool: &str, digest: &str) -> Option<bool> {
        let mut tools = self.tools.lock();
        let key = (server.into(), tool.into());
        if let Some(known) = tools.get(&key) {
            return Some(**known != *digest);
        }
        if tools.len() >= MAX_TOOLS {
            return None;
        }
        tools.insert(key, digest.into());
        Some(false)
    }

    /// Forgets the turns of an agent: an operator has let it go on.
    pub fn forget_turns(&self, agent: Option<&str>) {
        self.turns.lock().retain(|(known, _)| known.as_deref() != agent);
    }

    /// Counts a finding once for each element. Returns whether it is a new one.
    pub fn count(&self, finding: &Finding, now: u64) -> bool {
        let mut inner = self.inner.lock();
        let key = (Arc::clone(&finding.rule.id), finding.digest);
        // Findings about facts alone have no element, and are new each time.
        if finding.digest != 0 {
            if inner.counted.contains(&key) {
                return false;
            }
            if inner.counted.len() >= MAX_COUNTED {
                inner.counted.clear();
            }
            inner.counted.insert(key);
        }
        let weight = finding.rule.severity.weight() * finding.role.map_or(1.0, Role::weight);
        inner.score = inner.score_at(now) + weight;
        inner.at = now;
        inner.note(&finding.rule);
        if let Some(mark) = &finding.rule.mark
            && inner.marks.len() < MAX_MARKS
            && !inner.marks.contains(mark)
        {
            inner.marks.push(Arc::clone(mark));
        }
        true
    }

    /// Adds to the score what a service has said.
    pub fn add_score(&self, points: f64, now: u64) {
        let mut inner = self.inner.lock();
        inner.score = inner.score_at(now) + points;
        inner.at = now;
    }

    /// The score now.
    pub fn score(&self, now: u64) -> f64 {
        self.inner.lock().score_at(now)
    }

    /// Whether a mark is set.
    pub fn saw(&self, mark: &str) -> bool {
        self.inner.lock().marks.iter().any(|known| **known == *mark)
    }

    /// The marks, in the order in which they were set.
    pub fn marks(&self) -> Vec<Arc<str>> {
        self.inner.lock().marks.clone()
    }

    /// How often each rule has held, in the order of the first finding.
    pub fn flags(&self) -> Vec<RuleCount> {
        self.inner.lock().rules.clone()
    }

    /// Orders that a request with these elements is refused for a minute. The order of the digests does not matter.
    pub fn refuse_repeats(&self, agent: Option<&str>, digests: &[u64], refused: Refused, now: u64) {
        if digests.is_empty() {
            return;
        }
        let mut inner = self.inner.lock();
        inner.orders.retain(|order| order.until > now);
        if inner.orders.len() >= MAX_ORDERS {
            inner.orders.remove(0);
        }
        let order =
            Order { agent: agent.map(Into::into), digests: sorted(digests), until: now + REFUSED, refused };
        inner.orders.push(order);
    }

    /// Orders that every request is refused until the order to kill the session is in force.
    pub fn refuse_all(&self, refused: Refused) {
        self.inner.lock().killed = Some(refused);
    }

    /// Returns why a request with these elements was refused in the last minute, or why the session is being killed.
    pub fn repeats(&self, agent: Option<&str>, digests: &[u64], now: u64) -> Option<Refused> {
        let inner = self.inner.lock();
        if inner.killed.is_some() {
            return inner.killed.clone();
        }
        if digests.is_empty() || inner.orders.is_empty() {
            return None;
        }
        let digests = sorted(digests);
        let is_it =
            |order: &&Order| order.until > now && order.agent.as_deref() == agent && order.digests == digests;
        inner.orders.iter().find(is_it).map(|order| order.refused.clone())
    }

    /// Returns how long the session has to wait by a rule that slows it down, in milliseconds; the time is taken.
    /// Waits longer than `most` are not begun: they are returned as an error.
    pub fn pace(&self, rule: &Rule, now: u64, most: u64) -> Result<u64, u64> {
        let Some(rate) = rule.rate.filter(|rate| rate.count > 0) else { return Ok(0) };
        let every = (rate.period.millis() / rate.count).max(1);
        let mut inner = self.inner.lock();
        let at = match inner.paces.iter().position(|(known, _)| *known == rule.id) {
            Some(at) => at,
            None => {
                if inner.paces.len() >= MAX_PACES {
                    inner.paces.remove(0);
                }
                inner.paces.push((Arc::clone(&rule.id), now));
                inner.paces.len() - 1
            }
        };
        let next = inner.paces[at].1.max(now);
        let wait = next - now;
        if wait > most {
            return Err(wait);
        }
        inner.paces[at].1 = next + every;
        Ok(wait)
    }
}

impl Inner {
    fn note(&mut self, rule: &Rule) {
        if let Some(known) = self.rules.iter_mut().find(|known| known.rule == rule.id) {
            known.count += 1;
        } else if self.rules.len() < MAX_RULES {
            let Rule { id, action, severity, .. } = rule;
            let rule = Arc::clone(id);
            self.rules.push(RuleCount { rule, action: *action, severity: *severity, count: 1 });
        }
    }

    fn score_at(&self, now: u64) -> f64 {
        self.score * (-(now.saturating_sub(self.at) as f64) / HALF_LIFE).exp2()
    }
}

fn sorted(digests: &[u64]) -> Box<[u64]> {
    let mut digests: Box<[u64]> = digests.into();
    digests.sort_unstable();
    digests
}
