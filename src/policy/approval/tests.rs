//! How an approval is answered, used and merged.

use proptest::prelude::*;

use super::*;
use crate::ids::Scope;

pub(in crate::policy) fn call(args: &str) -> HeldCall {
    HeldCall {
        session: Some(SessionKey { scope: Scope::new("key:ci"), id: SessionId::new("s") }),
        agent: None,
        principal: PrincipalId::new("key:ci"),
        tenant: Some("acme".into()),
        rule: "no-prod".into(),
        phase: "tool_call".into(),
        tool: Some("Bash".into()),
        server: None,
        args_sha256: args.into(),
    }
}

pub(in crate::policy) fn details() -> HeldDetails {
    HeldDetails {
        uid: Some(Uid::fresh()),
        dialect: "plain".into(),
        message: None,
        arguments: None,
        arguments_bytes: 0,
    }
}

const HOUR: Duration = Duration::from_secs(3600);

fn asked(need: u8) -> (Approval, Timestamp) {
    let now = Timestamp::now();
    (Approval::ask(call("a"), details(), need, HOUR, now), now)
}

#[test]
fn one_approval_is_one_use() {
    let (asked, now) = asked(1);
    assert_eq!((asked.state(now), asked.taken(now)), (ApprovalState::Pending, None));
    let approved = asked.decided("key:soc", Answer::Approve, Some("ok".into()), now).unwrap();
    assert_eq!(approved.state(now), ApprovalState::Approved);
    let used = approved.taken(now).unwrap();
    assert_eq!((used.state(now), used.taken(now)), (ApprovalState::Used, None));
    assert_eq!(
        used.decided("key:soc", Answer::Deny, None, now),
        Err(DecisionFault::Over(ApprovalState::Used))
    );
    let late = now + SignedDuration::from_hours(1);
    assert_eq!((approved.state(late), approved.taken(late)), (ApprovalState::Expired, None));
    assert!(!approved.is_over(late) && approved.is_over(late + SignedDuration::from_hours(25)));
}

#[test]
fn two_approvers_are_two_principals_and_never_the_caller() {
    let (asked, now) = asked(2);
    let own = asked.decided("key:ci", Answer::Approve, None, now);
    assert_eq!(own, Err(DecisionFault::Own("key:ci".into())));
    assert!(asked.decided("key:ci", Answer::Deny, None, now).is_err());
    let once = asked.decided("key:soc", Answer::Approve, None, now).unwrap();
    assert_eq!((once.state(now), once.missing()), (ApprovalState::Pending, 1));
    assert_eq!(
        once.decided("key:soc", Answer::Approve, None, now),
        Err(DecisionFault::Twice("key:soc".into()))
    );
    let twice = once.decided("user:ada@idp", Answer::Approve, None, now).unwrap();
    assert_eq!((twice.state(now), twice.missing()), (ApprovalState::Approved, 0));
    // Whoever has approved may think better of it.
    let denied = twice.decided("key:soc", Answer::Deny, None, now).unwrap();
    assert_eq!(denied.state(now), ApprovalState::Denied);
    assert_eq!(once.decided("key:soc", Answer::Deny, None, now).unwrap().state(now), ApprovalState::Denied);
}

#[test]
fn two_approvers_at_two_instances_at_once_are_both_counted() {
    let (asked, now) = asked(2);
    let one = asked.decided("key:a", Answer::Approve, None, now).unwrap();
    let two = asked.decided("key:b", Answer::Approve, None, now).unwrap();
    assert_eq!(one.revision, two.revision);
    let (here, there) = (one.merged(&two), two.merged(&one));
    assert_eq!(here.shared(), there.shared());
    assert_eq!(here.state(now), ApprovalState::Approved);
    assert!(here.revision > one.revision);
}

/// What happens to copies of an approval on two instances.
fn steps() -> impl Strategy<Value = Vec<(bool, u8, bool)>> {
    proptest::collection::vec((any::<bool>(), 0..4_u8, any::<bool>()), 0..12)
}

proptest! {
    #[test]
    fn copies_agree_however_they_are_merged_and_nothing_is_forgotten(steps in steps()) {
        let (asked, now) = asked(2);
        let mut copies = [asked.clone(), asked.clone()];
        for (at, who, merges) in steps {
            let at = usize::from(at);
            let before = copies[at].clone();
            copies[at] = match (merges, who) {
                (true, _) => before.merged(&copies[1 - at]),
                (false, 0) => before.taken(now).unwrap_or(before.clone()),
                (false, 1) => before.decided("key:x", Answer::Deny, None, now).unwrap_or(before.clone()),
                (false, who) => {
                    let decided = before.decided(&format!("key:{who}"), Answer::Approve, None, now);
                    decided.unwrap_or(before.clone())
                }
            };
            prop_assert!(copies[at] == before || copies[at].revision > before.revision);
            // What was used stays used, what was denied is not approved again.
            let (was, is) = (before.state(now), copies[at].state(now));
            prop_assert!(was != ApprovalState::Used || is == ApprovalState::Used);
            prop_assert!(was != ApprovalState::Denied || is != ApprovalState::Approved);
        }
        let (one, two) = (copies[0].merged(&copies[1]), copies[1].merged(&copies[0]));
        prop_assert_eq!(one.shared(), two.shared());
        prop_assert_eq!(one.merged(&copies[0]), one);
    }
}
