//! All approvals that this process knows: asked for by calls that are held, answered by operators, used once.

use std::ops::Bound;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use self::table::Table;
use super::approval::{Answer, Approval, ApprovalState, DecisionFault, HeldCall, HeldDetails, SHARED};
use crate::ids::{ClientNetwork, SharedDocument};
use crate::settings::fault::Faults;
use crate::settings::units::DurationText;

/// Most approvals that are kept, decided ones included.
const MAX_APPROVALS: usize = 10_000;
/// Most that wait for an answer to calls of one caller.
const MAX_PENDING: usize = 100;
/// Most that wait for an answer to calls from one address: credentials can be made up.
const MAX_PENDING_OF_ADDRESS: usize = 500;
/// The longest that a call may be held.
const MAX_WAIT: Duration = Duration::from_secs(540);
/// Most operators that may have to approve one call.
const MAX_NEED: u8 = 5;

/// How calls are held and approved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Approvals")]
pub struct ApprovalsConfig {
    /// How long a held call waits for an answer before it is refused; less where the client gives up earlier. At most `9m`.
    pub wait: DurationText,
    /// How long an approval can be answered, and used by the same call when it comes again.
    pub expiry: DurationText,
    /// How many operators must approve a call, 1 to 5. One denial is enough.
    pub need: u8,
}

impl Default for ApprovalsConfig {
    fn default() -> Self {
        Self { wait: DurationText::secs(240), expiry: DurationText::secs(3600), need: 1 }
    }
}

/// How calls are held and approved, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApprovalRules {
    /// How long a held call waits for an answer.
    pub wait: Duration,
    /// How long an approval can be answered and used.
    pub expiry: Duration,
    /// How many operators must approve a call.
    pub need: u8,
}

impl ApprovalsConfig {
    /// Compiles the section; reports every fault.
    pub fn compile(&self, faults: &mut Faults) -> Option<ApprovalRules> {
        let Self { wait, expiry, need } = *self;
        let can_wait = !wait.0.is_zero() && wait.0 <= MAX_WAIT;
        if !can_wait {
            let message = format!("{wait} is no time to wait for an answer");
            let hint = "write a time from 1s to 9m; clients give up after ten minutes";
            faults.add("approvals.wait", message, hint);
        }
        let can_answer = expiry.0 >= wait.0;
        if !can_answer {
            let message = format!("{expiry} is shorter than approvals.wait");
            faults.add("approvals.expiry", message, "write a longer time, such as 1h");
        }
        let can_approve = (1..=MAX_NEED).contains(&need);
        if !can_approve {
            faults.add("approvals.need", format!("{need} operators cannot approve a call"), "write 1 to 5");
        }
        let rules = ApprovalRules { wait: wait.0, expiry: expiry.0, need };
        (can_wait && can_answer && can_approve).then_some(rules)
    }
}

/// Where approvals are stored.
pub trait ApprovalStorage: Send + Sync {
    /// Stores a document, unless one with a higher revision is stored; returns after it is on disk. Returns false if one with at least this
    /// revision was stored: then somebody else was first.
    ///
    /// # Errors
    /// Why it cannot be stored.
    fn put(&self, document: &SharedDocument) -> Result<bool, String>;

    /// Removes documents that nobody needs any more.
    ///
    /// # Errors
    /// Why they cannot be removed.
    fn remove(&self, ids: &[String]) -> Result<(), String>;
}

/// Why an approval cannot be asked for: the call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskFault {
    /// The caller has too many.
    #[error("{MAX_PENDING} calls of this caller wait for an approval already")]
    Caller,
    /// The address of the caller has too many.
    #[error("{MAX_PENDING_OF_ADDRESS} calls from this address wait for an approval already")]
    Address,
    /// There are too many.
    #[error("{MAX_APPROVALS} approvals are kept, which is the most")]
    All,
}

/// Why an approval is not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApprovalError {
    /// No approval has this id.
    #[error("no approval has the id '{0}'")]
    Unknown(String),
    /// The decision is not taken.
    #[error("{0}")]
    Decision(#[from] DecisionFault),
    /// The document cannot be stored.
    #[error("the decision cannot be stored, so nothing was changed: {0}")]
    Storage(String),
}

/// What a held call has asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The approval.
    pub approval: Approval,
    /// Whether it is new, and is to be stored and told to others.
    pub is_new: bool,
}

/// All approvals.
pub struct Approvals {
    table: Mutex<Table>,
    /// Held while an answer is stored, so that the table is not.
    deciding: Mutex<()>,
    storage: Box<dyn ApprovalStorage>,
    changed: watch::Sender<u64>,
}

impl Approvals {
    /// Reads the stored documents. One that cannot be read is logged and permits nothing.
    pub fn new(stored: &[String], storage: Box<dyn ApprovalStorage>) -> Self {
        let approvals = Self {
            table: Mutex::default(),
            deciding: Mutex::default(),
            storage,
            changed: watch::channel(0).0,
        };
        approvals.take(stored, |one, now| !one.is_over(now));
        let now = Timestamp::now();
        let over = stored.iter().filter_map(|text| Approval::read(text)).filter(|one| one.is_over(now));
        approvals.table.lock().gone.extend(over.map(|one| one.id));
        approvals
    }

    /// Tells of every change: what waits for an answer looks again.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Asks for a call that is held. The same call asks once: it finds the approval that is pending, approved or denied.
    ///
    /// # Errors
    /// Too many wait for an answer.
    pub fn ask(
        &self,
        call: HeldCall,
        details: impl FnOnce() -> HeldDetails,
        from: ClientNetwork,
        rules: &ApprovalRules,
        now: Timestamp,
    ) -> Result<Asked, AskFault> {
        let mut table = self.table.lock();
        if let Some(known) = table.open(&call, now) {
            return Ok(Asked { approval: known.clone(), is_new: false });
        }
        if table.pending_of(&call.principal, now) >= MAX_PENDING {
            return Err(AskFault::Caller);
        }
        if table.pending_from(from, now) >= MAX_PENDING_OF_ADDRESS {
            return Err(AskFault::Address);
        }
        if table.by_id.len() >= MAX_APPROVALS && !table.make_room(now) {
            return Err(AskFault::All);
        }
        let approval = Approval::ask(call, details(), rules.need, rules.expiry, now);
        table.asked_from.insert(approval.id.clone(), from);
        table.insert(approval.clone());
        drop(table);
        self.tell();
        Ok(Asked { approval, is_new: true })
    }

    /// Returns an approval.
    pub fn find(&self, id: &str) -> Option<Approval> {
        self.table.lock().by_id.get(id).cloned()
    }

    /// Returns at most `limit` approvals that `fit`, the newest first, and whether there are more. `before` is the id of the last one
    /// on the page before.
    pub fn page(
        &self,
        before: Option<&str>,
        limit: usize,
        fit: impl Fn(&Approval) -> bool,
    ) -> (Vec<Approval>, bool) {
        let table = self.table.lock();
        // Ids grow with time.
        let end = before.map_or(Bound::Unbounded, Bound::Excluded);
        let older = table.by_id.range::<str, _>((Bound::Unbounded, end)).rev();
        let mut page: Vec<&Approval> =
            older.map(|(_, one)| one).filter(|one| fit(one)).take(limit + 1).collect();
        let is_cut = page.len() > limit;
        page.truncate(limit);
        (page.into_iter().cloned().collect(), is_cut)
    }

    /// Returns how many wait for an answer.
    pub fn pending(&self) -> usize {
        self.table.lock().pending(Timestamp::now(), |_| true)
    }

    /// Takes the answer of an operator. Blocks: it is on disk before anybody acts on it.
    ///
    /// # Errors
    /// No approval has this id, the operator may not decide, it is over, or it cannot be stored.
    pub fn decide(
        &self,
        id: &str,
        by: &str,
        decision: Answer,
        reason: Option<String>,
    ) -> Result<Approval, ApprovalError> {
        let _one_at_a_time = self.deciding.lock();
        let known = self.find(id).ok_or_else(|| ApprovalError::Unknown(id.to_owned()))?;
        if self.table.lock().in_use.contains(id) {
            return Err(DecisionFault::Over(ApprovalState::Used).into());
        }
        let decided = known.decided(by, decision, reason, Timestamp::now())?;
        self.storage.put(&decided.shared()).map_err(ApprovalError::Storage)?;
        let mut table = self.table.lock();
        // Others may have answered, or the call may have used it, meanwhile.
        let merged = table.by_id.get(id).map_or_else(|| decided.clone(), |now| now.merged(&decided));
        table.insert(merged.clone());
        drop(table);
        self.tell();
        Ok(merged)
    }

    /// Begins to use an approval: nobody else in this process can. Returns the approval as it is when it is used; `None` unless it
    /// is approved. What comes of it is told by [`Approvals::finish_use`].
    pub fn begin_use(&self, id: &str, now: Timestamp) -> Option<Approval> {
        let mut table = self.table.lock();
        let used = table.by_id.get(id)?.taken(now)?;
        table.in_use.insert(id.to_owned()).then_some(used)
    }

    /// Stores that an approval is used. Blocks. Returns false if another process was first.
    ///
    /// # Errors
    /// It cannot be stored, so the call must not go on.
    pub fn store_use(&self, used: &Approval) -> Result<bool, String> {
        self.storage.put(&used.shared())
    }

    /// Ends what [`Approvals::begin_use`] began: `used` is the approval if it is used, here or elsewhere.
    pub fn finish_use(&self, id: &str, used: Option<&Approval>) {
        let mut table = self.table.lock();
        table.in_use.remove(id);
        let Some((known, used)) = table.by_id.get(id).zip(used) else { return };
        let merged = known.merged(used);
        table.insert(merged);
        drop(table);
        self.tell();
    }

    /// Whether a document is one of an approval: no other has such an id.
    pub fn is_one(document: &str) -> bool {
        document.starts_with("{\"id\":\"appr_")
    }

    /// Whether a document is one of an approval that no other process needs any more.
    pub fn is_over(document: &str) -> bool {
        Approval::read(document).is_some_and(|one| !one.is_shared(Timestamp::now()))
    }

    /// Returns all documents that others may need.
    pub fn documents(&self) -> Vec<SharedDocument> {
        let now = Timestamp::now();
        self.table.lock().by_id.values().filter(|one| one.is_shared(now)).map(Approval::shared).collect()
    }

    /// Takes documents of other processes. Returns those that changed something here, for [`Approvals::store`].
    pub fn learn(&self, documents: &[String]) -> Vec<SharedDocument> {
        self.take(documents, Approval::is_shared)
    }

    /// Takes documents, of approvals that are unknown here only those that are `wanted`.
    fn take(&self, documents: &[String], wanted: fn(&Approval, Timestamp) -> bool) -> Vec<SharedDocument> {
        let now = Timestamp::now();
        let mut learned = Vec::new();
        let mut table = self.table.lock();
        for text in documents {
            let Some(read) = Approval::read(text) else {
                tracing::warn!("an approval cannot be read and permits nothing here");
                continue;
            };
            let next = match table.by_id.get(&read.id) {
                None if !wanted(&read, now) => continue,
                None => read,
                Some(known) => {
                    let merged = known.merged(&read);
                    if merged == *known {
                        continue;
                    }
                    merged
                }
            };
            learned.push(next.shared());
            table.insert(next);
        }
        drop(table);
        if !learned.is_empty() {
            self.tell();
        }
        learned
    }

    /// Stores documents, and removes those that nobody needs any more. Blocks.
    ///
    /// # Errors
    /// One cannot be stored.
    pub fn store(&self, documents: &[SharedDocument]) -> Result<(), String> {
        let gone = self.table.lock().sweep(Timestamp::now());
        if !gone.is_empty() {
            let ids: Vec<String> = gone.into_iter().map(|id| format!("{SHARED}{id}")).collect();
            self.storage.remove(&ids)?;
        }
        documents.iter().try_for_each(|document| self.storage.put(document).map(drop))
    }
}

mod table;
#[cfg(test)]
mod tests;
