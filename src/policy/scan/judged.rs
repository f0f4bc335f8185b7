//! The table of elements that were found clean, so that the history of a conversation is read once.

use std::sync::atomic::{AtomicU64, Ordering};

/// A table of fixed size without locks. Only elements in which nothing was found enter; one that was displaced is read again.
#[derive(Debug)]
pub struct Judged {
    slots: Box<[AtomicU64]>,
}

impl Judged {
    /// A table of about `bytes` bytes; zero remembers nothing.
    pub fn new(bytes: usize) -> Self {
        Self { slots: (0..bytes / 8).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Whether the element with this key was found clean.
    pub fn is_clean(&self, key: u128) -> bool {
        let (index, value) = self.place(key);
        self.slots.get(index).is_some_and(|slot| slot.load(Ordering::Relaxed) == value)
    }

    /// Remembers that the element with this key is clean.
    pub fn note_clean(&self, key: u128) {
        let (index, value) = self.place(key);
        if let Some(slot) = self.slots.get(index) {
            slot.store(value, Ordering::Relaxed);
        }
    }

    /// The key of an element: a keyed digest of its parts (principal, generation of the rules, role, bytes).
    pub fn key(&self, parts: &[&[u8]]) -> u128 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hashes = [DefaultHasher::new(), DefaultHasher::new()];
        for (at, hash) in hashes.iter_mut().enumerate() {
            (at, parts).hash(hash);
        }
        u128::from(hashes[0].finish()) << 64 | u128::from(hashes[1].finish())
    }

    fn place(&self, key: u128) -> (usize, u64) {
        ((key >> 64) as usize % self.slots.len().max(1), key as u64 | 1)
    }
}
