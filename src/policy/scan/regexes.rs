//! Confirms regular expressions around the literals that they need.
//!
//! A literal opens a region of the folded text in which a match may lie; regions that overlap are one. Each region is
//! searched once as it comes, for matches that end as early as possible: so the event that completes one is known, and the
//! hits do not depend on how the text was divided.

use std::collections::HashSet;
use std::sync::Arc;

use regex_automata::hybrid::dfa;
use regex_automata::hybrid::regex::{Builder, Cache, Regex};
use regex_automata::nfa::thompson::{Compiler, Config, NFA, WhichCaptures};
use regex_automata::util::pool::Pool;
use regex_automata::{Input, MatchKind};
use regex_syntax::hir::Hir;

use super::literals::{MAX_MATCH, Needles, Refusal};

/// Most bytes of a compiled expression.
const MAX_SIZE: usize = 256 << 10;
/// What a search may remember of an expression, in bytes.
const CACHE: usize = 256 << 10;

/// A compiled expression.
pub(super) struct Expression {
    pub(super) pattern: u32,
    /// The most bytes before and after the start of a literal; `None`: it is searched in all text.
    pub(super) reach: Option<(u64, u64)>,
    /// It looks at the character behind its end.
    looks_ahead: bool,
    regex: Arc<Regex>,
    caches: Pool<
        Cache,
        Box<dyn Fn() -> Cache + Send + Sync + std::panic::UnwindSafe + std::panic::RefUnwindSafe>,
    >,
}

/// Where an expression is searched.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Region {
    from: u64,
    until: u64,
    /// Matches that end up to here are known.
    searched: u64,
    /// Where the last match ended.
    taken: u64,
}

impl Region {
    /// Whether a match may still end in it.
    pub(super) fn is_open(&self) -> bool {
        self.until > self.searched
    }
}

/// The folded text that is kept.
#[derive(Clone, Copy)]
pub(super) struct Folded<'a> {
    pub(super) bytes: &'a [u8],
    /// The place of the first of them in the whole.
    pub(super) from: u64,
    /// Nothing follows.
    pub(super) is_over: bool,
}

impl Folded<'_> {
    fn end(&self) -> u64 {
        self.from + self.bytes.len() as u64
    }
}

impl Expression {
    /// Compiles an expression.
    ///
    /// # Errors
    /// It is too large.
    pub(super) fn compile(
        pattern: u32,
        hir: &Hir,
        needles: Option<&Needles>,
        text: &str,
    ) -> Result<Self, Refusal> {
        let refused = |_: String| {
            (
                format!("the regular expression '{text}' is too large"),
                "let it repeat less, or divide it into several",
            )
        };
        let nfa = |is_reverse| -> Result<NFA, Refusal> {
            let config = Config::new()
                .utf8(false)
                .reverse(is_reverse)
                .which_captures(WhichCaptures::None)
                .nfa_size_limit(Some(MAX_SIZE));
            Compiler::new().configure(config).build_from_hir(hir).map_err(|error| refused(error.to_string()))
        };
        let dfa = |nfa| {
            let config = dfa::Config::new()
                .match_kind(MatchKind::All)
                .cache_capacity(CACHE)
                .skip_cache_capacity_check(true);
            dfa::Builder::new()
                .configure(config)
                .build_from_nfa(nfa)
                .map_err(|error| refused(error.to_string()))
        };
        let regex = Arc::new(Builder::new().build_from_dfas(dfa(nfa(false)?)?, dfa(nfa(true)?)?));
        if never_matches(&regex) {
            let message = format!("the regular expression '{text}' matches no text as it is read");
            return Err((
                message,
                "small letters, one blank for white space, and no character that is not shown are read",
            ));
        }
        let template = Arc::clone(&regex);
        Ok(Self {
            pattern,
            reach: needles.map(|needles| (needles.before as u64, needles.after as u64)),
            looks_ahead: !hir.properties().look_set_suffix_any().is_empty(),
            regex,
            caches: Pool::new(Box::new(move || template.create_cache())),
        })
    }

    /// Opens the region around a literal that starts here, after searching one that it does not touch.
    pub(super) fn open(
        &self,
        region: &mut Region,
        literal: u64,
        text: Folded<'_>,
        on: &mut dyn FnMut(u64, u64),
    ) {
        let Some((before, after)) = self.reach else { return };
        let from = literal.saturating_sub(before);
        if from > region.until {
            self.search(region, text, on);
            region.from = from;
            region.searched = region.searched.max(from);
        } else if !region.is_open() {
            // The last one was searched and ended; a match may begin in it.
            region.searched = region.until.max(region.searched);
        }
        region.until = region.until.max(literal + after);
    }

    /// Searches what has come of the region.
    pub(super) fn search(&self, region: &mut Region, text: Folded<'_>, on: &mut dyn FnMut(u64, u64)) {
        if self.reach.is_none() {
            region.until = u64::MAX;
        }
        let known = text.end() - u64::from(self.looks_ahead && !text.is_over && text.end() > text.from);
        let limit = known.min(region.until);
        if limit <= region.searched {
            return;
        }
        let mut cache = self.caches.get();
        loop {
            let start = region
                .from
                .max(region.taken)
                .max(region.searched.saturating_sub(MAX_MATCH as u64))
                .max(text.from);
            if start >= limit {
                break;
            }
            let span = (start - text.from) as usize..(limit - text.from) as usize;
            let input = Input::new(text.bytes).range(span).earliest(true);
            match self.regex.try_search(&mut cache, &input) {
                Ok(Some(found)) => {
                    let (start, end) = (text.from + found.start() as u64, text.from + found.end() as u64);
                    region.taken = end;
                    region.searched = end;
                    on(start, end);
                }
                // It cannot fail: no byte ends a search, and the cache is cleared as often as needed.
                Ok(None) | Err(_) => break,
            }
        }
        region.searched = limit;
    }
}

/// States that are looked at to find out whether an expression can match; with more, it may.
const LOOKED_AT: usize = 64;

/// Whether no folded text matches.
fn never_matches(regex: &Regex) -> bool {
    let (dfa, mut cache) = (regex.forward(), regex.forward().create_cache());
    let Ok(start) = dfa.start_state_forward(&mut cache, &Input::new("")) else { return false };
    // Folded text does not begin with a blank, and never has two in a row.
    let mut known = HashSet::from([(start, true)]);
    let mut open = vec![(start, true)];
    while let Some((state, is_behind_blank)) = open.pop() {
        if dfa.next_eoi_state(&mut cache, state).map_or(true, |end| end.is_match()) {
            return false;
        }
        let folded = (b' '..=b'~').chain(0x80..=0xff).filter(|byte| !byte.is_ascii_uppercase());
        for byte in folded.filter(|byte| !(is_behind_blank && *byte == b' ')) {
            let Ok(next) = dfa.next_state(&mut cache, state, byte) else { return false };
            let is_new = !next.is_dead() && known.insert((next, byte == b' '));
            if next.is_match() || known.len() > LOOKED_AT || cache.clear_count() > 0 {
                return false;
            }
            if is_new {
                open.push((next, byte == b' '));
            }
        }
    }
    true
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Expression").field("pattern", &self.pattern).finish_non_exhaustive()
    }
}
