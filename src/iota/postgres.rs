//! Reading from PostgreSQL.

use std::{str::FromStr, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream::BoxStream};
use sea_query::{PostgresQueryBuilder, SelectStatement};
use sqlx::{
    AssertSqlSafe, Connection as _, Executor, PgPool, Postgres, Row as _,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions, PgRow},
};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{Device, Mapping, Out, Page, Selection, StoreError, Timeouts, convoy::Convoy, copy::Decoder, select};
use crate::{config::Iota, task::Position};

/// A connection that was idle for longer may have died unnoticed, and is asked.
const IDLE: Duration = Duration::from_millis(500);

/// Connections that can't write, even by mistake.
pub fn pool(config: &Iota) -> Result<PgPool, StoreError> {
    let options = PgConnectOptions::from_str(config.url.reveal())
        .map_err(|error| StoreError::Refused(format!("iota.url {} can't be read: {error}", config.url)))?
        .application_name("data-patch");
    Ok(PgPoolOptions::new()
        .max_connections(config.connections)
        .acquire_timeout(Duration::from_secs(config.timeout_seconds))
        .idle_timeout(Duration::from_mins(10))
        // A question whether the connection lives costs as much as a small device; one that was used just now does.
        .test_before_acquire(false)
        .before_acquire(|connection, use_| {
            Box::pin(async move {
                if use_.idle_for > IDLE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .after_connect(|connection, _| {
            Box::pin(async move {
                connection.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY").await?;
                Ok(())
            })
        })
        .connect_lazy_with(options))
}

/// Asks for one row, on a connection that is closed when nobody waits for the answer any more: back in the pool it would
/// be taken up by the rest of it.
async fn one_row(pool: &PgPool, sql: String) -> Result<Option<PgRow>, sqlx::Error> {
    let mut connection = Busy::of(pool).await?;
    let row = connection.fetch(sql).await?.pop();
    connection.done();
    Ok(row)
}

pub async fn ping(pool: &PgPool) -> Result<(), sqlx::Error> {
    one_row(pool, "SELECT 1".to_owned()).await.map(|_| ())
}

pub async fn device(pool: &PgPool, query: &SelectStatement) -> Result<Option<Device>, sqlx::Error> {
    let row = one_row(pool, query.to_string(PostgresQueryBuilder)).await?;
    row.map(|row| Ok(Device { name: row.try_get("name")? })).transpose()
}

/// Rows, and rows that have a key.
pub async fn count(pool: &PgPool, query: &SelectStatement) -> Result<(u64, u64), sqlx::Error> {
    let row = one_row(pool, query.to_string(PostgresQueryBuilder)).await?.ok_or(sqlx::Error::RowNotFound)?;
    Ok((row.try_get::<i64, _>("rows")?.unsigned_abs(), row.try_get::<i64, _>("keys")?.unsigned_abs()))
}

/// Devices by their ids.
async fn devices(connection: &mut Busy, query: &SelectStatement) -> Result<Vec<(Uuid, Device)>, sqlx::Error> {
    let rows = connection.fetch(query.to_string(PostgresQueryBuilder)).await?;
    let read = |row: &PgRow| {
        // Asked for as UUIDs, so they are some.
        let id = Uuid::try_parse(row.try_get("id")?).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok((id, Device { name: row.try_get("name")? }))
    };
    rows.iter().map(read).collect()
}

/// Looks several devices up and reads the first rows of each, in one go and on one connection.
pub async fn convoy(pool: &PgPool, mapping: &Mapping, convoy: &mut Convoy, timeouts: Timeouts) -> Result<(), StoreError> {
    let mut connection = Busy::of(pool).await?;
    let found = tokio::time::timeout(timeouts.next, devices(&mut connection, &convoy.devices(mapping))).await;
    convoy.found(&found.map_err(|_| StoreError::timeout("looking up devices", timeouts.next.as_secs()))??);
    let Some(query) = convoy.query(mapping) else {
        connection.done();
        return Ok(());
    };
    let decoder = Decoder::new(mapping.key, mapping.time, mapping.doc).numbered();
    let mut copy = connection.copy(&query, decoder, timeouts).await?;
    while copy.more(std::future::pending()).await? {
        while let Some(row) = copy.decoder.row()? {
            convoy.take(copy.decoder.number(), row).await;
        }
    }
    copy.end()?;
    connection.done();
    Ok(())
}

/// Reads one page, and hands its rows on as they come.
pub async fn page(
    pool: &PgPool,
    mapping: &Mapping,
    query: SelectStatement,
    timeouts: Timeouts,
    out: &mut Out,
) -> Result<Page, StoreError> {
    let mut connection = Busy::of(pool).await?;
    let page = connection.page(mapping, &query, timeouts, out).await?;
    if page.is_whole {
        connection.done();
    }
    Ok(page)
}

/// Asks for the last of the next `rows` rows, tells it, and reads up to it. Whatever is written to the store meanwhile, one
/// page begins where the other ends.
pub async fn page_to_its_edge(
    pool: &PgPool,
    mapping: &Mapping,
    mut selection: Selection,
    rows: u32,
    timeouts: Timeouts,
    tell: oneshot::Sender<Option<Position>>,
    out: &mut Out,
) -> Result<(), StoreError> {
    let mut connection = Busy::of(pool).await?;
    let edge = connection.edge(mapping, &select::edge(mapping, &selection, rows), timeouts).await?;
    // Who does not want it does not want the rows either.
    let _ = tell.send(edge.clone());
    loop {
        // The limit is for PostgreSQL, which plans for all that is left where it is not told how little is wanted.
        let query = select::page(mapping, &selection, rows, edge.as_ref());
        let page = connection.page(mapping, &query, timeouts, out).await?;
        if !page.is_whole {
            return Ok(());
        }
        if page.rows < u64::from(rows) || page.last == edge {
            break;
        }
        // Rows were written between.
        selection.after = page.last;
    }
    connection.done();
    Ok(())
}

/// A `COPY … TO STDOUT` that is being read.
struct Copy<'c> {
    pieces: BoxStream<'c, Result<Bytes, sqlx::Error>>,
    decoder: Decoder,
    /// For the next piece; the first may take longer.
    timeout: Duration,
    next: Duration,
}

impl Copy<'_> {
    /// Gives the decoder the next piece. `false`: at the stream's end, and when nobody wants more.
    async fn more(&mut self, unwanted: impl Future<Output = ()>) -> Result<bool, StoreError> {
        // Mostly there is one, and then neither a timer nor a look at the receiver is worth its time.
        let piece = if let Some(piece) = self.pieces.next().now_or_never() {
            piece
        } else {
            tokio::select! {
                piece = tokio::time::timeout(self.timeout, self.pieces.next()) => {
                    piece.map_err(|_| StoreError::timeout("waiting for rows", self.timeout.as_secs()))?
                }
                () = unwanted => None,
            }
        };
        let Some(piece) = piece.transpose()? else { return Ok(false) };
        self.decoder.push(piece);
        self.timeout = self.next;
        Ok(true)
    }

    /// Nothing may be missing at the end.
    fn end(self) -> Result<(), StoreError> {
        if self.decoder.is_whole() { Ok(()) } else { Err(StoreError::Away("the rows ended in the middle".to_owned())) }
    }
}

/// A connection in the middle of a copy. Unless that ends well it is closed, for the next user would have to read all
/// that is left, or wait for a server that does not answer.
struct Busy(Option<PoolConnection<Postgres>>);

impl Busy {
    async fn of(pool: &PgPool) -> Result<Self, sqlx::Error> {
        // Boxed: its 4 KiB would be in every future that waits for it, and be moved with each of them.
        Ok(Self(Some(Box::pin(pool.acquire()).await?)))
    }

    async fn copy(&mut self, query: &SelectStatement, decoder: Decoder, timeouts: Timeouts) -> Result<Copy<'_>, StoreError> {
        let copy = format!("COPY ({}) TO STDOUT (FORMAT binary)", query.to_string(PostgresQueryBuilder));
        let Timeouts { first: timeout, next } = timeouts;
        let Some(connection) = &mut self.0 else { return Err(sqlx::Error::PoolClosed.into()) };
        let begun = tokio::time::timeout(timeout, connection.copy_out_raw(&copy)).await;
        let pieces = begun.map_err(|_| StoreError::timeout("beginning to read", timeout.as_secs()))??;
        Ok(Copy { pieces, decoder, timeout, next })
    }

    async fn fetch(&mut self, sql: String) -> Result<Vec<PgRow>, sqlx::Error> {
        match &mut self.0 {
            Some(connection) => sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut **connection).await,
            None => Err(sqlx::Error::PoolClosed),
        }
    }

    /// Reads rows, and hands them on as they come.
    async fn page(
        &mut self,
        mapping: &Mapping,
        query: &SelectStatement,
        timeouts: Timeouts,
        out: &mut Out,
    ) -> Result<Page, StoreError> {
        let mut copy = self.copy(query, Decoder::new(mapping.key, mapping.time, mapping.doc), timeouts).await?;
        let (mut page, mut last) = (Page::default(), None);
        while copy.more(out.unwanted()).await? {
            while let Some(row) = copy.decoder.row()? {
                page.rows += 1;
                page.bytes += row.doc.as_ref().map_or(0, Bytes::len) as u64;
                last = Some((row.time_us, row.key.clone()));
                if !out.push(row).await {
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
    async fn edge(
        &mut self,
        mapping: &Mapping,
        query: &SelectStatement,
        timeouts: Timeouts,
    ) -> Result<Option<Position>, StoreError> {
        let mut copy = self.copy(query, Decoder::new(mapping.key, mapping.time, mapping.doc), timeouts).await?;
        let mut edge = None;
        while copy.more(std::future::pending()).await? {
            while let Some(row) = copy.decoder.row()? {
                edge = Some(row.position());
            }
        }
        copy.end()?;
        Ok(edge)
    }

    /// The copy ended well: back to the pool.
    fn done(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}
