//! Client keys in Redis: a hash with a document for each key, and the stamp of the last change.

use super::pairs;
use crate::ids::{SharedDocument, Uid};
use crate::redis::{Call, LinkError};
use crate::session::store::RedisStore;

/// The field of the stamp; no key has this id.
const STAMP: &str = "*";

/// The documents in Redis.
#[derive(Debug, Default)]
pub(in crate::session) struct StoredKeys {
    /// Changes with every write; empty if there is none.
    pub(in crate::session) stamp: String,
    /// The documents by id.
    pub(in crate::session) documents: Vec<(String, String)>,
}

impl RedisStore {
    /// The stamp of the last change of a client key; empty if there is none.
    pub(in crate::session) async fn client_keys_stamp(&self) -> Result<String, LinkError> {
        let call = Call::new("HGET", [self.keys.client_keys(), STAMP.to_owned()]);
        match self.link.call(call).await {
            Ok(stamp) => Ok(stamp.as_string().unwrap_or_default()),
            // Another type of value: it is replaced with the next write.
            Err(LinkError::Refused(_)) => Ok(String::new()),
            Err(away) => Err(away),
        }
    }

    /// All documents.
    pub(in crate::session) async fn stored_client_keys(&self) -> Result<StoredKeys, LinkError> {
        let fields = match self.link.call(Call::new("HGETALL", [self.keys.client_keys()])).await {
            Ok(fields) => pairs(Some(fields)),
            Err(LinkError::Refused(_)) => Vec::new(),
            Err(away) => return Err(away),
        };
        let mut stored = StoredKeys::default();
        for (field, text) in fields {
            match field == STAMP {
                true => stored.stamp = text,
                false => stored.documents.push((field, text)),
            }
        }
        Ok(stored)
    }

    /// Writes documents, unless newer ones are stored. Returns the stamp before, and the one after.
    pub(in crate::session) async fn put_client_keys(
        &self,
        documents: &[SharedDocument],
    ) -> Result<(String, String), LinkError> {
        let mut arguments = vec![Uid::fresh().to_string()];
        for SharedDocument { id, revision, text } in documents {
            arguments.extend([id.clone(), revision.to_string(), text.clone()]);
        }
        let keys = vec![self.keys.client_keys()];
        self.link.run(&self.scripts.put_client_keys, keys, arguments).await
    }

    /// Removes the documents of keys that were revoked long ago.
    pub(in crate::session) async fn forget_client_keys(&self, ids: Vec<String>) -> Result<(), LinkError> {
        let call = Call::new("HDEL", std::iter::once(self.keys.client_keys()).chain(ids));
        self.link.call(call).await.map(drop)
    }
}
