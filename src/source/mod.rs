//! The source of readings: the IoTA database, PostgreSQL or SQLite. It is only ever read.
//!
//! A device's rows are read in the order of time and row key, page by page (keyset pagination), so
//! that reading can resume after any row, and no query holds a snapshot of a live database for
//! long.
//!
//! # The contract of a source
//!
//! Workers use five operations of [`Source`], and every database must support them:
//!
//! - [`Source::mapping`] describes the tables: the types of the columns, and so the order of the
//!   rows. Positions are only comparable within one [layout](Mapping::layout). A row key is unique
//!   for a device and time.
//! - [`Source::ping`] proves that the database answers, without taking the last connection.
//! - [`Source::open`] looks a device up and begins to read its rows, in one step, because thousands
//!   of small devices are opened.
//! - [`Source::rows`] reads a selection to its end, each row exactly once and in ascending order of
//!   time and row key, or ends with an error. The rows before an error are complete; reading can
//!   resume after the last one.
//! - [`Source::count`] returns the number of rows that reading the same selection would return.
//!
//! Things and devices are in a database (`CatalogBackend`); the readings are in the same one or in
//! another store (`ReadingsBackend`). Both traits are in `backend.rs`, which states what each
//! operation must do. To add a store, implement what it serves in a module of its own, together
//! with a `From` that classifies its driver's errors as `SourceError`, and add a variant to
//! `Catalog` or `Readings`. Timeouts and the memory budget are shared; so are pages, parallel
//! pages and resuming after a position, for a store that implements `PagedReadings`. What a store
//! does beyond that, such as the batched opening of PostgreSQL, is in its folder.

mod backend;
mod budget;
mod catalog;
mod count;
mod discover;
mod elastic;
mod error;
mod examine;
mod local;
mod mapping;
mod pages;
mod parallel;
mod pending;
mod postgres;
mod preview;
#[cfg(test)]
mod reader_tests;
mod rows;
pub mod sample;
pub mod sample_database;
mod select;
mod sqlite;

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::{Mutex, Semaphore, SemaphorePermit, oneshot};
use uuid::Uuid;

use backend::{Catalog, CatalogBackend as _, Readings, ReadingsBackend as _};
use budget::Budget;
pub use catalog::{CatalogPosition, CatalogQuery, DeviceRow, ThingNames, ThingRow, requestable};
pub use error::SourceError;
pub use mapping::{DocType, IdType, KeyType, Mapping, StoredRange, TimeType};
pub use postgres::copy;
pub use preview::{Buckets, DeviceCounts};
use rows::RowSender;
pub use rows::{FirstRows, OpenDevice, Rows};

use crate::{
    config,
    task::Position,
    telemetry::{SourceMetrics, count_error},
};

/// A handle to the source; clones share its connections.
#[derive(Clone)]
pub struct Source {
    shared: Arc<Shared>,
}

/// What all handles share. One pointer, since every job clones its handle.
struct Shared {
    catalog: Catalog,
    readings: Readings,
    config: config::Iota,
    mapping: RwLock<Option<Arc<Mapping>>>,
    /// Held while the mapping is loaded, so that only one task does it.
    refreshing: Mutex<()>,
    /// Permits for connections that read pages. One connection is reserved for other statements,
    /// which would otherwise time out and report the source as unavailable.
    pages: Arc<Semaphore>,
    /// How many of these there are.
    readers: std::sync::Mutex<usize>,
    /// Permits for what people wait for: lists and previews of all clients together.
    browsing: Semaphore,
    /// Memory for rows that are read and not yet consumed.
    budget: Budget,
    /// Average bytes of a row in the page that was read last; 0 before the first page.
    mean_row_bytes: AtomicU64,
    metrics: SourceMetrics,
}

/// Rows of a device: a range of time, and the position after which reading resumes.
#[derive(Debug, Clone)]
pub struct Selection {
    pub device: Uuid,
    /// Inclusive, as is `to`.
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    /// Only rows that come after this one.
    pub after: Option<Position>,
}

/// One raw reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its stored time, to be converted by [`TimeType::instant_us`], and its row key.
    pub position: Position,
    /// The document's bytes; `None` where the column is NULL.
    pub doc: Option<Bytes>,
}

impl Row {
    /// Bytes in memory.
    fn bytes(&self) -> usize {
        self.doc.as_ref().map_or(0, Bytes::len) + size_of::<Self>()
    }
}

/// A device in the source.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Device {
    /// `None` where the column is NULL.
    pub name: Option<String>,
}

/// The connections that may read pages: all but the one that is reserved.
fn most_readers(config: &config::Iota) -> usize {
    (config.connections as usize - 1).max(1)
}

impl Source {
    /// Creates a connection pool; connections are opened on first use.
    ///
    /// # Errors
    /// The URL is invalid.
    pub fn new(config: &config::Iota) -> Result<Self, SourceError> {
        let (catalog, readings) = backend::open(config)?;
        let readers = most_readers(config);
        let shared = Shared {
            catalog,
            readings,
            config: config.clone(),
            mapping: RwLock::default(),
            refreshing: Mutex::default(),
            pages: Arc::new(Semaphore::new(readers)),
            readers: std::sync::Mutex::new(readers),
            browsing: Semaphore::new(if config.connections > 5 { 2 } else { 1 }),
            budget: Budget::new(config.read_ahead_bytes),
            mean_row_bytes: AtomicU64::default(),
            metrics: SourceMetrics::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Sets how many connections read pages at the same time; at least one, since lists, previews and
    /// pings use it too, and at most as many as there are. A page that is being read is read to its
    /// end.
    pub fn limit_readers(&self, readers: usize) {
        let shared = &self.shared;
        let readers = readers.clamp(1, most_readers(&shared.config));
        let before = std::mem::replace(&mut *shared.readers.lock().unwrap_or_else(PoisonError::into_inner), readers);
        if readers > before {
            shared.pages.add_permits(readers - before);
        } else if let Ok(fewer @ 1..) = u32::try_from(before - readers) {
            let pages = Arc::clone(&shared.pages);
            tokio::spawn(async move {
                if let Ok(permits) = pages.acquire_many_owned(fewer).await {
                    permits.forget();
                }
            });
        }
    }

    /// Metrics of this source.
    pub fn metrics(&self) -> &SourceMetrics {
        &self.shared.metrics
    }

    /// Counts an error that ended an attempt.
    pub fn count_error(&self, error: &SourceError) {
        count_error(&self.shared.metrics.errors, error.cause());
    }

    /// The layout of the tables; loaded on first use, and again when a query finds that it has
    /// changed.
    ///
    /// # Errors
    /// The source is unavailable, or its tables do not match the configuration.
    pub async fn mapping(&self) -> Result<Arc<Mapping>, SourceError> {
        match self.known_mapping() {
            Some(mapping) => Ok(mapping),
            None => Box::pin(self.load_mapping(None)).await,
        }
    }

    fn known_mapping(&self) -> Option<Arc<Mapping>> {
        self.shared.mapping.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reloads the layout, unless another task has done so since `old` was loaded.
    async fn refresh_mapping(&self, old: &Arc<Mapping>) -> Result<Arc<Mapping>, SourceError> {
        Box::pin(self.load_mapping(Some(old))).await
    }

    async fn load_mapping(&self, old: Option<&Arc<Mapping>>) -> Result<Arc<Mapping>, SourceError> {
        let find = async {
            let _refreshing = self.shared.refreshing.lock().await;
            if let Some(mapping) = self.known_mapping()
                && old.is_none_or(|old| !Arc::ptr_eq(old, &mapping))
            {
                return Ok(mapping);
            }
            let loaded = self.describe().await.map(Arc::new);
            // A mapping that no longer matches is dropped too.
            self.shared.mapping.write().unwrap_or_else(PoisonError::into_inner).clone_from(&loaded.as_ref().ok().cloned());
            if let (Some(old), Ok(now)) = (old, &loaded)
                && !old.has_same_types(now)
            {
                tracing::warn!(change = %old.change_error(now), "the table layout of the IoTA source has changed; the new layout is used from now on");
            }
            loaded
        };
        self.with_timeout("reading the table layout", self.shared.config.timeout_seconds, find).await
    }

    async fn describe(&self) -> Result<Mapping, SourceError> {
        let config = &self.shared.config;
        let tables = self.shared.catalog.describe(config).await?;
        let raw = match (&self.shared.readings, &tables.raw) {
            (Readings::Elastic(cluster), _) => cluster.describe().await?,
            (Readings::Postgres(_) | Readings::Sqlite(_), Some(raw)) => discover::raw_layout(config, raw)?,
            (Readings::Postgres(_) | Readings::Sqlite(_), None) => return Err(discover::no_table(&config.raw.table)),
        };
        discover::build_mapping(config, &tables, raw)
    }

    /// Checks that the source answers. Waits for a page's permit, so that the reserved connection
    /// stays free for jobs.
    ///
    /// # Errors
    /// The source is unavailable.
    pub async fn ping(&self) -> Result<(), SourceError> {
        // The semaphore is never closed.
        let _permit = self.shared.pages.acquire().await;
        let ping = async {
            self.shared.catalog.ping().await?;
            if let Readings::Elastic(cluster) = &self.shared.readings { cluster.ping().await } else { Ok(()) }
        };
        self.with_timeout("a ping", self.shared.config.timeout_seconds, ping).await
    }

    /// A permit for a statement of a list or a preview, and one for the connection that it uses: the
    /// reserved connection stays free for jobs.
    async fn browsing_permit(&self) -> (Option<SemaphorePermit<'_>>, Option<SemaphorePermit<'_>>) {
        // The semaphores are never closed.
        (self.shared.browsing.acquire().await.ok(), self.shared.pages.acquire().await.ok())
    }

    /// Returns the device of this id, if it is mounted on this thing.
    ///
    /// # Errors
    /// The source is unavailable or rejects the query.
    pub async fn device(&self, thing: Uuid, device: Uuid) -> Result<Option<Device>, SourceError> {
        let mapping = self.mapping().await?;
        let look_up = self.shared.catalog.device(&mapping, thing, device);
        self.with_timeout("looking up a device", self.shared.config.timeout_seconds, look_up).await
    }

    /// Counts the rows of a selection.
    ///
    /// # Errors
    /// The source is unavailable or rejects the query, or there are rows without a key.
    pub async fn count(&self, selection: &Selection) -> Result<u64, SourceError> {
        let mapping = self.mapping().await?;
        let counted = Box::pin(count::rows(self, &mapping, selection));
        self.with_timeout("counting rows (iota.query_timeout_seconds)", self.shared.config.query_timeout_seconds, counted).await
    }

    /// Looks a device of a thing up, and reads a selection of its rows to the end.
    pub fn open(&self, thing: Uuid, selection: Selection) -> OpenDevice {
        let (sender, rows) = RowSender::new(selection.after.clone());
        let (result_tx, device) = oneshot::channel();
        self.shared.readings.open(self, thing, selection, result_tx, sender);
        OpenDevice { device, rows }
    }

    /// Reads a selection to its end.
    pub fn rows(&self, selection: Selection) -> Rows {
        self.rows_with_first_page(selection, None)
    }

    /// As [`rows`](Self::rows), with a limit of rows in the first page.
    fn rows_with_first_page(&self, selection: Selection, first_rows: Option<u32>) -> Rows {
        let (sender, rows) = RowSender::new(selection.after.clone());
        let source = self.clone();
        tokio::spawn(async move { source.shared.readings.read(&source, selection, sender, first_rows, false).await });
        rows
    }

    /// Average bytes of a row, once a page was read.
    fn mean_row_bytes(&self) -> Option<u64> {
        Some(self.shared.mean_row_bytes.load(Ordering::Relaxed)).filter(|mean| *mean > 0)
    }

    fn record_mean_row_bytes(&self, mean: Option<u64>) {
        if let Some(mean) = mean {
            self.shared.mean_row_bytes.store(mean, Ordering::Relaxed);
        }
    }

    fn timeouts(&self) -> Timeouts {
        Timeouts {
            first: Duration::from_secs(self.shared.config.query_timeout_seconds),
            next: Duration::from_secs(self.shared.config.timeout_seconds),
        }
    }

    async fn with_timeout<T>(
        &self,
        what: &str,
        seconds: u64,
        work: impl Future<Output = Result<T, SourceError>>,
    ) -> Result<T, SourceError> {
        let timed_out = |_| SourceError::timeout(what, seconds);
        tokio::time::timeout(Duration::from_secs(seconds), work).await.map_err(timed_out)?
    }
}

/// Timeouts for reading a page.
#[derive(Clone, Copy)]
struct Timeouts {
    /// Until the first row arrives.
    first: Duration,
    /// Between two rows.
    next: Duration,
}

/// The result of reading one page.
#[derive(Default)]
struct Page {
    rows: u64,
    /// Total bytes of its rows.
    bytes: u64,
    /// The position of its last row.
    last: Option<Position>,
    /// The page was read to its end, and its connection can be used again.
    is_complete: bool,
}
