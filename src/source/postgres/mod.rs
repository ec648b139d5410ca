//! Reading from PostgreSQL. All statements go in the simple protocol, each on its own: through a pooler each may be in
//! another session.

mod batched_open;
pub mod copy;
mod discover;
mod lock_watchdog;
mod parallel;
mod pool;

use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream::BoxStream};
use sea_query::{PostgresQueryBuilder, SelectStatement};
use sqlx::{Row as _, postgres::PgRow};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{Device, Mapping, Page, RowSender, Selection, SourceError, Timeouts, pages::PAGE_BYTES, select};
use batched_open::{BatchQueue, DeviceBatch};
use copy::Decoder;
pub use discover::describe;
use lock_watchdog::{LockWatchdog, WatchedStatement};
use pool::{Connection, Pool};

use crate::{config::Iota, task::Position};

/// A server: connections, and the watch over what runs on them.
#[derive(Clone)]
pub struct Server {
    pool: Pool,
    watch: LockWatchdog,
    batch_queue: BatchQueue,
}

impl Server {
    pub fn new(config: &Iota) -> Result<Self, SourceError> {
        let pool = Pool::new(config)?;
        Ok(Self { watch: LockWatchdog::new(pool.clone(), config.max_blocking_seconds), pool, batch_queue: BatchQueue::default() })
    }

    /// Rows of a statement that brings few.
    pub async fn fetch(&self, sql: &str) -> Result<Vec<PgRow>, SourceError> {
        let mut connection = ConnectionGuard::of(self).await?;
        let rows = connection.fetch(sql).await?;
        connection.release();
        Ok(rows)
    }
}

pub async fn ping(server: &Server) -> Result<(), SourceError> {
    server.fetch("SELECT 1").await.map(|_| ())
}

pub async fn device(server: &Server, query: &SelectStatement) -> Result<Option<Device>, SourceError> {
    let row = server.fetch(&query.to_string(PostgresQueryBuilder)).await?.pop();
    row.map(|row| Ok(Device { name: row.try_get("name")? })).transpose()
}

/// Rows, and rows that have a key.
pub async fn count(server: &Server, query: &SelectStatement) -> Result<(u64, u64), SourceError> {
    let row = server.fetch(&query.to_string(PostgresQueryBuilder)).await?.pop().ok_or(sqlx::Error::RowNotFound)?;
    Ok((row.try_get::<i64, _>("rows")?.unsigned_abs(), row.try_get::<i64, _>("keys")?.unsigned_abs()))
}

/// What the planner means to do.
pub async fn explain(server: &Server, query: &SelectStatement) -> Result<String, SourceError> {
    let rows = server.fetch(&format!("EXPLAIN {}", query.to_string(PostgresQueryBuilder))).await?;
    let lines: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    Ok(lines.join("\n"))
}

/// Devices by their ids.
async fn devices(connection: &mut ConnectionGuard, query: &SelectStatement) -> Result<Vec<(Uuid, Device)>, SourceError> {
    let rows = connection.fetch(&query.to_string(PostgresQueryBuilder)).await?;
    let read = |row: &PgRow| {
        // Asked for as UUIDs, so they are some.
        let id = Uuid::try_parse(row.try_get("id")?).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok((id, Device { name: row.try_get("name")? }))
    };
    rows.iter().map(read).collect()
}

/// Looks several devices up and reads the first rows of each, in one go and on one connection. `false`: there was no memory
/// for all of them.
pub async fn batch(
    server: &Server,
    mapping: &Mapping,
    convoy: &mut DeviceBatch,
    timeouts: Timeouts,
) -> Result<bool, SourceError> {
    let mut connection = ConnectionGuard::of(server).await?;
    let found = tokio::time::timeout(timeouts.next, devices(&mut connection, &convoy.devices(mapping))).await;
    convoy.found(&found.map_err(|_| SourceError::timeout("looking up devices", timeouts.next.as_secs()))??);
    let Some(query) = convoy.query(mapping) else {
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
            convoy.take(copy.decoder.number(), row);
        }
    }
    copy.end()?;
    connection.release();
    Ok(true)
}

/// Reads one page, and queues its rows as they come.
pub async fn page(
    server: &Server,
    mapping: &Mapping,
    query: SelectStatement,
    timeouts: Timeouts,
    out: &mut RowSender,
) -> Result<Page, SourceError> {
    let mut connection = ConnectionGuard::of(server).await?;
    let page = connection.page(mapping, &query, timeouts, PAGE_BYTES, out).await?;
    if page.is_whole {
        connection.release();
    }
    Ok(page)
}

/// Asks for the last of the next `rows` rows, tells it, and reads up to it. Whatever is written to the store meanwhile, one
/// page begins where the other ends.
pub async fn page_until_boundary(
    server: &Server,
    mapping: &Mapping,
    mut selection: Selection,
    rows: u32,
    timeouts: Timeouts,
    tell: oneshot::Sender<Option<Position>>,
    out: &mut RowSender,
) -> Result<(), SourceError> {
    let mut connection = ConnectionGuard::of(server).await?;
    let edge = connection.boundary(mapping, &select::boundary(mapping, &selection, rows), timeouts).await?;
    // Who does not want it does not want the rows either.
    let _ = tell.send(edge.clone());
    loop {
        // The limit is for PostgreSQL, which plans for all that is left where it is not told how little is wanted.
        let query = select::page(mapping, &selection, rows, edge.as_ref());
        // Larger rows than those before are not worth losing the pages that are read beside this one.
        let page = connection.page(mapping, &query, timeouts, PAGE_BYTES * 2, out).await?;
        if !page.is_whole {
            return Err(SourceError::GaveWay);
        }
        if page.rows < u64::from(rows) || page.last == edge {
            break;
        }
        // Rows were written between.
        selection.after = page.last;
    }
    connection.release();
    Ok(())
}

/// A `COPY … TO STDOUT` that is being read.
struct CopyReader<'c> {
    pieces: BoxStream<'c, Result<Bytes, sqlx::Error>>,
    decoder: Decoder,
    /// For the next piece; the first may take longer.
    timeout: Duration,
    next: Duration,
    watched: Option<WatchedStatement>,
}

impl CopyReader<'_> {
    /// Gives the decoder the next piece. `false`: at the stream's end, and when nobody wants more.
    async fn fill(&mut self, unwanted: impl Future<Output = ()>) -> Result<bool, SourceError> {
        // Mostly there is one, and then neither a timer nor a look at the receiver is worth its time.
        let piece = if let Some(piece) = self.pieces.next().now_or_never() {
            piece
        } else {
            tokio::select! {
                piece = tokio::time::timeout(self.timeout, self.pieces.next()) => {
                    piece.map_err(|_| SourceError::timeout("waiting for rows", self.timeout.as_secs()))?
                }
                () = unwanted => None,
            }
        };
        let piece = match piece.transpose() {
            Ok(piece) => piece,
            Err(error) => {
                return Err(match self.watched.take() {
                    Some(watched) => watched.failed(error),
                    None => error.into(),
                });
            }
        };
        let Some(piece) = piece else { return Ok(false) };
        self.decoder.push(piece);
        self.timeout = self.next;
        Ok(true)
    }

    /// Nothing may be missing at the end.
    fn end(self) -> Result<(), SourceError> {
        if !self.decoder.is_complete() {
            return Err(SourceError::Unavailable("the rows ended in the middle".to_owned()));
        }
        if let Some(watched) = self.watched {
            watched.finish();
        }
        Ok(())
    }
}

/// A connection in the middle of a statement. Unless that ends well it is closed, for the next user would have to read all
/// that is left, or wait for a server that does not answer.
struct ConnectionGuard {
    connection: Connection,
    watch: LockWatchdog,
}

impl ConnectionGuard {
    async fn of(server: &Server) -> Result<Self, SourceError> {
        // Boxed: it would be in every future that waits for it, and be moved with each of them.
        let connection = Box::pin(server.pool.acquire()).await?;
        Ok(Self { connection, watch: server.watch.clone() })
    }

    async fn copy(
        &mut self,
        query: &SelectStatement,
        decoder: Decoder,
        timeouts: Timeouts,
    ) -> Result<CopyReader<'_>, SourceError> {
        let watched = self.watch.begin();
        let copy = format!("{}COPY ({}) TO STDOUT (FORMAT binary)", watched.name(), query.to_string(PostgresQueryBuilder));
        let Timeouts { first: timeout, next } = timeouts;
        let begun = tokio::time::timeout(timeout, self.connection.inner().copy_out_raw(&copy)).await;
        match begun.map_err(|_| SourceError::timeout("beginning to read", timeout.as_secs()))? {
            Ok(pieces) => Ok(CopyReader { pieces, decoder, timeout, next, watched: Some(watched) }),
            Err(error) => Err(watched.failed(error)),
        }
    }

    async fn fetch(&mut self, sql: &str) -> Result<Vec<PgRow>, SourceError> {
        let watched = self.watch.begin();
        match self.connection.fetch(format!("{}{sql}", watched.name())).await {
            Ok(rows) => {
                watched.finish();
                Ok(rows)
            }
            Err(error) => Err(watched.failed(error)),
        }
    }

    /// Reads rows, and queues them as they come: at most so many bytes, and one row whatever its size.
    async fn page(
        &mut self,
        mapping: &Mapping,
        query: &SelectStatement,
        timeouts: Timeouts,
        most: usize,
        out: &mut RowSender,
    ) -> Result<Page, SourceError> {
        let mut copy = self.copy(query, Decoder::new(mapping.key, mapping.time, mapping.doc), timeouts).await?;
        let (mut page, mut last) = (Page::default(), None);
        while copy.fill(out.closed()).await? {
            while let Some(row) = copy.decoder.row()? {
                page.rows += 1;
                page.bytes += row.bytes() as u64;
                last = Some((row.time_us, row.key.clone()));
                if !out.push(row) || page.bytes > most as u64 {
                    return Ok(page);
                }
            }
        }
        copy.end()?;
        page.is_whole = true;
        page.last = last.map(|(time_us, key)| Position { time_us, key: key.to_string() });
        Ok(page)
    }

    /// Where the one row stands that a query asks for.
    async fn boundary(
        &mut self,
        mapping: &Mapping,
        query: &SelectStatement,
        timeouts: Timeouts,
    ) -> Result<Option<Position>, SourceError> {
        let mut copy = self.copy(query, Decoder::new(mapping.key, mapping.time, mapping.doc), timeouts).await?;
        let mut edge = None;
        while copy.fill(std::future::pending()).await? {
            while let Some(row) = copy.decoder.row()? {
                edge = Some(row.position());
            }
        }
        copy.end()?;
        Ok(edge)
    }

    /// Its statements ended well: others may use it.
    fn release(self) {
        self.connection.give_back();
    }
}
