//! Load balancing: the lowest tier with a healthy backend, in it the backend that served the session last, else the one
//! with the fewest requests in flight.

use super::health::HealthState;

/// One backend to choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Lower tiers are preferred.
    pub tier: usize,
    /// [`mark`] of its name.
    pub mark: u64,
    /// Requests in flight.
    pub load: usize,
    /// Its health.
    pub state: HealthState,
}

/// Returns the position of the chosen backend; `None` when there is none to choose from. `home` is the mark of the backend
/// that served the session last, whose prompt cache is warm. `session` is the mark of the session; it decides between equal
/// backends, in the same way on every instance. When all are ejected, the choice is made as if none were; one that is drained
/// is never chosen.
pub fn choose(candidates: &[Candidate], home: Option<u64>, session: u64) -> Option<usize> {
    let open = candidates.iter().enumerate().filter(|(_, candidate)| candidate.state != HealthState::Drained);
    let all_ejected = open.clone().all(|(_, candidate)| candidate.state == HealthState::Ejected);
    let open = open.filter(|(_, candidate)| all_ejected || candidate.state != HealthState::Ejected);
    let best = open.min_by_key(|(_, candidate)| {
        let is_home = home == Some(candidate.mark);
        let load = if is_home { 0 } else { candidate.load };
        (candidate.tier, !is_home, load, u64::MAX - weight(session, candidate.mark))
    });
    best.map(|(at, _)| at)
}

/// Returns the hash of a name: 64-bit FNV-1a, never 0, the same in every process.
pub fn mark(name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash.max(1)
}

/// Weight in rendezvous hashing: the backend with the highest weight takes the session, and when a backend goes, only its
/// own sessions move. The mixing function is SplitMix64's.
fn weight(session: u64, backend: u64) -> u64 {
    let mut mixed = session ^ backend.rotate_left(32);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(name: &str, tier: usize, load: usize, state: HealthState) -> Candidate {
        Candidate { tier, mark: mark(name), load, state }
    }

    fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let states = prop::sample::select(vec![HealthState::Up, HealthState::HalfOpen, HealthState::Ejected]);
        let one = (0..3_usize, any::<u64>(), 0..4_usize, states);
        let one = one.prop_map(|(tier, mark, load, state)| Candidate { tier, mark, load, state });
        prop::collection::vec(one, 1..8)
    }

    #[test]
    fn the_nearest_tier_that_is_well_takes_it() {
        let all = [
            candidate("a", 0, 0, HealthState::Ejected),
            candidate("b", 1, 9, HealthState::Up),
            candidate("c", 2, 0, HealthState::Up),
        ];
        assert_eq!(choose(&all, None, 1), Some(1));
        assert_eq!(choose(&all, Some(mark("c")), 1), Some(1), "home is a matter between equals");
        let out = all.map(|candidate| Candidate { state: HealthState::Ejected, ..candidate });
        assert_eq!(choose(&out, None, 1), Some(0), "when all are out, the first is tried anyway");
        assert_eq!(choose(&[], None, 1), None);
        let drained = |at: usize| Candidate { state: HealthState::Drained, ..all[at] };
        assert_eq!(choose(&[drained(0), out[1]], Some(mark("a")), 1), Some(1), "rather an ejected one");
        assert_eq!(choose(&[drained(0)], None, 1), None);
    }

    #[test]
    fn a_session_stays_and_a_new_one_goes_where_least_is_to_do() {
        let all = [candidate("a", 0, 3, HealthState::Up), candidate("b", 0, 1, HealthState::Up)];
        assert_eq!(choose(&all, None, 1), Some(1));
        assert_eq!(choose(&all, Some(mark("a")), 1), Some(0));
        let sick = [Candidate { state: HealthState::Ejected, ..all[0] }, all[1]];
        assert_eq!(choose(&sick, Some(mark("a")), 1), Some(1));
    }

    #[test]
    fn equals_share_the_sessions() {
        let all = ["a", "b", "c"].map(|name| candidate(name, 0, 0, HealthState::Up));
        let mut shares = [0; 3];
        for session in 0..3000 {
            shares[choose(&all, None, mark(&format!("session-{session}"))).unwrap()] += 1;
        }
        assert!(shares.iter().all(|share| (850..1150).contains(share)), "{shares:?}");
    }

    /// Every gateway of a fleet, of this version and of the next, must find the same backend for a session: a
    /// changed number here moves sessions away from their prompt caches while a fleet is updated.
    #[test]
    fn the_hash_has_fixed_vectors() {
        for (name, hash) in [
            // Published with FNV-1a (64 bits).
            ("", 0xcbf2_9ce4_8422_2325),
            ("a", 0xaf63_dc4c_8601_ec8c),
            ("foobar", 0x8594_4171_f739_67e8),
            ("claude-code/4711", 0xbe86_82b3_f7e9_7e87),
            ("größe", 0xb745_0e1e_f581_40da),
        ] {
            assert_eq!(mark(name), hash, "{name}");
        }
        for (session, backend, expected) in [
            ("s-1", "eu-1", 0x6358_7390_61d1_09f8),
            ("s-1", "eu-2", 0x10f1_2ba3_dc76_413b),
            ("s-2", "eu-1", 0xa496_eea7_962f_7715),
            ("s-2", "eu-2", 0x111b_01c1_4be3_ce99),
        ] {
            assert_eq!(weight(mark(session), mark(backend)), expected, "{session} {backend}");
        }
        assert_eq!(
            [weight(0, 0), weight(1, 0), weight(0, 1)],
            [0, 0x5692_161d_100b_05e5, 0xd820_b7e9_10b0_f93f]
        );
        let all = ["eu-1", "eu-2", "eu-3"].map(|name| candidate(name, 0, 0, HealthState::Up));
        let chosen = (1..=8).map(|session| choose(&all, None, mark(&format!("s-{session}"))));
        assert_eq!(chosen.collect::<Option<Vec<_>>>().unwrap(), [2, 0, 1, 1, 1, 1, 0, 2]);
    }

    proptest! {
        #[test]
        fn the_choice_is_never_worse_than_another(all in any_candidates(), session: u64) {
            let chosen = all[choose(&all, None, session).unwrap()];
            let any_well = all.iter().any(|one| one.state != HealthState::Ejected);
            prop_assert_eq!(chosen.state == HealthState::Ejected, !any_well);
            for other in all.iter().filter(|other| (other.state == HealthState::Ejected) == (chosen.state == HealthState::Ejected)) {
                prop_assert!((chosen.tier, chosen.load) <= (other.tier, other.load));
            }
        }

        #[test]
        fn only_the_sessions_of_the_one_that_goes_move(marks: [u64; 5], gone in 0..5_usize, session: u64) {
            let all = marks.map(|mark| Candidate { tier: 0, mark, load: 0, state: HealthState::Up });
            let mut without = all;
            without[gone].state = HealthState::Ejected;
            let (before, after) = (choose(&all, None, session).unwrap(), choose(&without, None, session).unwrap());
            prop_assert!(before == gone || before == after);
        }

        #[test]
        fn the_order_in_which_they_are_written_does_not_matter(all in any_candidates(), session: u64, home: u64) {
            let mut turned = all.clone();
            turned.reverse();
            let first = all[choose(&all, Some(home), session).unwrap()];
            let second = turned[choose(&turned, Some(home), session).unwrap()];
            prop_assert_eq!((first.tier, first.mark, first.load), (second.tier, second.mark, second.load));
        }
    }
}
