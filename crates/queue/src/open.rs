//! Opening the queue, and the errors that can occur.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Clock, Inner, Queue, poll_other_instances};
use crate::{
    log_hub::LogHub,
    metrics::QueueMetrics,
    store::{AnyStore, StoreContext},
};

/// The error of the store.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// Where the queue file is, and how it is read.
#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// `sqlite://path`. The file is created if it does not exist.
    pub url: String,
    /// The number of read connections. Writes use one further connection.
    pub read_connections: u32,
}

/// Why the queue file cannot be used, and how to fix it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("queue file {file}: {source}")]
    Url { file: String, source: Source },
    #[error("queue file {file}: its directory cannot be created or written: {source}")]
    Directory { file: String, source: std::io::Error },
    #[error("queue file {file} cannot be opened: {source}. Its directory must exist and be writable for this user")]
    Open { file: String, source: Source },
    #[error(
        "queue file {file} is locked exclusively by another program. Services can share a file; end the program that locks it (a backup, a shell), or wait if it is a service that migrates the tables"
    )]
    Locked { file: String },
    #[error(
        "queue file {file} is damaged or not an SQLite database ({source}). Move it away to start with an empty queue, or restore a backup"
    )]
    Damaged { file: String, source: Source },
    #[error(
        "queue file {file} was written by a newer version (migration {version} is unknown to this one). Start that version or a later one"
    )]
    Newer { file: String, version: i64 },
    #[error("queue file {file}: its tables cannot be migrated: {source}")]
    Migrate { file: String, source: Source },
}

impl Queue {
    /// Opens the queue. Creates the file if it does not exist, and migrates its tables.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(options: &QueueOptions, clock: Clock) -> Result<Self, OpenError> {
        let (hub, metrics) = (LogHub::default(), QueueMetrics::default());
        let context = StoreContext { clock, hub: hub.clone(), metrics: metrics.clone() };
        let store = AnyStore::open(options, context).await?;
        let stop = CancellationToken::new();
        let inner = Arc::new(Inner {
            store,
            metrics,
            hub: hub.clone(),
            work: Notify::new(),
            steering_changed: Notify::new(),
            _polling: stop.clone().drop_guard(),
        });
        tokio::spawn(poll_other_instances(Arc::downgrade(&inner), hub, stop));
        Ok(Self { inner })
    }
}
