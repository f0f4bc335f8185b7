//! Who asks for, answers and uses approvals, in one process and several.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::ids::PrincipalId;
use crate::policy::approval::tests::{call, details};

/// Approvals that are stored nowhere, for the tests of others.
impl Default for Approvals {
    fn default() -> Self {
        Self::new(&[], Box::new(Memory::default()))
    }
}

/// Keeps documents as `state.db` does; fails while told so.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Held>>);

/// Documents with their revisions, and whether nothing can be kept.
type Held = (BTreeMap<String, (u64, String)>, bool);

impl ApprovalStorage for Memory {
    fn put(&self, document: &SharedDocument) -> Result<bool, String> {
        let mut held = self.0.lock();
        if held.1 {
            return Err("disk full".into());
        }
        let is_first = held.0.get(&document.id).is_none_or(|(revision, _)| *revision < document.revision);
        if is_first {
            held.0.insert(document.id.clone(), (document.revision, document.text.clone()));
        }
        Ok(is_first)
    }

    fn remove(&self, ids: &[String]) -> Result<(), String> {
        self.0.lock().0.retain(|id, _| !ids.contains(id));
        Ok(())
    }
}

impl Memory {
    fn texts(&self) -> Vec<String> {
        self.0.lock().0.values().map(|(_, text)| text.clone()).collect()
    }
}

const RULES: ApprovalRules =
    ApprovalRules { wait: Duration::from_secs(1), expiry: Duration::from_secs(3600), need: 1 };

fn open(memory: &Memory) -> Approvals {
    Approvals::new(&memory.texts(), Box::new(memory.clone()))
}

fn address(number: u8) -> ClientNetwork {
    ClientNetwork::of([192, 0, 2, number].into())
}

fn all(approvals: &Approvals) -> Vec<String> {
    approvals.page(None, usize::MAX - 1, |_| true).0.into_iter().map(|one| one.id).collect()
}

/// Calls of callers who make up their credentials.
fn made_up(number: usize) -> HeldCall {
    HeldCall { principal: PrincipalId::new(format!("cred:{number}")), ..call(&number.to_string()) }
}

fn ask(approvals: &Approvals, args: &str) -> Asked {
    let asked = approvals.ask(call(args), details, address(1), &RULES, Timestamp::now()).unwrap();
    if asked.is_new {
        approvals.store(&[asked.approval.shared()]).unwrap();
    }
    asked
}

/// Uses an approval as a released call does.
fn take(approvals: &Approvals, id: &str) -> bool {
    let Some(used) = approvals.begin_use(id, Timestamp::now()) else { return false };
    let is_first = approvals.store_use(&used).unwrap();
    approvals.finish_use(id, Some(&used));
    is_first
}

#[test]
fn the_same_call_asks_once_and_uses_its_approval_once() {
    let memory = Memory::default();
    let approvals = open(&memory);
    let first = ask(&approvals, "a");
    let again = ask(&approvals, "a");
    assert_eq!((again.is_new, &again.approval), (false, &first.approval));
    assert!(ask(&approvals, "b").is_new, "other arguments");
    let id = first.approval.id.as_str();
    assert!(!take(&approvals, id), "not approved");
    approvals.decide(id, "key:soc", Answer::Approve, None).unwrap();
    assert_eq!(ask(&approvals, "a").approval.id, id);
    // Two that wait for the same one.
    let used = approvals.begin_use(id, Timestamp::now()).unwrap();
    assert_eq!(approvals.begin_use(id, Timestamp::now()), None);
    assert!(approvals.decide(id, "key:soc", Answer::Deny, None).is_err());
    assert!(approvals.store_use(&used).unwrap());
    approvals.finish_use(id, Some(&used));
    assert!(!take(&approvals, id));
    assert!(ask(&approvals, "a").is_new, "a second use asks anew");
}

#[test]
fn a_denial_stands_and_what_fails_is_no_use() {
    let memory = Memory::default();
    let approvals = open(&memory);
    let denied = ask(&approvals, "a").approval;
    approvals.decide(&denied.id, "key:soc", Answer::Deny, Some("no".into())).unwrap();
    let again = ask(&approvals, "a");
    assert_eq!((again.is_new, again.approval.state(Timestamp::now())), (false, ApprovalState::Denied));

    let other = ask(&approvals, "b").approval;
    memory.0.lock().1 = true;
    let refused = approvals.decide(&other.id, "key:soc", Answer::Approve, None);
    assert!(matches!(refused, Err(ApprovalError::Storage(_))));
    assert_eq!(approvals.find(&other.id).unwrap().state(Timestamp::now()), ApprovalState::Pending);
    memory.0.lock().1 = false;
    approvals.decide(&other.id, "key:soc", Answer::Approve, None).unwrap();
    memory.0.lock().1 = true;
    let used = approvals.begin_use(&other.id, Timestamp::now()).unwrap();
    assert!(approvals.store_use(&used).is_err());
    approvals.finish_use(&other.id, None);
    memory.0.lock().1 = false;
    assert!(take(&approvals, &other.id), "it can be used when the disk has room again");
}

#[test]
fn a_restart_keeps_what_is_pending_and_approved_and_revives_no_use() {
    let memory = Memory::default();
    let before = open(&memory);
    let pending = ask(&before, "pending").approval;
    let approved = ask(&before, "approved").approval;
    before.decide(&approved.id, "key:soc", Answer::Approve, None).unwrap();
    let used = ask(&before, "used").approval;
    before.decide(&used.id, "key:soc", Answer::Approve, None).unwrap();
    let stale = before.documents();
    assert!(take(&before, &used.id));
    let after = open(&memory);
    assert_eq!(ask(&after, "pending").approval.id, pending.id);
    // An older copy comes back from elsewhere.
    after.learn(&stale.iter().map(|document| document.text.clone()).collect::<Vec<_>>());
    assert!(!take(&after, &used.id) && ask(&after, "used").is_new);
    // The old and the new process of an upgrade, with the same file.
    assert!(take(&after, &approved.id) && !take(&before, &approved.id));
}

#[test]
fn instances_learn_from_each_other_and_the_old_is_forgotten() {
    let (one, two) = (open(&Memory::default()), open(&Memory::default()));
    let asked = ask(&one, "a").approval;
    assert_eq!(two.learn(&[asked.shared().text]).len(), 1);
    let mut changes = two.changes();
    changes.mark_unchanged();
    let decided = one.decide(&asked.id, "key:soc", Answer::Approve, None).unwrap();
    assert_eq!(two.learn(&[decided.shared().text, "{}".into()]).len(), 1);
    assert!(changes.has_changed().unwrap());
    assert!(two.learn(&[decided.shared().text, asked.shared().text]).is_empty(), "nothing new");
    assert_eq!(one.documents(), two.documents());
    assert!(one.documents().iter().all(|document| Approvals::is_one(&document.text)));

    let long_ago = Timestamp::now() - jiff::SignedDuration::from_hours(26);
    let memory = Memory::default();
    let old = Approval::ask(call("old"), details(), 1, RULES.expiry, long_ago);
    memory.put(&old.shared()).unwrap();
    let approvals = open(&memory);
    assert!(all(&approvals).is_empty());
    assert!(ask(&approvals, "old").is_new);
    assert_eq!(memory.texts().len(), 1, "the old one has left the disk, too");
}

#[test]
fn one_caller_leaves_room_for_others() {
    let approvals = open(&Memory::default());
    for number in 0..MAX_PENDING {
        ask(&approvals, &number.to_string());
    }
    let asked = approvals.ask(call("more"), details, address(2), &RULES, Timestamp::now());
    assert_eq!(asked, Err(AskFault::Caller));
    let other = HeldCall { principal: PrincipalId::new("key:other"), ..call("more") };
    assert!(approvals.ask(other, details, address(1), &RULES, Timestamp::now()).is_ok());
    assert_eq!(approvals.pending(), MAX_PENDING + 1);
}

#[test]
fn made_up_credentials_of_one_address_leave_room_for_others() {
    let (approvals, now) = (open(&Memory::default()), Timestamp::now());
    let ask = |number, from| approvals.ask(made_up(number), details, address(from), &RULES, now);
    for number in 0..MAX_PENDING_OF_ADDRESS {
        assert!(ask(number, 1).is_ok());
    }
    assert_eq!(ask(1_000_000, 1), Err(AskFault::Address));
    assert!(!ask(0, 1).unwrap().is_new, "the same call finds its approval");
    assert!(ask(1_000_000, 2).is_ok());
}

#[test]
fn what_has_expired_makes_room_and_comes_back_from_nowhere() {
    let memory = Memory::default();
    let approvals = open(&memory);
    let (begun, hour) = (Timestamp::now(), jiff::SignedDuration::from_hours(1));
    let ask = |number: usize, now| {
        let from = address(u8::try_from(number / MAX_PENDING_OF_ADDRESS % 200).unwrap());
        approvals.ask(made_up(number), details, from, &RULES, now)
    };
    // An hour ago, so that they expire now.
    for number in 0..MAX_APPROVALS {
        let asked = ask(number, begun - hour).unwrap();
        memory.put(&asked.approval.shared()).unwrap();
    }
    assert_eq!(ask(MAX_APPROVALS, begun - hour), Err(AskFault::All), "all of them wait");
    let oldest = all(&approvals).pop().unwrap();
    let copy = approvals.find(&oldest).unwrap().shared().text;
    assert!(ask(MAX_APPROVALS, begun).unwrap().is_new, "nobody can answer the others any more");
    assert_eq!(approvals.find(&oldest), None);
    assert!(all(&approvals).len() <= MAX_APPROVALS);
    approvals.store(&[]).unwrap();
    assert!(!memory.texts().contains(&copy), "it has left the disk, too");
    let hours_ago = Approval::ask(call("past"), details(), 1, RULES.expiry, begun - hour * 3);
    assert!(approvals.learn(&[hours_ago.shared().text]).is_empty(), "nobody needs it");
    assert!(Approvals::is_over(&hours_ago.shared().text));
}

#[test]
fn a_list_is_read_in_pages_the_newest_first() {
    let approvals = open(&Memory::default());
    let mut asked: Vec<String> =
        (0..5).map(|number| ask(&approvals, &number.to_string()).approval.id).collect();
    asked.reverse();
    let fit = |one: &Approval| one.call.args_sha256 != "3";
    let ids = |page: Vec<Approval>| page.into_iter().map(|one| one.id).collect::<Vec<_>>();
    let (first, is_cut) = approvals.page(None, 2, fit);
    assert_eq!((ids(first), is_cut), (vec![asked[0].clone(), asked[2].clone()], true));
    let (last, is_cut) = approvals.page(Some(&asked[2]), 2, fit);
    assert_eq!((ids(last), is_cut), (vec![asked[3].clone(), asked[4].clone()], false));
}

#[test]
fn a_section_that_cannot_work_is_a_fault() {
    let faults = |yaml: &str| {
        let mut faults = Faults::default();
        serde_yaml::from_str::<ApprovalsConfig>(yaml).unwrap().compile(&mut faults);
        faults.to_string()
    };
    assert_eq!(faults("{ wait: 9m, expiry: 9m, need: 5 }"), "");
    for (yaml, path) in [
        ("wait: 0", "approvals.wait"),
        ("wait: 10m", "approvals.wait"),
        ("{ wait: 4m, expiry: 3m }", "approvals.expiry"),
        ("need: 0", "approvals.need"),
        ("need: 6", "approvals.need"),
    ] {
        assert!(faults(yaml).contains(path), "{yaml}: {}", faults(yaml));
    }
}
