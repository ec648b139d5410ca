//! The IoTA store: PostgreSQL, or SQLite. Only ever read.
//!
//! A device's rows are read in the order of time and row key, page by page (keyset), so that a reader can go on after
//! any row, and no query holds a snapshot of a live store for long.

mod budget;
mod count;
mod discover;
mod error;
mod examine;
mod local;
mod mapping;
mod pages;
#[cfg(test)]
mod ping_tests;
mod postgres;
mod rows;
pub mod sample;
pub mod sample_store;
mod select;
mod sqlite;

use std::{
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::{Mutex, Semaphore, oneshot};
use uuid::Uuid;

use budget::Budget;
pub use error::SourceError;
pub use mapping::{DocType, IdType, KeyType, Mapping, StoredRange, TimeType};
pub use postgres::copy;
use rows::RowSender;
pub use rows::{FirstRows, OpenDevice, Rows};

use crate::{
    config,
    task::Position,
    telemetry::{StoreMetrics, count_error},
};

/// A store; clones share their connections.
#[derive(Clone)]
pub struct Source {
    backend: Backend,
    config: Arc<config::Iota>,
    mapping: Arc<RwLock<Option<Arc<Mapping>>>>,
    /// One at a time finds the mapping.
    refreshing: Arc<Mutex<()>>,
    /// Connections for pages. One is left for other questions, which would find no free one and take the store for away.
    pages: Arc<Semaphore>,
    /// Memory for rows that are read and not taken yet.
    budget: Budget,
    /// Bytes of a row of the page that was read last; 0: none was.
    mean_row_bytes: Arc<AtomicU64>,
    metrics: StoreMetrics,
}

#[derive(Clone)]
enum Backend {
    Postgres(postgres::Server),
    Sqlite(sqlx::SqlitePool),
}

/// Rows of a device: a range of time, and where to go on.
#[derive(Debug, Clone)]
pub struct Selection {
    pub device: Uuid,
    /// Both ends are included.
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    /// Only rows that come after this one.
    pub after: Option<Position>,
}

/// One raw reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Microseconds since 1970, as the store counts them ([`TimeType::instant_us`]).
    pub time_us: i64,
    pub key: Key,
    /// The document's bytes; `None` where the column is NULL.
    pub doc: Option<Bytes>,
}

impl Row {
    /// What it takes in memory.
    fn bytes(&self) -> usize {
        self.doc.as_ref().map_or(0, Bytes::len) + size_of::<Self>()
    }

    /// Where it stands in its device's order.
    pub fn position(&self) -> Position {
        Position { time_us: self.time_us, key: self.key.to_string() }
    }
}

/// A row key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    Integer(i64),
    Uuid(Uuid),
    Text(Box<str>),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(key) => key.fmt(f),
            Self::Uuid(key) => key.fmt(f),
            Self::Text(key) => f.write_str(key),
        }
    }
}

/// A device as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// `None` where the column is NULL.
    pub name: Option<String>,
}

impl Source {
    /// Prepares connections; none is made yet.
    ///
    /// # Errors
    /// The URL can't be read.
    pub fn new(config: &config::Iota) -> Result<Self, SourceError> {
        let url = config.url.reveal();
        let backend = if url.starts_with("sqlite:") {
            Backend::Sqlite(sqlite::pool(config)?)
        } else {
            Backend::Postgres(postgres::Server::new(config)?)
        };
        let pages = Arc::new(Semaphore::new((config.connections as usize - 1).max(1)));
        Ok(Self {
            backend,
            config: Arc::new(config.clone()),
            mapping: Arc::default(),
            refreshing: Arc::default(),
            pages,
            budget: Budget::new(config.read_ahead_bytes),
            mean_row_bytes: Arc::default(),
            metrics: StoreMetrics::default(),
        })
    }

    /// What it counts.
    pub fn metrics(&self) -> &StoreMetrics {
        &self.metrics
    }

    /// Counts an error that ended an attempt.
    pub fn count_error(&self, error: &SourceError) {
        count_error(&self.metrics.errors, error.cause());
    }

    /// How its tables are laid out; asked of the store when it first answers, and when a query finds that they have changed.
    ///
    /// # Errors
    /// The store is away, or its tables do not fit the configuration.
    pub async fn mapping(&self) -> Result<Arc<Mapping>, SourceError> {
        match self.known_mapping() {
            Some(mapping) => Ok(mapping),
            None => Box::pin(self.find_mapping(None)).await,
        }
    }

    fn known_mapping(&self) -> Option<Arc<Mapping>> {
        self.mapping.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How its tables are laid out now; asked of the store unless somebody did since they were found as in `old`.
    async fn refresh_mapping(&self, old: &Arc<Mapping>) -> Result<Arc<Mapping>, SourceError> {
        Box::pin(self.find_mapping(Some(old))).await
    }

    async fn find_mapping(&self, old: Option<&Arc<Mapping>>) -> Result<Arc<Mapping>, SourceError> {
        let find = async {
            let _finding = self.refreshing.lock().await;
            if let Some(mapping) = self.known_mapping()
                && old.is_none_or(|old| !Arc::ptr_eq(old, &mapping))
            {
                return Ok(mapping);
            }
            let found = match &self.backend {
                Backend::Postgres(server) => postgres::describe(server, &self.config).await,
                Backend::Sqlite(pool) => sqlite::describe(pool, &self.config).await,
            };
            let found = found.map(Arc::new);
            // One that does not fit any more is forgotten too.
            self.mapping.write().unwrap_or_else(PoisonError::into_inner).clone_from(&found.as_ref().ok().cloned());
            if let (Some(old), Ok(now)) = (old, &found)
                && !old.reads_like(now)
            {
                tracing::warn!(change = %old.changed_to(now), "the IoTA store's tables are read by their new layout from now on");
            }
            found
        };
        self.in_time("reading the layout of its tables", self.config.timeout_seconds, find).await
    }

    /// Whether it answers. Waits like a page for a connection, so that the last one stays free for other questions.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<(), SourceError> {
        // The semaphore is never closed.
        let _place = self.pages.acquire().await;
        let ask = async {
            match &self.backend {
                Backend::Postgres(server) => postgres::ping(server).await,
                Backend::Sqlite(pool) => Ok(sqlx::query("SELECT 1").execute(pool).await.map(|_| ())?),
            }
        };
        self.in_time("an answer", self.config.timeout_seconds, ask).await
    }

    /// A device, if there is one of this id on this thing.
    ///
    /// # Errors
    /// The store is away or refuses.
    pub async fn device(&self, thing: Uuid, device: Uuid) -> Result<Option<Device>, SourceError> {
        let mapping = self.mapping().await?;
        let query = select::device(&mapping, thing, device);
        let ask = async {
            Ok(match &self.backend {
                Backend::Postgres(server) => postgres::device(server, &query).await?,
                Backend::Sqlite(pool) => sqlite::device(pool, &query).await?,
            })
        };
        self.in_time("looking up a device", self.config.timeout_seconds, ask).await
    }

    /// How many rows a selection has.
    ///
    /// # Errors
    /// The store is away or refuses, or there are rows with no key.
    pub async fn count(&self, selection: &Selection) -> Result<u64, SourceError> {
        let mapping = self.mapping().await?;
        let counted = Box::pin(count::rows(self, &mapping, selection));
        self.in_time("counting rows (iota.query_timeout_seconds)", self.config.query_timeout_seconds, counted).await
    }

    /// Looks a device of a thing up, and reads a selection of it from its beginning to its end.
    pub fn open(&self, thing: Uuid, selection: Selection) -> OpenDevice {
        let (out, rows) = RowSender::new(selection.after.clone());
        let (found, device) = oneshot::channel();
        let store = self.clone();
        match &self.backend {
            Backend::Postgres(server) => store.open_in_batch(server, thing, selection, found, out),
            Backend::Sqlite(_) => {
                tokio::spawn(async move {
                    let _ = found.send(store.device(thing, selection.device).await);
                    store.read(selection, out, false).await;
                });
            }
        }
        OpenDevice { device, rows }
    }

    /// Reads a selection from its start to its end.
    pub fn rows(&self, selection: Selection) -> Rows {
        self.rows_of(selection, self.config.page_rows)
    }

    /// The same, with so many rows in its first page.
    fn rows_of(&self, selection: Selection, first: u32) -> Rows {
        let (out, rows) = RowSender::new(selection.after.clone());
        let store = self.clone();
        tokio::spawn(async move { store.read_from(selection, out, first).await });
        rows
    }

    /// Bytes of a row, as far as is known.
    fn mean_row_bytes(&self) -> Option<u64> {
        Some(self.mean_row_bytes.load(Ordering::Relaxed)).filter(|mean| *mean > 0)
    }

    fn record_mean_row_bytes(&self, mean: Option<u64>) {
        if let Some(mean) = mean {
            self.mean_row_bytes.store(mean, Ordering::Relaxed);
        }
    }

    fn timeouts(&self) -> Timeouts {
        Timeouts {
            first: Duration::from_secs(self.config.query_timeout_seconds),
            next: Duration::from_secs(self.config.timeout_seconds),
        }
    }

    async fn in_time<T>(
        &self,
        doing: &str,
        seconds: u64,
        ask: impl Future<Output = Result<T, SourceError>>,
    ) -> Result<T, SourceError> {
        let late = |_| SourceError::timeout(doing, seconds);
        tokio::time::timeout(Duration::from_secs(seconds), ask).await.map_err(late)?
    }
}

/// How long a page may take.
#[derive(Clone, Copy)]
struct Timeouts {
    /// To its first row.
    first: Duration,
    /// From one to the next.
    next: Duration,
}

/// What a page brought.
#[derive(Default)]
struct Page {
    rows: u64,
    /// Of documents.
    bytes: u64,
    last: Option<Position>,
    /// It was read to its end, and its connection can be used again.
    is_whole: bool,
}
