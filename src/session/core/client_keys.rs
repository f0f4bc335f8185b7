//! Client keys between processes: what operators make, rotate and revoke on one instance holds on all. Overrides of budgets
//! and approvals are documents of the same kind, and take the same way.
//!
//! The keys themselves belong to `identity`; here they are documents with revisions, of which the higher one counts. A document
//! that is *missing* elsewhere was therefore lost, and whoever knows it writes it again (docs/adr/0014).

use std::sync::Arc;

use super::manager::Manager;
use super::upgrade_peers::PeerNews;
use crate::ids::SharedDocument;

/// What keeps the client keys of this process.
pub trait ClientKeyStore: Send + Sync {
    /// Returns all documents that are known here, also those of revoked keys.
    fn held(&self) -> Vec<SharedDocument>;

    /// Returns whether a document only says that a key was revoked, so long ago that no instance can still hold it.
    fn is_over(&self, document: &str) -> bool;

    /// Takes documents of other processes. One that is not newer than the known one changes nothing; what is revoked by one
    /// ends here at once.
    fn learn(&self, documents: Vec<String>);

    /// Takes what the configuration of the other process says of keys, during an upgrade.
    fn learn_declared(&self, written: &str);
}

impl Manager {
    /// Sets what keeps the client keys of this process.
    pub fn set_client_keys(&self, keys: Arc<dyn ClientKeyStore>) {
        // It is set once, when the program starts.
        let _ = self.client_keys.set(keys);
    }

    /// Returns what keeps the client keys of this process; `None` in tests.
    pub(in crate::session) fn client_keys(&self) -> Option<&Arc<dyn ClientKeyStore>> {
        self.client_keys.get()
    }

    /// Sends a document that was changed here to the other processes. Returns false if it did not reach Redis: it is sent again
    /// when Redis is back.
    pub async fn share_client_key(&self, document: SharedDocument) -> bool {
        self.tell_peers(PeerNews::Documents(vec![document.text.clone()]));
        self.replication.share_client_key(self, document).await
    }

    /// Sends a document of which only one process may be the writer to the other processes. Returns whether it was this one; `None`
    /// if Redis does not say. Without Redis the caller finds out on disk.
    pub async fn claim_document(&self, document: &SharedDocument) -> Option<bool> {
        let claimed = self.replication.claim_document(self, document).await;
        if claimed == Some(true) {
            self.tell_peers(PeerNews::Documents(vec![document.text.clone()]));
        }
        claimed
    }

    /// Tells the other process of an upgrade what the configuration says of keys.
    pub fn share_declared_keys(&self, written: String) {
        self.tell_peers(PeerNews::Declared(written));
    }

    /// Takes news of the other process of an upgrade.
    pub(super) fn hear_peer(&self, news: &PeerNews) {
        let Some(keys) = self.client_keys() else { return };
        match news {
            PeerNews::Declared(written) => keys.learn_declared(written),
            PeerNews::Documents(documents) => keys.learn(documents.clone()),
        }
    }
}
