//! Checks that the queue can be written, and that what is written will be found again.

use std::io;

use super::{Queue, QueueError};
use crate::store::Store;

/// Why the queue cannot be written, or why its writes would be lost.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(
        "{queue} was removed or replaced while it is in use: everything this service stores is lost when it ends. \
         Restore the original file, or restart the service to continue with the current one"
    )]
    Replaced { queue: String },
    #[error(
        "{queue} was migrated by a newer version (migration {version} is unknown to this one), which may have \
         renamed what this one writes. Stop this service, and start that version or a later one"
    )]
    Newer { queue: String, version: i64 },
    #[error("the metadata of {queue} cannot be read: {source}")]
    Unreadable { queue: String, source: io::Error },
}

impl Queue {
    /// Commits a small change and checks that the path still names the file that was written.
    ///
    /// # Errors
    /// The file cannot be written, it was removed or replaced, or a newer version has migrated it.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        self.inner.store.probe().await
    }

    /// The size of the queue on disk in bytes.
    pub async fn disk_bytes(&self) -> u64 {
        self.inner.store.disk_bytes().await
    }
}
