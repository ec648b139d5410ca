//! What stores must offer to serve as a source: the database of things and devices, and the store of
//! readings, which is the same one or another.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    CatalogQuery, Device, DeviceRow, Mapping, Page, RowSender, Selection, Source, SourceError, StoredRange, ThingRow, Timeouts,
    discover::Tables,
    elastic, postgres,
    preview::{CountedGroup, Edges, ProbedGroup, SamplePoint},
    rows::LookUpResult,
    sqlite,
};
use crate::{
    config::{Database, Iota},
    task::Position,
};

/// The database of things and devices.
///
/// Every operation of this trait and of [`ReadingsBackend`] is a read, is cancel-safe, and
/// classifies its errors as [`SourceError`] does:
/// [`is_retryable`](SourceError::is_retryable) must be true for an outage, or jobs fail for good.
/// [`Source`] adds what they have in common: timeouts, the connection permits, the memory budget,
/// paging and the cached [`Mapping`].
pub(super) trait CatalogBackend {
    /// Reads the types, nullability and indexes of the configured tables. The table of readings is
    /// left out if the readings are elsewhere.
    ///
    /// # Errors
    /// [`SourceError::Mapping`] if a table is missing.
    async fn describe(&self, config: &Iota) -> Result<Tables, SourceError>;

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

    /// Returns the id of any device and of its thing, separated by a space; for `data-patch check`.
    async fn any_device(&self, mapping: &Mapping) -> Result<Option<String>, SourceError>;
}

/// The store of raw readings: a table of the same database, or another store.
pub(super) trait ReadingsBackend {
    /// Whether [`bucket_counts`](Self::bucket_counts) stops at its cap.
    fn caps_counts(&self) -> bool {
        true
    }

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

    /// Reads a selection to its end into `sender`, at first at most `first_rows` rows at a time.
    /// With `is_finished` all rows are read already. Rows that are dropped for lack of memory are
    /// read again, until all of them are consumed or the receiver is dropped.
    async fn read(&self, source: &Source, selection: Selection, sender: RowSender, first_rows: Option<u32>, is_finished: bool);

    /// Looks a device up, sends the result to `reply_to`, and reads its rows into `sender`, all in
    /// the background. A backend may do so for several devices together.
    fn open(
        &self,
        source: &Source,
        thing: Uuid,
        selection: Selection,
        reply_to: oneshot::Sender<LookUpResult>,
        sender: RowSender,
    );

    /// Returns the device id of any reading; for `data-patch check`.
    async fn any_reading(&self, mapping: &Mapping) -> Result<Option<String>, SourceError>;

    /// Returns the query plan of [`count`](Self::count), if the database can tell it.
    async fn explain_count(&self, mapping: &Mapping, device: Uuid, range: &StoredRange) -> Result<Option<String>, SourceError>;
}

/// A store of readings that is read page by page, each page after the position of the one before.
/// [`Source::read_pages`](super::Source) adds everything else.
pub(super) trait PagedReadings: Clone + Send + Sync + 'static {
    /// Reads the first `limit` rows of a selection, ordered by time and row key, and pushes each
    /// row to `sender` as it arrives. Stops early after [`PAGE_BYTES`](super::pages::PAGE_BYTES),
    /// but never before the first row, and when `sender` is closed: the page is then not
    /// [complete](Page::is_complete).
    ///
    /// # Errors
    /// [`SourceError::Changed`] if the types of the columns have changed since `mapping` was
    /// loaded. A backend must detect this itself: the order of the rows, and so every checkpoint,
    /// depends on the types.
    fn page(
        &self,
        mapping: &Mapping,
        selection: &Selection,
        limit: u32,
        timeouts: Timeouts,
        sender: &mut RowSender,
    ) -> impl Future<Output = Result<Page, SourceError>> + Send;

    /// Reads the next `rows` rows of a selection, and sends the position of the last of them to
    /// `boundary_tx` as soon as it is known: the next page is then read in parallel. `None`: there
    /// are no further rows. A backend that knows the boundary only at the end of the page needs
    /// nothing else than [`page`](Self::page).
    fn page_until_boundary(
        &self,
        mapping: &Mapping,
        selection: Selection,
        rows: u32,
        timeouts: Timeouts,
        boundary_tx: oneshot::Sender<Option<Position>>,
        sender: &mut RowSender,
    ) -> impl Future<Output = Result<(), SourceError>> + Send {
        async move {
            let page = self.page(mapping, &selection, rows, timeouts, sender).await?;
            let is_last = page.is_complete && page.rows < u64::from(rows);
            // If the receiver was dropped, the rows are not needed either.
            let _ = boundary_tx.send(page.last.filter(|_| !is_last));
            Ok(())
        }
    }
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

/// The databases of things and devices that this build can read.
pub(super) enum Catalog {
    Postgres(postgres::Server),
    Sqlite(sqlite::File),
}

/// The stores of readings that this build can read.
pub(super) enum Readings {
    Postgres(postgres::Server),
    Sqlite(sqlite::File),
    Elastic(elastic::Cluster),
}

/// Connects the two: if both are in one database, they share its connections.
pub(super) fn open(config: &Iota) -> Result<(Catalog, Readings), SourceError> {
    let (catalog, readings) = match config.database() {
        Some(Database::Postgres) => {
            let server = postgres::Server::new(config)?;
            (Catalog::Postgres(server.clone()), Readings::Postgres(server))
        }
        Some(Database::Sqlite) => {
            let file = sqlite::File::new(config)?;
            (Catalog::Sqlite(file.clone()), Readings::Sqlite(file))
        }
        None => return Err(SourceError::Rejected(format!("iota.url {} names no known database", config.url))),
    };
    let readings = if config.readings.is_configured() { Readings::Elastic(elastic::Cluster::new(config)?) } else { readings };
    Ok((catalog, readings))
}

/// Calls the same operation on whatever store it is. No future is boxed.
macro_rules! dispatch {
    ($kind:ident { $($variant:ident),* }, $backend:expr, $store:ident => $call:expr) => {
        match $backend {
            $($kind::$variant($store) => $call,)*
        }
    };
}

macro_rules! in_catalog {
    ($backend:expr, $database:ident => $call:expr) => {
        dispatch!(Catalog { Postgres, Sqlite }, $backend, $database => $call)
    };
}

macro_rules! in_readings {
    ($backend:expr, $store:ident => $call:expr) => {
        dispatch!(Readings { Postgres, Sqlite, Elastic }, $backend, $store => $call)
    };
}

impl CatalogBackend for Catalog {
    async fn describe(&self, config: &Iota) -> Result<Tables, SourceError> {
        in_catalog!(self, database => database.describe(config).await)
    }

    async fn ping(&self) -> Result<(), SourceError> {
        in_catalog!(self, database => database.ping().await)
    }

    async fn device(&self, mapping: &Mapping, thing: Uuid, device: Uuid) -> Result<Option<Device>, SourceError> {
        in_catalog!(self, database => database.device(mapping, thing, device).await)
    }

    async fn things(&self, mapping: &Mapping, query: &CatalogQuery) -> Result<Vec<ThingRow>, SourceError> {
        in_catalog!(self, database => database.things(mapping, query).await)
    }

    async fn devices_of(&self, mapping: &Mapping, thing: Uuid, query: &CatalogQuery) -> Result<Vec<DeviceRow>, SourceError> {
        in_catalog!(self, database => database.devices_of(mapping, thing, query).await)
    }

    async fn look_up(&self, mapping: &Mapping, thing: Uuid, devices: &[Uuid]) -> Result<HashMap<Uuid, Device>, SourceError> {
        in_catalog!(self, database => database.look_up(mapping, thing, devices).await)
    }

    async fn any_device(&self, mapping: &Mapping) -> Result<Option<String>, SourceError> {
        in_catalog!(self, database => database.any_device(mapping).await)
    }
}

impl ReadingsBackend for Readings {
    fn caps_counts(&self) -> bool {
        in_readings!(self, store => store.caps_counts())
    }

    async fn bucket_counts(
        &self,
        mapping: &Mapping,
        devices: &[Uuid],
        edges: &Edges,
        cap: Option<u32>,
        limit: Duration,
    ) -> Result<Option<Vec<CountedGroup>>, SourceError> {
        in_readings!(self, store => store.bucket_counts(mapping, devices, edges, cap, limit).await)
    }

    async fn probe(
        &self,
        mapping: &Mapping,
        device: Uuid,
        ranges: &[StoredRange],
        rows: u32,
        limit: Duration,
    ) -> Result<Option<Vec<(usize, ProbedGroup)>>, SourceError> {
        in_readings!(self, store => store.probe(mapping, device, ranges, rows, limit).await)
    }

    async fn sample(
        &self,
        mapping: &Mapping,
        points: &[SamplePoint],
        rows: u32,
        limit: Duration,
        on_row: &mut (dyn FnMut(usize, Option<Bytes>) + Send),
    ) -> Result<bool, SourceError> {
        in_readings!(self, store => store.sample(mapping, points, rows, limit, on_row).await)
    }

    async fn count(&self, mapping: &Mapping, device: Uuid, range: &StoredRange) -> Result<RowCount, SourceError> {
        in_readings!(self, store => store.count(mapping, device, range).await)
    }

    async fn read(&self, source: &Source, selection: Selection, sender: RowSender, first_rows: Option<u32>, is_finished: bool) {
        in_readings!(self, store => store.read(source, selection, sender, first_rows, is_finished).await);
    }

    fn open(
        &self,
        source: &Source,
        thing: Uuid,
        selection: Selection,
        reply_to: oneshot::Sender<LookUpResult>,
        sender: RowSender,
    ) {
        in_readings!(self, store => store.open(source, thing, selection, reply_to, sender));
    }

    async fn any_reading(&self, mapping: &Mapping) -> Result<Option<String>, SourceError> {
        in_readings!(self, store => store.any_reading(mapping).await)
    }

    async fn explain_count(&self, mapping: &Mapping, device: Uuid, range: &StoredRange) -> Result<Option<String>, SourceError> {
        in_readings!(self, store => store.explain_count(mapping, device, range).await)
    }
}
