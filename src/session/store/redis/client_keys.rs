//! Client keys, people and approvals in Redis: for each a hash with a document for each, and the stamp of the last change.

use fred::types::Value;

use super::documents::CHUNK;
use crate::ids::{SharedDocument, Uid};
use crate::redis::{Call, LinkError};
use crate::session::store::RedisStore;

/// The field of the stamp; no key has this id.
const STAMP: &str = "*";

/// A hash of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session) enum DocumentSet {
    /// Client keys.
    Keys,
    /// Accounts and log-ins of people. They change more often, and are apart so that keys need not be read then.
    People,
    /// Approvals of held calls, which come and go.
    Approvals,
}

impl DocumentSet {
    pub(in crate::session) const ALL: [Self; 3] = [Self::Keys, Self::People, Self::Approvals];

    /// Returns where a document with this id belongs: no id of a key contains a colon.
    pub(in crate::session) fn of(id: &str) -> Self {
        match id.split_once(':') {
            None | Some(("override", _)) => Self::Keys,
            Some(("approval", _)) => Self::Approvals,
            Some(_) => Self::People,
        }
    }
}

/// The documents in Redis.
#[derive(Debug, Default)]
pub(in crate::session) struct StoredKeys {
    /// Changes with every write; empty if there is none.
    pub(in crate::session) stamp: String,
    /// The documents by id.
    pub(in crate::session) documents: Vec<(String, String)>,
}

impl RedisStore {
    fn documents(&self, set: DocumentSet) -> String {
        match set {
            DocumentSet::Keys => self.keys.client_keys(),
            DocumentSet::People => self.keys.people(),
            DocumentSet::Approvals => self.keys.approvals(),
        }
    }

    /// The stamp of the last change of a document; empty if there is none.
    pub(in crate::session) async fn client_keys_stamp(&self, set: DocumentSet) -> Result<String, LinkError> {
        let call = Call::new("HGET", [self.documents(set), STAMP.to_owned()]);
        match self.link.call(call).await {
            Ok(stamp) => Ok(stamp.as_string().unwrap_or_default()),
            // Another type of value: it is replaced with the next write.
            Err(LinkError::Refused(_)) => Ok(String::new()),
            Err(away) => Err(away),
        }
    }

    /// All documents, read a part at a time: with very many, one answer with all of them would hold up Redis, and what others
    /// ask of it.
    pub(in crate::session) async fn stored_client_keys(
        &self,
        set: DocumentSet,
    ) -> Result<StoredKeys, LinkError> {
        let name = self.documents(set);
        // Before the documents, which are as new as the stamp or newer.
        let stamp = self.client_keys_stamp(set).await?;
        let ids = match self.link.call(Call::new("HKEYS", [name.clone()])).await {
            Ok(ids) => ids.into_array().into_iter().filter_map(Value::into_string),
            Err(LinkError::Refused(_)) => return Ok(StoredKeys::default()),
            Err(away) => return Err(away),
        };
        let ids: Vec<String> = ids.filter(|id| id != STAMP).collect();
        let mut documents = Vec::with_capacity(ids.len());
        for part in ids.chunks(CHUNK) {
            let calls = part.iter().map(|id| Call::new("HGET", [name.clone(), id.clone()]));
            let texts = self.link.calls(calls.collect()).await?;
            let texts = texts.into_iter().map(|text| text.ok().and_then(Value::into_string));
            // One that is not there any more was forgotten meanwhile.
            documents.extend(part.iter().cloned().zip(texts).filter_map(|(id, text)| Some((id, text?))));
        }
        Ok(StoredKeys { stamp, documents })
    }

    /// Writes documents, unless newer ones are stored. Returns the stamp before, and the one after.
    pub(in crate::session) async fn put_client_keys(
        &self,
        set: DocumentSet,
        documents: &[SharedDocument],
    ) -> Result<(String, String), LinkError> {
        let mut arguments = vec![Uid::fresh().to_string()];
        for SharedDocument { id, revision, text } in documents {
            arguments.extend([id.clone(), revision.to_string(), text.clone()]);
        }
        let keys = vec![self.documents(set)];
        self.link.run(&self.scripts.put_client_keys, keys, arguments).await
    }

    /// Writes a document, unless this or a newer revision of it is stored. Returns whether it was written: of several instances
    /// one is the first.
    pub(in crate::session) async fn put_first(
        &self,
        set: DocumentSet,
        SharedDocument { id, revision, text }: &SharedDocument,
    ) -> Result<bool, LinkError> {
        let arguments = vec![Uid::fresh().to_string(), id.clone(), revision.to_string(), text.clone()];
        let written: u8 =
            self.link.run(&self.scripts.put_first, vec![self.documents(set)], arguments).await?;
        Ok(written == 1)
    }

    /// Removes documents that no instance needs any more.
    pub(in crate::session) async fn forget_client_keys(
        &self,
        set: DocumentSet,
        ids: Vec<String>,
    ) -> Result<(), LinkError> {
        let call = Call::new("HDEL", std::iter::once(self.documents(set)).chain(ids));
        self.link.call(call).await.map(drop)
    }
}
