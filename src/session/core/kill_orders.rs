//! The kill orders that this instance knows.
//!
//! An order is recorded here before the first leg is cut, because clients retry within milliseconds. Admission
//! checks here while it holds the registry shard.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use dashmap::DashMap;

use super::lookup::SessionRef;
use crate::clock::Moment;
use crate::ids::{AgentId, KeyId, Scope, SessionId, SessionKey};
use crate::session::views::kill_order::KillOrder;

/// Prefix of scopes that are made from credentials, with the principals' key.
const BY_CREDENTIAL: &str = "cred:";

/// All orders, at most one for each session (an id in a scope) and each agent.
#[derive(Debug, Default)]
pub(in crate::session) struct KillOrders {
    orders: DashMap<SessionId, Vec<Arc<KillOrder>>>,
    /// The principals' key of this instance.
    key: OnceLock<KeyId>,
    /// True while instances with different keys run.
    is_mixed: AtomicBool,
}

impl KillOrders {
    /// Sets the principals' key of this instance; only the first call has an effect.
    pub(super) fn set_principals_key(&self, key: KeyId) {
        let _ = self.key.set(key);
    }

    /// Sets whether instances with different keys run.
    pub(in crate::session) fn set_mixed_keys(&self, is_mixed: bool) {
        self.is_mixed.store(is_mixed, Ordering::Relaxed);
    }

    /// The key that a new order carries. While instances with different keys run, it is one that no instance has,
    /// because the scope may have been made with any of them.
    pub(in crate::session) fn principal_key(&self) -> Option<KeyId> {
        if self.is_mixed.load(Ordering::Relaxed) {
            Some(KeyId::new("mixed"))
        } else {
            self.key.get().cloned()
        }
    }

    /// True if an order applies to this session: to its scope, or to any scope made from a credential if the order
    /// was made with another key.
    pub(super) fn is_against(&self, order: &KillOrder, key: &SessionKey) -> bool {
        order.session_id == key.id
            && (order.scope == key.scope || self.is_foreign(order) && by_credential(&key.scope))
    }

    fn is_foreign(&self, order: &KillOrder) -> bool {
        let Some(theirs) = &order.principal_key else { return false };
        by_credential(&order.scope) && self.key.get().is_some_and(|own| own != theirs)
    }

    /// Records an order in place of an older one for the same session or agent.
    pub(in crate::session) fn record(&self, order: Arc<KillOrder>) {
        let mut orders = self.orders.entry(order.session_id.clone()).or_default();
        orders.retain(|old| (&old.scope, &old.agent) != (&order.scope, &order.agent));
        orders.push(order);
    }

    /// The order that refuses this whole session now.
    pub(in crate::session) fn in_force(&self, key: &SessionKey, now: Moment) -> Option<Arc<KillOrder>> {
        let orders = self.orders.get(key.id.as_str())?;
        let whole = |order: &&Arc<KillOrder>| order.agent.is_none() && self.is_against(order, key);
        orders.iter().filter(whole).find(|order| order.in_force(now)).cloned()
    }

    /// The orders that refuse single agents of this session now.
    pub(super) fn agent_orders(&self, key: &SessionKey, now: Moment) -> Vec<Arc<KillOrder>> {
        let Some(orders) = self.orders.get(key.id.as_str()) else { return Vec::new() };
        let theirs = |order: &&Arc<KillOrder>| order.agent.is_some() && self.is_against(order, key);
        orders.iter().filter(theirs).filter(|order| order.in_force(now)).cloned().collect()
    }

    /// The orders in force, newest first.
    pub(in crate::session) fn all(&self, now: Moment) -> Vec<Arc<KillOrder>> {
        let mut all: Vec<_> = self
            .orders
            .iter()
            .flat_map(|entry| entry.value().clone())
            .filter(|order| order.in_force(now))
            .collect();
        all.sort_by(|a, b| b.at.cmp(&a.at).then(b.uid.cmp(&a.uid)));
        all
    }

    /// How many orders are in force.
    pub(in crate::session) fn count(&self, now: Moment) -> usize {
        self.orders.iter().map(|entry| entry.value().iter().filter(|o| o.in_force(now)).count()).sum()
    }

    /// The orders in force that `target` names (by a session id, by the uid that an order was made against, or
    /// both), including those against agents.
    pub(in crate::session) fn named(&self, target: SessionRef<'_>, now: Moment) -> Vec<Arc<KillOrder>> {
        let by_id = target.id().and_then(|id| self.orders.get(id));
        let mut named: Vec<_> = by_id.map(|orders| orders.value().clone()).unwrap_or_default();
        named.retain(|order| order.in_force(now));
        if let Some(uid) = target.uid() {
            let others = self.all(now).into_iter().filter(|order| order.uid == uid);
            let others: Vec<_> =
                others.filter(|order| !named.iter().any(|known| Arc::ptr_eq(known, order))).collect();
            named.extend(others);
        }
        named
    }

    /// Removes exactly this order; false if it was no longer there.
    pub(in crate::session) fn remove(&self, order: &Arc<KillOrder>) -> bool {
        let mut found = false;
        self.keep(&order.session_id, |other| {
            let keep = !Arc::ptr_eq(other, order);
            found |= !keep;
            keep
        });
        found
    }

    /// Records an order of another instance and returns those that it replaced; `None` if a known one is as new.
    pub(in crate::session) fn record_remote(&self, order: &Arc<KillOrder>) -> Option<Vec<Arc<KillOrder>>> {
        let mut orders = self.orders.entry(order.session_id.clone()).or_default();
        let same = |old: &Arc<KillOrder>| (&old.scope, &old.agent) == (&order.scope, &order.agent);
        if orders.iter().any(|old| same(old) && old.rev >= order.rev) {
            return None;
        }
        let replaced = orders.extract_if(.., |old| same(old)).collect();
        orders.push(order.clone());
        Some(replaced)
    }

    /// True while this order, or one that is as new, is in force.
    pub(in crate::session) fn holds(&self, order: &KillOrder, now: Moment) -> bool {
        let same = |other: &Arc<KillOrder>| {
            (&other.scope, &other.agent) == (&order.scope, &order.agent) && other.rev >= order.rev
        };
        let orders = self.orders.get(order.session_id.as_str());
        orders.is_some_and(|orders| orders.iter().any(|other| same(other) && other.in_force(now)))
    }

    /// True while an order against this session or an agent is in force that other instances must know.
    pub(in crate::session) fn has_any(&self, key: &SessionKey, now: Moment) -> bool {
        let stands =
            |order: &Arc<KillOrder>| order.scope == key.scope && order.rev > 0 && order.in_force(now);
        self.orders.get(key.id.as_str()).is_some_and(|orders| orders.iter().any(stands))
    }

    /// Removes the orders against a session or an agent up to this revision, and returns them.
    pub(super) fn remove_up_to(
        &self,
        key: &SessionKey,
        agent: Option<&AgentId>,
        rev: u64,
    ) -> Vec<Arc<KillOrder>> {
        let mut struck = Vec::new();
        self.keep(&key.id, |order| {
            let lifted = order.scope == key.scope && order.agent.as_ref() == agent && order.rev <= rev;
            if lifted {
                struck.push(order.clone());
            }
            !lifted
        });
        struck
    }

    /// Removes the placeholder for an order that could not be read before.
    pub(in crate::session) fn remove_unreadable(&self, key: &SessionKey) {
        self.keep(&key.id, |order| order.scope != key.scope || order.rev > 0);
    }

    /// Removes expired orders.
    pub(super) fn forget_expired(&self, now: Moment) {
        self.orders.retain(|_, orders| {
            orders.retain(|order| order.in_force(now));
            !orders.is_empty()
        });
    }

    fn keep(&self, id: &SessionId, keep: impl FnMut(&Arc<KillOrder>) -> bool) {
        if let dashmap::Entry::Occupied(mut orders) = self.orders.entry(id.clone()) {
            orders.get_mut().retain(keep);
            if orders.get().is_empty() {
                orders.remove();
            }
        }
    }
}

fn by_credential(scope: &Scope) -> bool {
    scope.as_str().starts_with(BY_CREDENTIAL)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::ids::Uid;
    use crate::session::views::kill_order::BlockMode;

    fn key(scope: &str) -> SessionKey {
        SessionKey { scope: Scope::new(scope), id: SessionId::new("s") }
    }

    fn order(scope: &str, principal_key: Option<&str>) -> Arc<KillOrder> {
        Arc::new(KillOrder {
            session_id: SessionId::new("s"),
            scope: Scope::new(scope),
            agent: None,
            descendants: Vec::new(),
            uid: Uid::fresh(),
            reason: String::new(),
            by: String::new(),
            at: Timestamp::UNIX_EPOCH,
            mode: BlockMode::UntilResumed,
            until: None,
            principal_key: principal_key.map(KeyId::new),
            expires: None,
            rev: 1,
        })
    }

    #[test]
    fn an_order_of_another_key_refuses_every_credential_and_one_of_the_same_key_only_its_own() {
        let now = Moment::from_millis(0);
        for (scope, made_by, refused) in [
            ("cred:1", Some("here"), &["cred:1"][..]),
            ("cred:1", None, &["cred:1"]),
            ("cred:1", Some("elsewhere"), &["cred:1", "cred:2"]),
            ("cred:1", Some("mixed"), &["cred:1", "cred:2"]),
            ("anon:::1", Some("elsewhere"), &["anon:::1"]),
            ("", Some("elsewhere"), &[""]),
        ] {
            let orders = KillOrders::default();
            orders.set_principals_key(KeyId::new("here"));
            orders.record(order(scope, made_by));
            for asked in ["cred:1", "cred:2", "anon:::1", ""] {
                let found = orders.in_force(&key(asked), now).is_some();
                assert_eq!(found, refused.contains(&asked), "{scope} {made_by:?}: {asked}");
            }
        }
    }

    #[test]
    fn while_keys_are_mixed_an_order_names_no_key_that_an_instance_has() {
        let orders = KillOrders::default();
        orders.set_principals_key(KeyId::new("here"));
        assert_eq!(orders.principal_key(), Some(KeyId::new("here")));
        orders.set_mixed_keys(true);
        assert_eq!(orders.principal_key(), Some(KeyId::new("mixed")));
    }
}
