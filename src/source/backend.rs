//! What a database must offer to serve as a source of readings.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    CatalogQuery, Device, DeviceRow, Mapping, Page, RowSender, Selection, Source, SourceError, StoredRange, ThingRow, Timeouts,
    postgres,
    preview::{CountedGroup, Edges, ProbedGroup, SamplePoint},
    rows::LookUpResult,
    sqlite,
};
use crate::{
    config::{Database, Iota},
    task::Position,
};

/// The operations that differ between databases. [`Source`] adds what they have in
/// common: timeouts, the connection permits, the memory budget, paging and the cached [`Mapping`].
///
/// Every operation is a read, is cancel-safe, and classifies its errors as [`SourceError`] does:
/// [`is_retryable`](SourceError::is_retryable) must be true for an outage, or jobs fail for good.
pub(super) trait SourceBackend {
    /// Reads the types, nullability and indexes of the configured columns.
    ///
    /// # Errors
    /// [`SourceError::Mapping`] if a table, a column or a unique row key is missing.
    async fn describe(&self, config: &Iota) -> Result<Mapping, SourceError>;

    /// Runs the cheapest statement that proves that the database answers.
    async fn ping(&self) -> Result<(), SourceError>;

    /// Returns a device if it exists and is mounted on the thing.
    async fn device(&self, mapping: &Mapping, thing: Uuid, device: Uuid) -> Result<Option<Device>, SourceError>;

    /// Lists things that have devices, ordered by the beginning of their name and by id.
    async fn things(&self, mapping: &Mapping, query: &CatalogQuery) -> Result<Vec<ThingRow>, SourceError>;

    /// Lists devices of a thing, in the same order.
    async fn devices_of(&self, mapping: &Mapping, thing: Uuid, query: &CatalogQuery) -> Result<Vec<DeviceRow>, SourceError>;

    /// Returns those of several devices that are mounted on the thing.
    async fn look_up(&self, mapping: &Mapping, thing: Uuid, devices: &[Uuid]) -> Result<HashMap<Uuid, Device>, SourceError>;

    /// Counts the rows of several devices by bucket, at most `cap` rows of each, if an index begins
    /// with the device. `None`: it takes longer than `limit`, or was cancelled because it blocks
    /// others.
    async fn bucket_counts(
        &self,
        mapping: &Mapping,
        devices: &[Uuid],
        edges: &Edges,
        cap: Option<u32>,
        limit: Duration,
    ) -> Result<Option<Vec<CountedGroup>>, SourceError>;

    /// Counts at most `rows` rows from the start of each of several ranges of a device, each with its
    /// number. `None` as for [`bucket_counts`](Self::bucket_counts).
    async fn probe(
        &self,
        mapping: &Mapping,
        device: Uuid,
        ranges: &[StoredRange],
        rows: u32,
        limit: Duration,
    ) -> Result<Option<Vec<(usize, ProbedGroup)>>, SourceError>;

    /// Reads the first `rows` documents from each of several points, and passes each to `on_row` with
    /// the number of its point, one after the other. `false`: not all were read within `limit`.
    async fn sample(
        &self,
        mapping: &Mapping,
        points: &[SamplePoint],
        rows: u32,
        limit: Duration,
        on_row: &mut (dyn FnMut(usize, Option<Bytes>) + Send),
    ) -> Result<bool, SourceError>;

    /// Counts the rows of a device in a range.
    ///
    /// # Errors
    /// [`SourceError::Yielded`] if the statement was cancelled because it blocked other sessions;
    /// the caller then counts the range in halves.
    async fn count(&self, mapping: &Mapping, device: Uuid, range: &StoredRange) -> Result<RowCount, SourceError>;

    /// Reads the first `limit` rows of a selection, ordered by time and row key, and pushes each
    /// row to `sender` as it arrives. Stops early after [`PAGE_BYTES`](super::pages::PAGE_BYTES),
    /// but never before the first row, and when `sender` is closed: the page is then not
    /// [complete](Page::is_complete).
    ///
    /// # Errors
    /// [`SourceError::Changed`] if the types of the columns have changed since `mapping` was
    /// loaded. A backend must detect this itself: the order of the rows, and so every checkpoint,
    /// depends on the types.
    async fn page(
        &self,
        mapping: &Mapping,
        selection: &Selection,
        limit: u32,
        timeouts: Timeouts,
        sender: &mut RowSender,
    ) -> Result<Page, SourceError>;

    /// Reads the next `rows` rows of a selection, and sends the position of the last of them to
    /// `boundary_tx` as soon as it is known: the next page is then read in parallel. `None`: there
    /// are no further rows. A backend that knows the boundary only at the end of the page needs
    /// nothing else than [`page`](Self::page).
    async fn page_until_boundary(
        &self,
        mapping: &Mapping,
        selection: Selection,
        rows: u32,
        timeouts: Timeouts,
        boundary_tx: oneshot::Sender<Option<Position>>,
        sender: &mut RowSender,
    ) -> Result<(), SourceError> {
        let page = self.page(mapping, &selection, rows, timeouts, sender).await?;
        let is_last = page.is_complete && page.rows < u64::from(rows);
        // If the receiver was dropped, the rows are not needed either.
        let _ = boundary_tx.send(page.last.filter(|_| !is_last));
        Ok(())
    }

    /// Looks a device up, sends the result to `reply_to`, and reads its rows into `sender`, all in
    /// the background. A backend may do so for several devices together.
    fn open(
        &self,
        source: &Source,
        thing: Uuid,
        selection: Selection,
        reply_to: oneshot::Sender<LookUpResult>,
        sender: RowSender,
    ) {
        let source = source.clone();
        tokio::spawn(async move {
            let _ = reply_to.send(source.device(thing, selection.device).await);
            source.read(selection, sender, false).await;
        });
    }

    /// Returns the id of any device and of its thing (separated by a space), and the device id of
    /// any reading; for `data-patch check`.
    async fn any_ids(&self, mapping: &Mapping) -> Result<[Option<String>; 2], SourceError>;

    /// Returns the query plan of [`count`](Self::count), if the database can tell it.
    async fn explain_count(&self, mapping: &Mapping, device: Uuid, range: &StoredRange) -> Result<Option<String>, SourceError>;
}

/// Rows of a range, and how many of them have a row key; the columns of [`select::count`].
///
/// [`select::count`]: super::select::count
#[derive(Debug, Clone, Copy, Default, sqlx::FromRow)]
pub(super) struct RowCount {
    #[sqlx(try_from = "i64")]
    pub rows: u64,
    #[sqlx(try_from = "i64")]
    pub keys: u64,
}

/// The databases that this build can read.
#[derive(Clone)]
pub(super) enum Backend {
    Postgres(postgres::Server),
    Sqlite(sqlite::File),
}

impl Backend {
    pub fn new(config: &Iota) -> Result<Self, SourceError> {
        match config.database() {
            Some(Database::Postgres) => postgres::Server::new(config).map(Self::Postgres),
            Some(Database::Sqlite) => sqlite::File::new(config).map(Self::Sqlite),
            None => Err(SourceError::Rejected(format!("iota.url {} names no known database", config.url))),
        }
    }
}

/// Calls the same operation on whatever database it is. No future is boxed.
macro_rules! dispatch {
    ($backend:expr, $database:ident => $call:expr) => {
        match $backend {
            Backend::Postgres($database) => $call,
            Backend::Sqlite($database) => $call,
        }
    };
}

impl SourceBackend for Backend {
    async fn describe(&self, config: &Iota) -> Result<Mapping, SourceError> {
        dispatch!(self, database => database.describe(config).await)
    }

    async fn ping(&self) -> Result<(), SourceError> {
        dispatch!(self, database => database.ping().await)
    }

    async fn device(&self, mapping: &Mapping, thing: Uuid, device: Uuid) -> Result<Option<Device>, SourceError> {
        dispatch!(self, database => database.device(mapping, thing, device).await)
    }

    async fn things(&self, mapping: &Mapping, query: &CatalogQuery) -> Result<Vec<ThingRow>, SourceError> {
        dispatch!(self, database => database.things(mapping, query).await)
    }

    async fn devices_of(&self, mapping: &Mapping, thing: Uuid, query: &CatalogQuery) -> Result<Vec<DeviceRow>, SourceError> {
        dispatch!(self, database => database.devices_of(mapping, thing, query).await)
    }

    async fn look_up(&self, mapping: &Mapping, thing: Uuid, devices: &[Uuid]) -> Result<HashMap<Uuid, Device>, SourceError> {
        dispatch!(self, database => database.look_up(mapping, thing, devices).await)
    }

    async fn bucket_counts(
        &self,
        mapping: &Mapping,
        devices: &[Uuid],
        edges: &Edges,
        cap: Option<u32>,
        limit: Duration,
    ) -> Result<Option<Vec<CountedGroup>>, SourceError> {
        dispatch!(self, database => database.bucket_counts(mapping, devices, edges, cap, limit).await)
    }

    async fn probe(
        &self,
        mapping: &Mapping,
        device: Uuid,
        ranges: &[StoredRange],
        rows: u32,
        limit: Duration,
    ) -> Result<Option<Vec<(usize, ProbedGroup)>>, SourceError> {
        dispatch!(self, database => database.probe(mapping, device, ranges, rows, limit).await)
    }

    async fn sample(
        &self,
        mapping: &Mapping,
        points: &[SamplePoint],
        rows: u32,
        limit: Duration,
        on_row: &mut (dyn FnMut(usize, Option<Bytes>) + Send),
    ) -> Result<bool, SourceError> {
        dispatch!(self, database => database.sample(mapping, points, rows, limit, on_row).await)
    }

    async fn count(&self, mapping: &Mapping, device: Uuid, range: &StoredRange) -> Result<RowCount, SourceError> {
        dispatch!(self, database => database.count(mapping, device, range).await)
    }

    async fn page(
        &self,
        mapping: &Mapping,
        selection: &Selection,
        limit: u32,
        timeouts: Timeouts,
        sender: &mut RowSender,
    ) -> Result<Page, SourceError> {
        dispatch!(self, database => database.page(mapping, selection, limit, timeouts, sender).await)
    }

    async fn page_until_boundary(
        &self,
        mapping: &Mapping,
        selection: Selection,
        rows: u32,
        timeouts: Timeouts,
        boundary_tx: oneshot::Sender<Option<Position>>,
        sender: &mut RowSender,
    ) -> Result<(), SourceError> {
        dispatch!(self, database => database.page_until_boundary(mapping, selection, rows, timeouts, boundary_tx, sender).await)
    }

    fn open(
        &self,
        source: &Source,
        thing: Uuid,
        selection: Selection,
        reply_to: oneshot::Sender<LookUpResult>,
        sender: RowSender,
    ) {
        dispatch!(self, database => database.open(source, thing, selection, reply_to, sender));
    }

    async fn any_ids(&self, mapping: &Mapping) -> Result<[Option<String>; 2], SourceError> {
        dispatch!(self, database => database.any_ids(mapping).await)
    }

    async fn explain_count(&self, mapping: &Mapping, device: Uuid, range: &StoredRange) -> Result<Option<String>, SourceError> {
        dispatch!(self, database => database.explain_count(mapping, device, range).await)
    }
}
