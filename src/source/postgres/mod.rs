//! The PostgreSQL backend. Every statement uses the simple query protocol and depends on no session
//! state: through a pooler, each statement may run in another session.

mod batched_open;
mod connection;
pub mod copy;
mod discover;
pub(super) mod error;
mod lock_watchdog;
mod pool;
mod preview;

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use sea_query::{PostgresQueryBuilder, SelectStatement};
use sqlx::{FromRow as _, Row as _, postgres::PgRow};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    CatalogQuery, Device, DeviceRow, Mapping, Page, RowSender, Selection, Source, SourceError, StoredRange, ThingRow, Timeouts,
    backend::{CatalogBackend, PagedReadings, ReadingsBackend, RowCount},
    discover::Tables,
    pages::PAGE_BYTES,
    pending::{PendingDevice, PendingQueue},
    preview::{CountedGroup, Edges, ProbedGroup, SamplePoint},
    rows::LookUpResult,
    select,
};
use batched_open::DeviceBatch;
use connection::ConnectionGuard;
use copy::Decoder;
use lock_watchdog::LockWatchdog;
use pool::Pool;

use crate::{config::Iota, task::Position};

/// A PostgreSQL server: its connections, and the watchdog of the statements on them.
#[derive(Clone)]
pub struct Server {
    pool: Pool,
    watchdog: LockWatchdog,
    pending: PendingQueue,
}

impl Server {
    pub fn new(config: &Iota) -> Result<Self, SourceError> {
        let pool = Pool::new(config)?;
        Ok(Self {
            watchdog: LockWatchdog::new(pool.clone(), config.max_blocking_seconds),
            pool,
            pending: PendingQueue::default(),
        })
    }

    /// Runs a statement that returns few rows.
    pub async fn fetch(&self, sql: &str) -> Result<Vec<PgRow>, SourceError> {
        let mut connection = ConnectionGuard::of(self).await?;
        let rows = connection.fetch(sql).await?;
        connection.release();
        Ok(rows)
    }

    async fn any_text(&self, query: &SelectStatement) -> Result<Option<String>, SourceError> {
        let rows = self.fetch(&query.to_string(PostgresQueryBuilder)).await?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
    }
}

impl CatalogBackend for Server {
    async fn describe(&self, config: &Iota) -> Result<Tables, SourceError> {
        discover::describe(self, config).await
    }

    async fn ping(&self) -> Result<(), SourceError> {
        self.fetch("SELECT 1").await.map(|_| ())
    }

    async fn device(&self, mapping: &Mapping, thing: Uuid, device: Uuid) -> Result<Option<Device>, SourceError> {
        let query = select::device(mapping, thing, device);
        let row = self.fetch(&query.to_string(PostgresQueryBuilder)).await?.pop();
        Ok(row.as_ref().map(Device::from_row).transpose()?)
    }

    async fn things(&self, mapping: &Mapping, query: &CatalogQuery) -> Result<Vec<ThingRow>, SourceError> {
        let rows = self.fetch_list(&select::catalog::things(mapping, query)).await?;
        Ok(rows.iter().map(ThingRow::from_row).collect::<Result<_, _>>()?)
    }

    async fn devices_of(&self, mapping: &Mapping, thing: Uuid, query: &CatalogQuery) -> Result<Vec<DeviceRow>, SourceError> {
        let rows = self.fetch_list(&select::catalog::devices_of(mapping, thing, query)).await?;
        Ok(rows.iter().map(DeviceRow::from_row).collect::<Result<_, _>>()?)
    }

    async fn look_up(&self, mapping: &Mapping, thing: Uuid, devices: &[Uuid]) -> Result<HashMap<Uuid, Device>, SourceError> {
        let query = select::devices(mapping, thing, devices.iter().copied());
        Ok(read_devices(&self.fetch_list(&query).await?)?.into_iter().collect())
    }

    async fn any_device(&self, mapping: &Mapping) -> Result<Option<String>, SourceError> {
        self.any_text(&select::any_device(mapping)).await
    }
}

impl ReadingsBackend for Server {
    async fn bucket_counts(
        &self,
        mapping: &Mapping,
        devices: &[Uuid],
        edges: &Edges,
        cap: Option<u32>,
        limit: Duration,
    ) -> Result<Option<Vec<CountedGroup>>, SourceError> {
        let query = select::preview::bucket_counts(mapping, devices, edges, cap);
        Ok(self.fetch_within(&query, limit).await?.as_deref().map(preview::read).transpose()?)
    }

    async fn probe(
        &self,
        mapping: &Mapping,
        device: Uuid,
        ranges: &[StoredRange],
        rows: u32,
        limit: Duration,
    ) -> Result<Option<Vec<(usize, ProbedGroup)>>, SourceError> {
        let query = select::preview::probes(mapping, device, ranges, rows);
        let Some(rows) = self.fetch_within(&query, limit).await? else { return Ok(None) };
        let numbered =
            |row: &PgRow| Ok((usize::try_from(row.try_get::<i64, _>("n")?).unwrap_or(usize::MAX), ProbedGroup::from_row(row)?));
        Ok(Some(rows.iter().map(numbered).collect::<Result<_, sqlx::Error>>()?))
    }

    async fn sample(
        &self,
        mapping: &Mapping,
        points: &[SamplePoint],
        rows: u32,
        limit: Duration,
        on_row: &mut (dyn FnMut(usize, Option<Bytes>) + Send),
    ) -> Result<bool, SourceError> {
        self.documents(&select::preview::samples(mapping, points, rows), limit, on_row).await
    }

    async fn count(&self, mapping: &Mapping, device: Uuid, range: &StoredRange) -> Result<RowCount, SourceError> {
        let query = select::count(mapping, device, range);
        let row = self.fetch(&query.to_string(PostgresQueryBuilder)).await?.pop().ok_or(sqlx::Error::RowNotFound)?;
        Ok(RowCount::from_row(&row)?)
    }

    async fn read(&self, source: &Source, selection: Selection, sender: RowSender, first_rows: Option<u32>, is_finished: bool) {
        source.read_pages(self, selection, sender, first_rows, is_finished).await;
    }

    /// Opens it together with the other devices that wait.
    fn open(
        &self,
        source: &Source,
        thing: Uuid,
        selection: Selection,
        reply_to: oneshot::Sender<LookUpResult>,
        sender: RowSender,
    ) {
        self.pending.push(PendingDevice { thing, selection, reply_to: Some(reply_to), sender: Some(sender) });
        let (source, server) = (source.clone(), self.clone());
        tokio::spawn(async move { source.run_next_batch(&server).await });
    }

    async fn any_reading(&self, mapping: &Mapping) -> Result<Option<String>, SourceError> {
        self.any_text(&select::any_reading(mapping)).await
    }

    async fn explain_count(&self, mapping: &Mapping, device: Uuid, range: &StoredRange) -> Result<Option<String>, SourceError> {
        let query = select::count(mapping, device, range);
        let rows = self.fetch(&format!("EXPLAIN {}", query.to_string(PostgresQueryBuilder))).await?;
        let lines: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        Ok(Some(lines.join("\n")))
    }
}

impl PagedReadings for Server {
    async fn page(
        &self,
        mapping: &Mapping,
        selection: &Selection,
        limit: u32,
        timeouts: Timeouts,
        sender: &mut RowSender,
    ) -> Result<Page, SourceError> {
        let mut connection = ConnectionGuard::of(self).await?;
        let query = select::page(mapping, selection, limit, None);
        let page = connection.page(mapping, &query, timeouts, PAGE_BYTES, sender).await?;
        if page.is_complete {
            connection.release();
        }
        Ok(page)
    }

    /// Queries the boundary first, so that the following page can start at once, and the two meet
    /// even if rows are inserted meanwhile.
    async fn page_until_boundary(
        &self,
        mapping: &Mapping,
        mut selection: Selection,
        rows: u32,
        timeouts: Timeouts,
        boundary_tx: oneshot::Sender<Option<Position>>,
        sender: &mut RowSender,
    ) -> Result<(), SourceError> {
        let mut connection = ConnectionGuard::of(self).await?;
        let boundary = connection.boundary(mapping, &select::boundary(mapping, &selection, rows), timeouts).await?;
        // If the receiver was dropped, the rows are not needed either.
        let _ = boundary_tx.send(boundary.clone());
        loop {
            // The limit is for the planner, which otherwise plans for all remaining rows.
            let query = select::page(mapping, &selection, rows, boundary.as_ref());
            // Twice the usual limit: if rows are larger than before, cutting this page off would
            // discard the pages that are read in parallel.
            let page = connection.page(mapping, &query, timeouts, PAGE_BYTES * 2, sender).await?;
            if !page.is_complete {
                return Err(SourceError::Yielded);
            }
            if page.rows < u64::from(rows) || page.last == boundary {
                break;
            }
            // Rows were inserted before the boundary: read on.
            selection.after = page.last;
        }
        connection.release();
        Ok(())
    }
}

/// Looks devices up by id.
async fn devices(connection: &mut ConnectionGuard, query: &SelectStatement) -> Result<Vec<(Uuid, Device)>, SourceError> {
    Ok(read_devices(&connection.fetch(&query.to_string(PostgresQueryBuilder)).await?)?)
}

fn read_devices(rows: &[PgRow]) -> Result<Vec<(Uuid, Device)>, sqlx::Error> {
    let read = |row: &PgRow| {
        // The query compares ids with UUIDs, so each can be parsed.
        let id = Uuid::try_parse(row.try_get("id")?).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok((id, Device::from_row(row)?))
    };
    rows.iter().map(read).collect()
}

/// Looks several devices up and reads the first rows of each, on one connection. Returns false if
/// the page limit was reached before the end.
pub async fn read_batch(
    server: &Server,
    mapping: &Mapping,
    batch: &mut DeviceBatch,
    timeouts: Timeouts,
) -> Result<bool, SourceError> {
    let mut connection = ConnectionGuard::of(server).await?;
    let found = tokio::time::timeout(timeouts.next, devices(&mut connection, &batch.devices(mapping))).await;
    batch.reply_to_all(&found.map_err(|_| SourceError::timeout("looking up devices", timeouts.next.as_secs()))??);
    let Some(query) = batch.query(mapping) else {
        connection.release();
        return Ok(true);
    };
    let decoder = Decoder::new(mapping.key, mapping.time, mapping.doc).with_ordinal();
    let mut copy = connection.copy(&query, decoder, timeouts).await?;
    let mut bytes = 0;
    while copy.fill(std::future::pending()).await? {
        while let Some(row) = copy.decoder.row()? {
            if bytes >= PAGE_BYTES {
                return Ok(false);
            }
            bytes += row.bytes();
            batch.push_row(copy.decoder.ordinal(), row);
        }
    }
    copy.end()?;
    connection.release();
    Ok(true)
}
