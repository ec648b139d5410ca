//! A queue in PostgreSQL as the source or the target of a copy.

use std::time::Duration;

use sqlx::{ConnectOptions, PgConnection, Result, query, query_scalar};

use super::{
    copy_rows::{INSERT_JOBS, INSERT_LOG_ENTRIES, INSERT_QUARANTINED, INSERT_TASKS, record},
    error::{Failure, answered},
    open, transaction,
};
use crate::{
    Clock, CopyError, OpenError, QueueError, QueueOptions,
    policy::millis,
    store::copy::{Answer, CopyEnd, Place, Record, Role, Table},
};

/// For how long a page may take.
const PAGE_TIMEOUT: Duration = Duration::from_mins(2);

/// Nobody writes to a source or reads from a target before the end of its copy. An instance that
/// starts waits for its row in `instance`, and gives up after a few seconds.
const LOCK_SOURCE: &str = "SET LOCAL lock_timeout = '10s';
    LOCK TABLE instance, task, job, event, quarantine IN SHARE MODE";
const LOCK_TARGET: &str = "SET LOCAL lock_timeout = '10s';
    LOCK TABLE instance, task, job, event, quarantine IN SHARE ROW EXCLUSIVE MODE";

/// The tables of a queue in a transaction that keeps others from writing.
pub(crate) struct PostgresEnd {
    name: String,
    connection: PgConnection,
    /// When the copy began, by the server's clock.
    now_ms: i64,
}

impl PostgresEnd {
    /// Connects to the queue while no service runs on it. The tables of a target are created if
    /// there are none.
    pub async fn open(options: &QueueOptions, clock: Clock, role: Role) -> std::result::Result<Self, CopyError> {
        let name = open::shown(&options.url);
        let connect = open::connect_options(&options.url).await?;
        let unavailable = |failure: Failure| OpenError::Unavailable { queue: name.clone(), source: failure.error };
        let failed = |error: sqlx::Error| CopyError::Store { queue: name.clone(), source: Failure::from(error).error };
        let mut connection = answered(connect.connect()).await.map_err(unavailable)?;
        let exists = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL AND to_regclass('instance') IS NOT NULL";
        if query_scalar(exists).fetch_one(&mut connection).await.map_err(failed)? {
            // Not to be migrated under a service of an older version.
            refuse_services(&mut connection, options, &clock, &name).await?;
        } else if role == Role::Source {
            return Err(CopyError::NoQueue { queue: name });
        }
        open::migrate(connect, &name).await?;
        // The snapshot is taken after the lock.
        sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ").execute(&mut connection).await.map_err(failed)?;
        let lock = if role == Role::Source { LOCK_SOURCE } else { LOCK_TARGET };
        sqlx::raw_sql(lock).execute(&mut connection).await.map_err(failed)?;
        refuse_services(&mut connection, options, &clock, &name).await?;
        let now_ms = transaction::now(&mut connection, &clock).await.map_err(failed)?;
        Ok(Self { name, connection, now_ms })
    }
}

/// An instance that is silent for long is dead, as the other instances see it.
async fn refuse_services(
    connection: &mut PgConnection,
    options: &QueueOptions,
    clock: &Clock,
    name: &str,
) -> std::result::Result<(), CopyError> {
    let failed = |error: sqlx::Error| CopyError::Store { queue: name.to_owned(), source: Failure::from(error).error };
    let now_ms = transaction::now(connection, clock).await.map_err(failed)?;
    let living: i64 = query_scalar("SELECT count(*) FROM instance WHERE seen_at >= $1")
        .bind(now_ms - millis(options.dead_after))
        .fetch_one(connection)
        .await
        .map_err(failed)?;
    match living {
        0 => Ok(()),
        living => {
            Err(CopyError::InUse { queue: name.to_owned(), services: living.cast_unsigned(), silent_for: options.dead_after })
        }
    }
}

/// Waits for a statement of a copy.
fn page<'a, T: Send + 'a>(work: impl Future<Output = Result<T>> + Send + 'a) -> Answer<'a, T> {
    Box::pin(async move {
        let timeout = |_| sqlx::Error::Io(std::io::Error::other(format!("no answer within {} s", PAGE_TIMEOUT.as_secs())));
        let answer = tokio::time::timeout(PAGE_TIMEOUT, work).await.map_err(timeout).flatten();
        answer.map_err(|error| QueueError::from(Failure::from(error)))
    })
}

impl CopyEnd for PostgresEnd {
    fn name(&self) -> &str {
        &self.name
    }

    fn stores_nul(&self) -> bool {
        false
    }

    fn count(&mut self, table: Table) -> Answer<'_, u64> {
        let sql = match table {
            Table::Tasks => "SELECT count(*) FROM task",
            Table::Jobs => "SELECT count(*) FROM job",
            Table::LogEntries => "SELECT count(*) FROM event",
            Table::Quarantined => "SELECT count(*) FROM quarantine",
        };
        let count = query_scalar::<_, i64>(sql).fetch_one(&mut self.connection);
        page(async { Ok(count.await?.cast_unsigned()) })
    }

    fn read(&mut self, table: Table, after: Place, limit: u32) -> Answer<'_, Vec<Record>> {
        let (connection, now_ms) = (&mut self.connection, self.now_ms);
        page(async move {
            let Place { task, device, number, key } = after;
            let query = match table {
                Table::Tasks => query("SELECT * FROM task WHERE id > $2 ORDER BY id LIMIT $1"),
                Table::Jobs => query("SELECT * FROM job WHERE (task_id, ordinal) > ($2, $3) ORDER BY task_id, ordinal LIMIT $1"),
                Table::LogEntries => query("SELECT * FROM event WHERE (task_id, seq) > ($2, $3) ORDER BY task_id, seq LIMIT $1"),
                Table::Quarantined => query(
                    "SELECT * FROM quarantine WHERE (task_id, device_id, row_time, row_key) > ($2, $4, $3, $5)
                     ORDER BY task_id, device_id, row_time, row_key LIMIT $1",
                ),
            };
            let query = query.bind(i64::from(limit)).bind(task);
            let query = match table {
                Table::Tasks => query,
                Table::Jobs | Table::LogEntries => query.bind(number),
                Table::Quarantined => query.bind(number).bind(device).bind(key),
            };
            let rows = query.fetch_all(connection).await?;
            rows.iter().map(|row| record(table, row, now_ms)).collect()
        })
    }

    fn write(&mut self, rows: Vec<Record>) -> Answer<'_, ()> {
        let (connection, now_ms) = (&mut self.connection, self.now_ms);
        page(async move {
            let sql = match rows.first() {
                None => return Ok(()),
                Some(Record::Task(_)) => INSERT_TASKS,
                Some(Record::Job(_)) => INSERT_JOBS,
                Some(Record::LogEntry(_)) => INSERT_LOG_ENTRIES,
                Some(Record::Quarantined(_)) => INSERT_QUARANTINED,
            };
            let json = serde_json::to_string(&rows).map_err(|error| sqlx::Error::Encode(error.into()))?;
            let query = query(sql).bind(json);
            let query = if sql == INSERT_JOBS { query.bind(now_ms) } else { query };
            query.execute(connection).await.map(drop)
        })
    }

    fn commit(self: Box<Self>) -> Answer<'static, ()> {
        let Self { mut connection, .. } = *self;
        page(async move {
            sqlx::raw_sql("COMMIT").execute(&mut connection).await?;
            // So that the first plans are good ones. Without it autovacuum does it a minute later.
            let analyze = sqlx::raw_sql("ANALYZE task, job, event, quarantine").execute(&mut connection).await;
            if let Err(error) = analyze {
                tracing::warn!(%error, "the tables of the copy cannot be analyzed now; autovacuum does it later");
            }
            Ok(())
        })
    }
}
