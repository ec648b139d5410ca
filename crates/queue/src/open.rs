//! Opening the queue, and the errors that can occur.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Clock, Inner, Queue, QueueError, poll_other_instances};
use crate::{
    log_hub::LogHub,
    metrics::QueueMetrics,
    store::{AnyStore, StoreContext},
};

/// The error of the store.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// Where the queue is, and how it is read.
#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// `sqlite://path`: a file, which is created if it does not exist. `postgres://host/database`:
    /// tables, which are created if they do not exist.
    pub url: String,
    /// The number of read connections. Writes use one further connection, or a few.
    pub read_connections: u32,
    /// In PostgreSQL: an instance that was silent for so long is dead, and its jobs go on elsewhere.
    pub dead_after: Duration,
    /// The version of this program, for the list of instances.
    pub version: String,
}

impl QueueOptions {
    /// The queue at `url`, with four read connections.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), read_connections: 4, dead_after: Duration::from_secs(5), version: String::new() }
    }

    /// Whether the queue is in PostgreSQL.
    pub fn is_postgres(&self) -> bool {
        self.url.starts_with("postgres:") || self.url.starts_with("postgresql:")
    }
}

/// Why the queue cannot be used, and how to fix it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{queue}: {source}")]
    Url { queue: String, source: Source },
    #[error("{queue}: its directory cannot be created or written: {source}")]
    Directory { queue: String, source: std::io::Error },
    #[error("{queue} cannot be opened: {source}. Its directory must exist and be writable for this user")]
    Open { queue: String, source: Source },
    #[error(
        "{queue} is locked exclusively by another program. Services can share a file; end the program that locks it (a backup, a shell), or wait if it is a service that migrates the tables"
    )]
    Locked { queue: String },
    #[error(
        "{queue} is damaged or not an SQLite database ({source}). Move it away to start with an empty queue, or restore a backup"
    )]
    Damaged { queue: String, source: Source },
    #[error(
        "{queue} was written by a newer version (migration {version} is unknown to this one). Start that version or a later one"
    )]
    Newer { queue: String, version: i64 },
    #[error(
        "{queue} is behind a pooler in transaction mode, which runs the statements of one client in sessions of others. The queue needs sessions of its own: use the pooler's session mode, or the address of the server"
    )]
    SharedSessions { queue: String },
    #[error("{queue} cannot be reached: {source}. Check its URL, and whether the server runs")]
    Unavailable { queue: String, source: QueueError },
    #[error("{queue}: its tables cannot be migrated: {source}")]
    Migrate { queue: String, source: Source },
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
