//! Errors of queue operations.

use std::{error::Error, sync::Arc};

/// Why a queue operation failed. The source is the error of the store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    /// The file is locked, or its disk is full or failing. Retryable.
    #[error("{0}")]
    Unavailable(Arc<dyn Error + Send + Sync>),
    /// The file or one of its rows was not written by this service. Not retryable.
    #[error("the queue file is damaged or was changed by another program: {0}")]
    Damaged(Arc<dyn Error + Send + Sync>),
    /// An error of another kind; whether a retry helps is unknown.
    #[error("unexpected: {0}")]
    Unknown(Arc<dyn Error + Send + Sync>),
    /// [`Queue::close`](crate::Queue::close) was called, or the writer thread has panicked.
    #[error("the queue is closed: the service is stopping")]
    Closed,
}

impl QueueError {
    /// The kind of error, as a metric label.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Damaged(_) => "damaged",
            Self::Unknown(_) => "unknown",
            Self::Closed => "closed",
        }
    }
}
