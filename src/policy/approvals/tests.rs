//! Who asks for, answers and uses approvals, in one process and several.

use std::sync::Arc;

use super::*;
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

fn ask(approvals: &Approvals, args: &str) -> Asked {
    let asked = approvals.ask(call(args), details, &RULES, Timestamp::now()).unwrap();
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
    assert!(approvals.list().is_empty());
    assert!(ask(&approvals, "old").is_new);
}

#[test]
fn one_caller_leaves_room_for_others() {
    let approvals = open(&Memory::default());
    for number in 0..MAX_PENDING {
        ask(&approvals, &number.to_string());
    }
    let asked = approvals.ask(call("more"), details, &RULES, Timestamp::now());
    assert_eq!(asked, Err(AskFault::Caller));
    let other = HeldCall { principal: PrincipalId::new("key:other"), ..call("more") };
    assert!(approvals.ask(other, details, &RULES, Timestamp::now()).is_ok());
    assert_eq!(approvals.pending(), MAX_PENDING + 1);
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
