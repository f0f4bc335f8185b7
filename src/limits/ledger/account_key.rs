//! What identifies an account.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::{Arc, LazyLock};

use crate::limits::amount::CostUnit;

/// Callers choose names, so the hash is keyed: nobody can make up names that collide.
static KEYED: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Identifies an account. Its hash is computed once, because a request looks its accounts up several times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountKey {
    hash: u64,
    /// The budget.
    pub budget: Arc<str>,
    /// What it counts.
    pub unit: CostUnit,
    /// The name that its expression gives.
    pub name: Box<str>,
    /// The beginning of the period as a number that is larger for later ones; so nothing is ever reset.
    pub start: u128,
}

impl AccountKey {
    /// Creates the key of an account.
    pub fn new(budget: Arc<str>, unit: CostUnit, name: Box<str>, start: u128) -> Self {
        let hash = KEYED.hash_one((&budget, unit, &name, start));
        Self { hash, budget, unit, name, start }
    }
}

impl Hash for AccountKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// A map by account.
pub(super) type ByAccount<V> = HashMap<AccountKey, V, BuildHasherDefault<Computed>>;

/// Passes on the hash that was computed before.
#[derive(Debug, Default)]
pub(super) struct Computed(u64);

impl Hasher for Computed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        debug_assert!(false, "an account key writes one number, not {} bytes", bytes.len());
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
