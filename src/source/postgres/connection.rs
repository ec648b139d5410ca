//! A connection while a statement runs on it, and the reader of a `COPY`.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream::BoxStream};
use sea_query::{PostgresQueryBuilder, SelectStatement};
use sqlx::postgres::PgRow;

use super::{
    Server,
    copy::Decoder,
    lock_watchdog::{LockWatchdog, WatchedStatement},
    pool::Connection,
};
use crate::{
    source::{Mapping, Page, RowSender, SourceError, Timeouts},
    task::Position,
};

/// A `COPY … TO STDOUT` that is being read.
pub(super) struct CopyReader<'c> {
    chunks: BoxStream<'c, Result<Bytes, sqlx::Error>>,
    pub decoder: Decoder,
    /// Timeout for the next chunk; the first may take longer.
    timeout: Duration,
    next: Duration,
    watched: Option<WatchedStatement>,
}

impl CopyReader<'_> {
    /// Passes the next chunk to the decoder. Returns false at the end of the stream, and when
    /// `cancelled` completes.
    pub async fn fill(&mut self, cancelled: impl Future<Output = ()>) -> Result<bool, SourceError> {
        // Usually a chunk is ready; then a timer and a check of the receiver would only cost time.
        let chunk = if let Some(chunk) = self.chunks.next().now_or_never() {
            chunk
        } else {
            tokio::select! {
                chunk = tokio::time::timeout(self.timeout, self.chunks.next()) => {
                    chunk.map_err(|_| SourceError::timeout("waiting for rows", self.timeout.as_secs()))?
                }
                () = cancelled => None,
            }
        };
        let chunk = match chunk.transpose() {
            Ok(chunk) => chunk,
            Err(error) => {
                return Err(match self.watched.take() {
                    Some(watched) => watched.failed(error),
                    None => error.into(),
                });
            }
        };
        let Some(chunk) = chunk else { return Ok(false) };
        self.decoder.push(chunk);
        self.timeout = self.next;
        Ok(true)
    }

    /// Fails unless the stream is complete.
    pub fn end(self) -> Result<(), SourceError> {
        if !self.decoder.is_complete() {
            return Err(SourceError::Unavailable("the stream of rows ended early".to_owned()));
        }
        if let Some(watched) = self.watched {
            watched.finish();
        }
        Ok(())
    }
}

/// A connection in use. Unless it is [released](Self::release) it is closed on drop, because the
/// next user would have to read the remaining rows, or wait for a server that does not answer.
pub(super) struct ConnectionGuard {
    connection: Connection,
    watchdog: LockWatchdog,
}

impl ConnectionGuard {
    pub async fn of(server: &Server) -> Result<Self, SourceError> {
        // Boxed to keep the futures of all callers small.
        let connection = Box::pin(server.pool.acquire()).await?;
        Ok(Self { connection, watchdog: server.watchdog.clone() })
    }

    pub async fn copy(
        &mut self,
        query: &SelectStatement,
        decoder: Decoder,
        timeouts: Timeouts,
    ) -> Result<CopyReader<'_>, SourceError> {
        let watched = self.watchdog.start();
        let copy = format!("{}COPY ({}) TO STDOUT (FORMAT binary)", watched.name(), query.to_string(PostgresQueryBuilder));
        let Timeouts { first: timeout, next } = timeouts;
        let started = tokio::time::timeout(timeout, self.connection.inner().copy_out_raw(&copy)).await;
        match started.map_err(|_| SourceError::timeout("starting to read", timeout.as_secs()))? {
            Ok(chunks) => Ok(CopyReader { chunks, decoder, timeout, next, watched: Some(watched) }),
            Err(error) => Err(watched.failed(error)),
        }
    }

    pub async fn fetch(&mut self, sql: &str) -> Result<Vec<PgRow>, SourceError> {
        let watched = self.watchdog.start();
        match self.connection.fetch(format!("{}{sql}", watched.name())).await {
            Ok(rows) => {
                watched.finish();
                Ok(rows)
            }
            Err(error) => Err(watched.failed(error)),
        }
    }

    /// Reads rows, and pushes each to `sender`. Stops once `max_bytes` are exceeded.
    pub async fn page(
        &mut self,
        mapping: &Mapping,
        query: &SelectStatement,
        timeouts: Timeouts,
        max_bytes: usize,
        sender: &mut RowSender,
    ) -> Result<Page, SourceError> {
        let mut copy = self.copy(query, Decoder::new(mapping.key, mapping.time, mapping.doc), timeouts).await?;
        let mut page = Page::default();
        while copy.fill(sender.closed()).await? {
            while let Some(row) = copy.decoder.row()? {
                page.rows += 1;
                page.bytes += row.bytes() as u64;
                page.last = Some(row.position.clone());
                if !sender.push(row) || page.bytes > max_bytes as u64 {
                    return Ok(page);
                }
            }
        }
        copy.end()?;
        page.is_complete = true;
        Ok(page)
    }

    /// The position of the one row that a query returns.
    pub async fn boundary(
        &mut self,
        mapping: &Mapping,
        query: &SelectStatement,
        timeouts: Timeouts,
    ) -> Result<Option<Position>, SourceError> {
        let mut copy = self.copy(query, Decoder::new(mapping.key, mapping.time, mapping.doc), timeouts).await?;
        let mut boundary = None;
        while copy.fill(std::future::pending()).await? {
            while let Some(row) = copy.decoder.row()? {
                boundary = Some(row.position);
            }
        }
        copy.end()?;
        Ok(boundary)
    }

    /// The session itself.
    pub fn inner(&mut self) -> &mut sqlx::PgConnection {
        self.connection.inner()
    }

    /// Returns the connection to the pool, after its statements have ended.
    pub fn release(self) {
        self.connection.return_to_pool();
    }
}
