//! Answers whose tokens are still to be counted: they go on without the request that asked for them, in the background or
//! after their stream was cut, and are read by later requests of the same caller, whatever their session.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::ids::PrincipalId;

/// Most answers of one caller that are remembered.
const PER_CALLER: usize = 64;
/// Most answers that are remembered.
const ALL: usize = 4096;
/// Longest id that is remembered, in bytes.
const MAX_ID: usize = 128;

/// The ids of such answers, the oldest first. Where one finds no room, the oldest of its caller, else the oldest of all is
/// forgotten.
#[derive(Default)]
pub(crate) struct AwaitedAnswers(Mutex<VecDeque<(PrincipalId, Box<str>)>>);

impl AwaitedAnswers {
    /// Remembers that no tokens of this answer were counted yet.
    pub(super) fn insert(&self, caller: &PrincipalId, answer: &str) {
        let mut awaited = self.0.lock();
        if answer.len() > MAX_ID || awaited.iter().any(|known| is(known, caller, answer)) {
            return;
        }
        let own = awaited.iter().filter(|(of, _)| of == caller).count();
        if own >= PER_CALLER
            && let Some(oldest) = awaited.iter().position(|(of, _)| of == caller)
        {
            awaited.remove(oldest);
        } else if awaited.len() >= ALL {
            awaited.pop_front();
        }
        awaited.push_back((caller.clone(), answer.into()));
    }

    /// Returns whether the tokens of this answer are still to be counted, and forgets it.
    pub(super) fn remove(&self, caller: &PrincipalId, answer: &str) -> bool {
        let mut awaited = self.0.lock();
        let at = awaited.iter().position(|known| is(known, caller, answer));
        at.and_then(|at| awaited.remove(at)).is_some()
    }
}

fn is((of, id): &(PrincipalId, Box<str>), caller: &PrincipalId, answer: &str) -> bool {
    **id == *answer && of == caller
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_awaited_once_by_its_caller_and_within_bounds() {
        let (awaited, ada, eve) =
            (AwaitedAnswers::default(), PrincipalId::new("ada"), PrincipalId::new("eve"));
        assert!(!awaited.remove(&ada, "a"));
        awaited.insert(&ada, "a");
        awaited.insert(&ada, "a");
        assert!(!awaited.remove(&eve, "a"), "another caller's");
        assert!(awaited.remove(&ada, "a") && !awaited.remove(&ada, "a"));
        awaited.insert(&ada, &"x".repeat(MAX_ID + 1));
        awaited.insert(&eve, "first");
        for number in 0..=PER_CALLER {
            awaited.insert(&ada, &number.to_string());
        }
        assert!(!awaited.remove(&ada, "0") && awaited.remove(&ada, "1"));
        assert!(awaited.remove(&eve, "first"), "one caller takes no other's room");
        for number in 0..=ALL {
            awaited.insert(&PrincipalId::new(number.to_string()), "a");
        }
        assert_eq!(awaited.0.lock().len(), ALL);
    }
}
