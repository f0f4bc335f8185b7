//! What was found for the names of models that were asked for last.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::model_patterns::PatternMatch;

/// Names that are remembered; a name replaces another one that has the same place.
const PLACES: usize = 256;

/// Bytes of the longest name that is remembered; models have shorter ones.
const NAME_MAX: usize = 128;

/// Results of a search by name. Requests name few models, and matching patterns is expensive.
///
/// Bounded, whatever clients write, and without a lock. The places of names are secret, so that nobody can choose names that
/// displace those of others.
#[derive(Debug)]
pub(super) struct Found {
    places: Box<[ArcSwapOption<Entry>]>,
    order: RandomState,
}

#[derive(Debug)]
struct Entry {
    name: Box<str>,
    found: Option<PatternMatch>,
}

impl Found {
    pub(super) fn new() -> Self {
        Self { places: (0..PLACES).map(|_| ArcSwapOption::empty()).collect(), order: RandomState::new() }
    }

    /// Returns what `search` returned for this name, calling it unless that is remembered.
    pub(super) fn or_search(
        &self,
        name: &str,
        search: impl FnOnce() -> Option<PatternMatch>,
    ) -> Option<PatternMatch> {
        if name.len() > NAME_MAX {
            return search();
        }
        let place = &self.places[self.order.hash_one(name) as usize % PLACES];
        if let Some(entry) = place.load().as_deref().filter(|entry| *entry.name == *name) {
            return entry.found;
        }
        let found = search();
        place.store(Some(Arc::new(Entry { name: name.into(), found })));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_searched_once_and_displaced_by_others() {
        let found = Found::new();
        let is_searched = |name: &str, target: usize| {
            let mut is_searched = false;
            let result = found.or_search(name, || {
                is_searched = true;
                (target > 0).then_some(PatternMatch { target, rank: 0 })
            });
            assert_eq!(result.map_or(0, |found| found.target), target, "{name}");
            is_searched
        };
        assert!(is_searched("a", 7) && !is_searched("a", 7));
        assert!(is_searched("none", 0) && !is_searched("none", 0), "that there is none is known, too");
        let long = "x".repeat(NAME_MAX + 1);
        assert!(is_searched(&long, 3) && is_searched(&long, 3));
        for number in 1..5000 {
            is_searched(&format!("model-{number}"), number);
        }
        assert!(is_searched("a", 7));
    }
}
