//! The table of elements that were found clean, so that the history of a conversation is read once.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Entries that a key may stand in.
const WAYS: usize = 4;
/// Entries of a page, which is made when it is first written.
const PAGE: usize = 4096;

/// A table of fixed size without locks. Only elements in which nothing was found enter; one that was displaced is read again.
///
/// Keys are digests with a secret of this process (SipHash-1-3 with 128 bits), so nobody can prepare a text whose key is that
/// of another.
#[derive(Debug)]
pub struct Judged {
    pages: Box<[OnceLock<Box<[Entry]>>]>,
    secret: [u64; 2],
}

/// The two halves of a key; zero if there is none.
#[derive(Debug, Default)]
struct Entry([AtomicU64; 2]);

impl Judged {
    /// A table of about `bytes` bytes; with fewer than 64 KiB it remembers nothing.
    pub fn new(bytes: usize) -> Self {
        let state = RandomState::new();
        let random = |number: u64| {
            let mut hasher = state.build_hasher();
            hasher.write_u64(number);
            hasher.finish()
        };
        let pages = bytes / (PAGE * size_of::<Entry>());
        Self { pages: (0..pages).map(|_| OnceLock::new()).collect(), secret: [random(0), random(1)] }
    }

    /// Whether the element with this key was found clean.
    pub fn is_clean(&self, key: u128) -> bool {
        let Some((page, set)) = self.place(key) else { return false };
        let Some(entries) = self.pages[page].get() else { return false };
        entries[set..set + WAYS].iter().any(|entry| entry.is(key))
    }

    /// Remembers that the element with this key is clean.
    pub fn note_clean(&self, key: u128) {
        let Some((page, set)) = self.place(key) else { return };
        let entries = self.pages[page].get_or_init(|| (0..PAGE).map(|_| Entry::default()).collect());
        let ways = &entries[set..set + WAYS];
        if ways.iter().any(|entry| entry.is(key)) {
            return;
        }
        let free = ways.iter().position(|entry| entry.is(0));
        let way = free.unwrap_or((key >> 62) as usize % WAYS);
        let (high, low) = halves(key);
        ways[way].0[0].store(high, Ordering::Relaxed);
        ways[way].0[1].store(low, Ordering::Relaxed);
    }

    /// The key of an element: a digest of its parts (principal, generation of the rules, role, bytes).
    pub fn key(&self, parts: &[&[u8]]) -> u128 {
        let mut hash = SipHash::<1, 3>::new(self.secret);
        for part in parts {
            // The length first: no two lists of parts are the same words.
            hash.word(part.len() as u64);
            let (words, rest) = part.as_chunks::<8>();
            words.iter().for_each(|word| hash.word(u64::from_le_bytes(*word)));
            if !rest.is_empty() {
                let mut last = [0; 8];
                last[..rest.len()].copy_from_slice(rest);
                hash.word(u64::from_le_bytes(last));
            }
        }
        hash.word(parts.len() as u64);
        // Zero stands for an empty entry.
        hash.finish().max(1)
    }

    fn place(&self, key: u128) -> Option<(usize, usize)> {
        let page = (key as u64 as usize).checked_rem(self.pages.len())?;
        let set = (key >> 96) as usize % (PAGE / WAYS) * WAYS;
        Some((page, set))
    }
}

impl Entry {
    fn is(&self, key: u128) -> bool {
        let (high, low) = halves(key);
        self.0[0].load(Ordering::Relaxed) == high && self.0[1].load(Ordering::Relaxed) == low
    }
}

fn halves(key: u128) -> (u64, u64) {
    ((key >> 64) as u64, key as u64)
}

/// SipHash with 128 bits, `C` rounds for each word and `D` at the end (Aumasson and Bernstein).
struct SipHash<const C: usize, const D: usize> {
    v: [u64; 4],
}

impl<const C: usize, const D: usize> SipHash<C, D> {
    fn new(key: [u64; 2]) -> Self {
        let [low, high] = key;
        Self {
            v: [
                low ^ 0x736f_6d65_7073_6575,
                high ^ 0x646f_7261_6e64_6f6d ^ 0xee,
                low ^ 0x6c79_6765_6e65_7261,
                high ^ 0x7465_6462_7974_6573,
            ],
        }
    }

    #[inline(always)]
    fn word(&mut self, word: u64) {
        self.v[3] ^= word;
        self.rounds(C);
        self.v[0] ^= word;
    }

    fn finish(mut self) -> u128 {
        self.v[2] ^= 0xee;
        self.rounds(D);
        let low = self.v[0] ^ self.v[1] ^ self.v[2] ^ self.v[3];
        self.v[1] ^= 0xdd;
        self.rounds(D);
        let high = self.v[0] ^ self.v[1] ^ self.v[2] ^ self.v[3];
        u128::from(high) << 64 | u128::from(low)
    }

    #[inline(always)]
    fn rounds(&mut self, count: usize) {
        let [mut a, mut b, mut c, mut d] = self.v;
        for _ in 0..count {
            a = a.wrapping_add(b);
            b = b.rotate_left(13) ^ a;
            a = a.rotate_left(32);
            c = c.wrapping_add(d);
            d = d.rotate_left(16) ^ c;
            a = a.wrapping_add(d);
            d = d.rotate_left(21) ^ a;
            c = c.wrapping_add(b);
            b = b.rotate_left(17) ^ c;
            c = c.rotate_left(32);
        }
        self.v = [a, b, c, d];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_reference() {
        // The first and the ninth vector of the reference (key 00 01 … 0f, input 00 01 …), SipHash-2-4 with 128 bits: the
        // length is the highest byte of the last word.
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let digest = |words: &[u64]| {
            let mut hash = SipHash::<2, 4>::new(key);
            words.iter().for_each(|word| hash.word(*word));
            hash.finish().to_le_bytes()
        };
        let empty =
            [0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02, 0x93];
        assert_eq!(digest(&[0]), empty);
    }

    #[test]
    fn what_is_clean_is_known_and_nothing_else() {
        let table = Judged::new(1 << 20);
        let keys: Vec<u128> =
            (0..1000_u32).map(|number| table.key(&[b"principal", &number.to_le_bytes()])).collect();
        keys.iter().for_each(|key| assert!(!table.is_clean(*key)));
        keys.iter().step_by(2).for_each(|key| table.note_clean(*key));
        for (number, key) in keys.iter().enumerate() {
            assert_eq!(table.is_clean(*key), number % 2 == 0);
        }
    }

    #[test]
    fn a_full_table_forgets_the_oldest_and_an_empty_one_knows_nothing() {
        let table = Judged::new(64 << 10);
        for number in 0..100_000_u32 {
            let key = table.key(&[&number.to_le_bytes()]);
            table.note_clean(key);
            assert!(table.is_clean(key));
        }
        let known =
            (0..100_000_u32).filter(|number| table.is_clean(table.key(&[&number.to_le_bytes()]))).count();
        assert!((3000..=4096).contains(&known), "{known}");
        let none = Judged::new(0);
        none.note_clean(1);
        assert!(!none.is_clean(1) && !none.is_clean(0));
    }

    #[test]
    fn parts_do_not_run_into_each_other_and_processes_have_keys_of_their_own() {
        let table = Judged::new(0);
        let lists: [&[&[u8]]; 6] =
            [&[b"ab", b"c"], &[b"a", b"bc"], &[b"abc"], &[b"abc", b""], &[b"", b"abc"], &[b"abc\0"]];
        for (at, list) in lists.iter().enumerate() {
            assert_eq!(table.key(list), table.key(list));
            lists[..at].iter().for_each(|other| assert_ne!(table.key(list), table.key(other)));
        }
        assert_ne!(table.key(&[b"a"]), Judged::new(0).key(&[b"a"]));
    }
}
