//! The agents within one session, as a tree: who started whom, what each did, and which are killed.
//!
//! Names and parents come from the client: they are labels, not authority. The main agent has no name and is the
//! root; an agent without a known parent is a child of the root. At most [`MOST`] agents are tracked. A further
//! agent replaces the one that has been idle longest, provided that it has no open request and no children, and its
//! totals are added to `other agents`.
//!
//! An order against an agent is applied to its session under the session's lock, the same lock under which legs
//! open: afterwards no leg opens for that agent or its descendants.

use std::iter;
use std::sync::Arc;

use super::cut::Cut;
use super::session::{Inner, OpenLeg, Session};
use super::totals::SessionTotals;
use crate::clock::{Clock, Moment};
use crate::ids::{AgentId, LegId};
use crate::protocol::facts::usage::Usage;
use crate::session::views::agent_view::{AgentView, MAIN_AGENT, OTHER_AGENTS};
use crate::session::views::kill_order::KillOrder;
use crate::session::views::state::{Identity, SessionState};

/// Agents tracked in one session, which also bounds the depth of the tree.
const MOST: usize = 128;

/// Index of an agent in its session's tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) struct AgentIndex(u16);

impl AgentIndex {
    /// The main agent.
    pub(super) const MAIN: Self = Self(0);
    /// Agents that are not tracked.
    const OTHER: Self = Self(u16::MAX);
}

#[derive(Debug)]
struct Agent {
    id: AgentId,
    /// `None` for the main agent.
    parent: Option<AgentIndex>,
    /// True if the client named the parent.
    parent_told: bool,
    children: u16,
    first_seen: Moment,
    last_seen: Moment,
    sums: AgentTotals,
}

#[derive(Clone, Copy, Debug, Default)]
pub(in crate::session) struct AgentTotals {
    requests: u64,
    open: u32,
    pub(in crate::session) usage: Usage,
}

/// The agents of a session with more than the main agent, or with an order against an agent.
#[derive(Debug)]
pub(in crate::session) struct Agents {
    /// The main agent is at index 0.
    tree: Vec<Agent>,
    /// Totals of agents that are no longer tracked.
    others: AgentTotals,
    /// The last order against each agent, including lifted and expired ones, for the record.
    orders: Vec<AgentOrder>,
}

#[derive(Debug)]
struct AgentOrder {
    order: Arc<KillOrder>,
    lifted: bool,
}

impl Agents {
    /// A tree with only the main agent.
    fn rooted(sums: AgentTotals, first_seen: Moment, last_seen: Moment) -> Self {
        let main = Agent {
            id: AgentId::new(MAIN_AGENT),
            parent: None,
            parent_told: false,
            children: 0,
            first_seen,
            last_seen,
            sums,
        };
        Self { tree: vec![main], others: AgentTotals::default(), orders: Vec::new() }
    }

    /// Counts a request of an agent, or returns the order that refuses it.
    fn enter(&mut self, who: &Identity, now: Moment) -> Result<AgentIndex, Arc<KillOrder>> {
        let parent = who.parent_agent_id.as_ref().filter(|_| who.agent_id.is_some());
        let above = parent.map(|parent| self.place_of(parent, None, AgentIndex::MAIN, now));
        let place = match &who.agent_id {
            Some(agent) => self.place_of(agent, above, above.unwrap_or(AgentIndex::MAIN), now),
            None => AgentIndex::MAIN,
        };
        if let Some(agent) = self.tree.get_mut(usize::from(place.0)) {
            agent.last_seen = now;
        }
        // The parent named now may differ from the one named first.
        let told = [who.agent_id.as_ref(), parent];
        let refuses = |order: &&Arc<KillOrder>| {
            self.is_under(place, order)
                || above.is_some_and(|above| self.is_under(above, order))
                || told.into_iter().flatten().any(|name| order.covers(name))
        };
        if let Some(order) = self.in_force(now).find(refuses) {
            return Err(Arc::clone(order));
        }
        let sums = self.sums(place);
        sums.requests += 1;
        sums.open += 1;
        Ok(place)
    }

    /// Counts the end of a request.
    fn leave(&mut self, place: AgentIndex, usage: Option<Usage>, now: Moment) {
        if let Some(agent) = self.tree.get_mut(usize::from(place.0)) {
            agent.last_seen = now;
        }
        let sums = self.sums(place);
        sums.open = sums.open.saturating_sub(1);
        sums.usage += usage.unwrap_or_default();
    }

    pub(in crate::session) fn sums(&mut self, place: AgentIndex) -> &mut AgentTotals {
        self.tree.get_mut(usize::from(place.0)).map_or(&mut self.others, |agent| &mut agent.sums)
    }

    /// Adds an order in place of an older one against the same agent.
    fn order(&mut self, order: &Arc<KillOrder>) {
        self.orders.retain(|old| old.order.agent != order.agent);
        self.orders.push(AgentOrder { order: Arc::clone(order), lifted: false });
    }

    fn in_force(&self, now: Moment) -> impl Iterator<Item = &Arc<KillOrder>> {
        let standing = move |laid: &&AgentOrder| !laid.lifted && laid.order.in_force(now);
        self.orders.iter().filter(standing).map(|laid| &laid.order)
    }

    /// The agents from this one up to the main agent; empty for agents that are not tracked.
    fn line(&self, place: AgentIndex) -> impl Iterator<Item = (AgentIndex, &Agent)> {
        let at = |place: AgentIndex| self.tree.get(usize::from(place.0)).map(|agent| (place, agent));
        iter::successors(at(place), move |(_, agent)| agent.parent.and_then(at))
    }

    /// How many agents lie above this one.
    pub(super) fn depth(&self, place: AgentIndex) -> u64 {
        match self.line(place).count() as u64 {
            // Not tracked: below the main agent, as far as is known.
            0 => 1,
            agents => agents - 1,
        }
    }

    fn is_under(&self, place: AgentIndex, order: &KillOrder) -> bool {
        self.line(place).any(|(_, agent)| order.covers(&agent.id))
    }

    /// The order that refuses this agent.
    fn refusal(&self, place: AgentIndex, now: Moment) -> Option<&Arc<KillOrder>> {
        self.in_force(now).find(|order| self.is_under(place, order))
    }

    /// The index of an agent below `parent`. A new agent gets an index other than `keep`.
    fn place_of(
        &mut self,
        id: &AgentId,
        parent: Option<AgentIndex>,
        keep: AgentIndex,
        now: Moment,
    ) -> AgentIndex {
        if let Some(at) = self.tree.iter().position(|agent| agent.id == *id) {
            let place = AgentIndex(at as u16);
            self.adopt(place, parent);
            return place;
        }
        // Agents that are not tracked have no children.
        let above = parent.filter(|parent| *parent != AgentIndex::OTHER).unwrap_or(AgentIndex::MAIN);
        let agent = Agent {
            id: id.clone(),
            parent: Some(above),
            parent_told: parent.is_some(),
            children: 0,
            first_seen: now,
            last_seen: now,
            sums: AgentTotals::default(),
        };
        let place = if self.tree.len() < MOST {
            self.tree.push(agent);
            AgentIndex((self.tree.len() - 1) as u16)
        } else {
            let Some(quiet) = self.quietest(keep, now) else { return AgentIndex::OTHER };
            self.forget(quiet);
            self.tree[quiet] = agent;
            AgentIndex(quiet as u16)
        };
        self.tree[usize::from(above.0)].children += 1;
        place
    }

    /// Moves an agent below the parent that its client names for the first time, unless that would create a cycle.
    fn adopt(&mut self, place: AgentIndex, parent: Option<AgentIndex>) {
        let Some(parent) = parent.filter(|parent| *parent != AgentIndex::OTHER) else { return };
        let child = &self.tree[usize::from(place.0)];
        let Some(before) = child.parent.filter(|_| !child.parent_told) else { return };
        if self.line(parent).any(|(above, _)| above == place) {
            return;
        }
        self.tree[usize::from(before.0)].children -= 1;
        self.tree[usize::from(parent.0)].children += 1;
        let child = &mut self.tree[usize::from(place.0)];
        (child.parent, child.parent_told) = (Some(parent), true);
    }

    /// The agent to drop: the longest idle one without children and open legs. Killed agents are dropped last.
    fn quietest(&self, keep: AgentIndex, now: Moment) -> Option<usize> {
        let leaves = self.tree.iter().enumerate().skip(1);
        leaves
            .filter(|(at, agent)| agent.children == 0 && agent.sums.open == 0 && *at != usize::from(keep.0))
            .min_by_key(|(at, agent)| (self.refusal(AgentIndex(*at as u16), now).is_some(), agent.last_seen))
            .map(|(at, _)| at)
    }

    /// Adds the totals of an agent that is about to be replaced to the others.
    fn forget(&mut self, at: usize) {
        let Agent { sums, parent, .. } = &self.tree[at];
        self.others.requests += sums.requests;
        self.others.usage += sums.usage;
        if let Some(parent) = *parent {
            self.tree[usize::from(parent.0)].children -= 1;
        }
    }

    /// The agents that sent requests, in order of first use.
    fn names(&self) -> Vec<AgentId> {
        let mut spoke: Vec<&Agent> = self.tree.iter().filter(|agent| agent.sums.requests > 0).collect();
        spoke.sort_by_key(|agent| agent.first_seen);
        let other = (self.others.requests > 0).then(|| AgentId::new(OTHER_AGENTS));
        spoke.into_iter().map(|agent| agent.id.clone()).chain(other).collect()
    }

    /// The tree in depth-first order, parents before children.
    fn views(&self, clock: &Clock, now: Moment) -> Vec<AgentView> {
        let mut below: Vec<Vec<usize>> = vec![Vec::new(); self.tree.len()];
        for (at, agent) in self.tree.iter().enumerate().rev() {
            if let Some(parent) = agent.parent {
                below[usize::from(parent.0)].push(at);
            }
        }
        let mut views = Vec::with_capacity(self.tree.len() + 1);
        let mut next = vec![(0, 0)];
        while let Some((at, depth)) = next.pop() {
            views.push(self.view(at, depth, clock, now));
            next.extend(below[at].iter().map(|child| (*child, depth + 1)));
        }
        if self.others.requests > 0
            && let Some(main) = views.first()
        {
            let AgentTotals { requests, open, usage } = self.others;
            let (id, parent) = (AgentId::new(OTHER_AGENTS), Some(main.id.clone()));
            views.push(AgentView { id, parent, depth: 1, requests, open_legs: open, usage, ..main.clone() });
        }
        views
    }

    fn view(&self, at: usize, depth: usize, clock: &Clock, now: Moment) -> AgentView {
        let agent = &self.tree[at];
        let is_killed = self.refusal(AgentIndex(at as u16), now).is_some();
        AgentView {
            id: agent.id.clone(),
            parent: agent.parent.map(|parent| self.tree[usize::from(parent.0)].id.clone()),
            depth,
            state: if is_killed { SessionState::Killed } else { SessionState::Active },
            first_seen: clock.wall(agent.first_seen),
            last_seen: clock.wall(agent.last_seen),
            requests: agent.sums.requests,
            open_legs: agent.sums.open,
            usage: agent.sums.usage,
        }
    }
}

impl Inner {
    /// The agent that sends a request, or the order that refuses it. A session with only the main agent keeps no
    /// tree.
    pub(super) fn enter(
        &mut self,
        session: &Session,
        who: &Identity,
        now: Moment,
    ) -> Result<AgentIndex, Arc<KillOrder>> {
        if self.agents.is_none() && who.agent_id.is_none() {
            return Ok(AgentIndex::MAIN);
        }
        self.agents(session).enter(who, now)
    }

    /// Counts the end of a request of an agent.
    pub(in crate::session) fn leave(&mut self, place: AgentIndex, usage: Option<Usage>, now: Moment) {
        if let Some(agents) = &mut self.agents {
            agents.leave(place, usage, now);
        }
    }

    fn agents(&mut self, session: &Session) -> &mut Agents {
        let Self { agents, legs, totals, .. } = self;
        agents.get_or_insert_with(|| Box::new(root(session, legs.len(), totals)))
    }

    /// The agents that sent requests, in order of first use.
    pub(super) fn agent_names(&self) -> Vec<AgentId> {
        self.agents.as_ref().map_or_else(|| vec![AgentId::new(MAIN_AGENT)], |agents| agents.names())
    }

    /// The tree of agents in depth-first order.
    pub(super) fn agent_views(&self, session: &Session, clock: &Clock, now: Moment) -> Vec<AgentView> {
        match &self.agents {
            Some(agents) => agents.views(clock, now),
            None => root(session, self.legs.len(), &self.totals).views(clock, now),
        }
    }

    /// The last order against each agent that was killed.
    pub(in crate::session) fn agent_kills(&self) -> Vec<Arc<KillOrder>> {
        let laid = self.agents.iter().flat_map(|agents| &agents.orders);
        laid.map(|laid| Arc::clone(&laid.order)).collect()
    }
}

/// The tree of a session with only the main agent so far.
fn root(session: &Session, open_legs: usize, totals: &SessionTotals) -> Agents {
    let main = AgentTotals { requests: session.requests(), open: open_legs as u32, usage: totals.usage() };
    Agents::rooted(main, session.started(), session.last_activity())
}

impl Session {
    /// Refuses an agent and its descendants from now on. Returns the slots of their open legs, which the caller
    /// cuts.
    pub(super) fn order_agent(&self, order: &Arc<KillOrder>) -> Vec<Arc<Cut>> {
        let mut inner = self.inner();
        if inner.state != SessionState::Active {
            return Vec::new();
        }
        inner.agents(self).order(order);
        let Inner { agents, legs, .. } = &*inner;
        let under = |leg: &&OpenLeg| agents.as_ref().is_some_and(|agents| agents.is_under(leg.agent, order));
        legs.iter().map(|leg| &**leg).filter(under).map(|leg| Arc::clone(&leg.cut)).collect()
    }

    /// Lifts exactly this order against an agent.
    pub(super) fn lift(&self, order: &Arc<KillOrder>) {
        if let Some(agents) = &mut self.inner().agents {
            agents
                .orders
                .iter_mut()
                .filter(|laid| Arc::ptr_eq(&laid.order, order))
                .for_each(|laid| laid.lifted = true);
        }
    }

    /// The order that cut an open leg: against its agent or against the session.
    pub(super) fn order_refusing(&self, leg: LegId, now: Moment) -> Option<Arc<KillOrder>> {
        let inner = self.inner();
        if let Some(order) = inner.end.as_ref().and_then(|end| end.order.clone()) {
            return Some(order);
        }
        let place = inner.legs.iter().find(|open| open.id == leg)?.agent;
        inner.agents.as_ref()?.refusal(place, now).cloned()
    }
}

#[cfg(test)]
mod tests;
