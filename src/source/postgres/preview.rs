//! Short statements for previews. Each has a time limit that the server keeps too, so that nothing
//! runs on for a client that has left.

use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use sea_query::{PostgresQueryBuilder, SelectStatement};
use sqlx::{AssertSqlSafe, Row as _, postgres::PgRow};

use super::{Server, connection::ConnectionGuard};
use crate::source::SourceError;

/// The time limit of a list.
const LIST_LIMIT: Duration = Duration::from_secs(5);
/// SQLSTATE of a statement that was cancelled, also for its time limit.
const QUERY_CANCELED: &str = "57014";

/// A statement with a time limit. `SET LOCAL` ends with it, also in a pooler's session: statements
/// that are sent together are one transaction.
fn limited(query: &SelectStatement, limit: Duration) -> String {
    format!("SET LOCAL statement_timeout = {}; {}", limit.as_millis(), query.to_string(PostgresQueryBuilder))
}

fn is_cancelled(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some(QUERY_CANCELED))
}

impl Server {
    /// The rows of a statement; `None` if it took longer than `limit`, or gave way to others.
    pub(super) async fn fetch_within(&self, query: &SelectStatement, limit: Duration) -> Result<Option<Vec<PgRow>>, SourceError> {
        let mut rows = Vec::new();
        let is_complete = self.each_within(query, limit, &mut |row| rows.push(row)).await?;
        Ok(is_complete.then_some(rows))
    }

    /// The rows of a list that somebody waits for.
    pub(super) async fn fetch_list(&self, query: &SelectStatement) -> Result<Vec<PgRow>, SourceError> {
        let seconds = LIST_LIMIT.as_secs();
        self.fetch_within(query, LIST_LIMIT)
            .await?
            .ok_or_else(|| SourceError::Unavailable(format!("a list took longer than {seconds} s, or others wait for its table")))
    }

    /// Passes each row to `on_row` as it arrives; `false` if not all arrived in time.
    async fn each_within(
        &self,
        query: &SelectStatement,
        limit: Duration,
        on_row: &mut (dyn FnMut(PgRow) + Send),
    ) -> Result<bool, SourceError> {
        let mut connection = ConnectionGuard::of(self).await?;
        let watched = self.watchdog.start();
        let sql = format!("{}{}", watched.name(), limited(query, limit));
        let read = async {
            let mut rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch(connection.inner());
            while let Some(row) = rows.try_next().await? {
                on_row(row);
            }
            Ok(())
        };
        match read.await {
            Ok(()) => {
                watched.finish();
                connection.release();
                Ok(true)
            }
            Err(error) => {
                let is_cancelled = is_cancelled(&error);
                match watched.failed(error) {
                    SourceError::Yielded => Ok(false),
                    _ if is_cancelled => Ok(false),
                    error => Err(error),
                }
            }
        }
    }

    /// As [`each_within`](Self::each_within), for numbered documents.
    pub(super) async fn documents(
        &self,
        query: &SelectStatement,
        limit: Duration,
        on_row: &mut (dyn FnMut(usize, Option<Bytes>) + Send),
    ) -> Result<bool, SourceError> {
        let mut failed = None;
        let is_complete = self
            .each_within(query, limit, &mut |row| {
                let read = || {
                    let doc = row.try_get::<Option<&str>, _>("d")?;
                    Ok::<_, sqlx::Error>((row.try_get::<i64, _>("n")?, doc.map(|doc| Bytes::copy_from_slice(doc.as_bytes()))))
                };
                match read() {
                    Ok((n, doc)) => on_row(usize::try_from(n).unwrap_or(usize::MAX), doc),
                    Err(error) => failed = Some(error),
                }
            })
            .await?;
        failed.map_or(Ok(is_complete), |error| Err(error.into()))
    }
}

/// Reads rows as values.
pub(super) fn read<T: for<'r> sqlx::FromRow<'r, PgRow>>(rows: &[PgRow]) -> Result<Vec<T>, sqlx::Error> {
    rows.iter().map(T::from_row).collect()
}
