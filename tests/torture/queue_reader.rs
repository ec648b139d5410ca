//! Reads the tables of a queue directly, without the service: the file in the folder of the services,
//! or their schema in PostgreSQL.

use std::path::Path;

use sqlx::{
    Connection, FromRow, PgConnection, SqliteConnection,
    postgres::PgRow,
    sqlite::{SqliteConnectOptions, SqliteRow},
};

use crate::support::{TIMEOUT, queue_url_at, real};

pub enum QueueReader {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// A row of either database. Statements cast what has another type in one of them.
pub trait QueueRow: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}

impl<T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin> QueueRow for T {}

/// Whether the queues of the tests are in PostgreSQL.
pub fn is_postgres() -> bool {
    real("QUEUE").is_some()
}

impl QueueReader {
    /// Opens the queue of the services in `folder`.
    pub async fn open(folder: &Path) -> Self {
        if is_postgres() {
            return Self::Postgres(PgConnection::connect(&queue_url_at(folder)).await.unwrap());
        }
        let options = SqliteConnectOptions::new().filename(folder.join("queue.db")).busy_timeout(TIMEOUT);
        Self::Sqlite(SqliteConnection::connect_with(&options).await.unwrap())
    }

    pub async fn rows<R: QueueRow>(&mut self, sql: &'static str) -> Vec<R> {
        match self {
            Self::Sqlite(connection) => sqlx::query_as(sql).fetch_all(connection).await.unwrap(),
            Self::Postgres(connection) => sqlx::query_as(sql).fetch_all(connection).await.unwrap(),
        }
    }

    /// Queries one number.
    pub async fn number(&mut self, sql: &'static str) -> i64 {
        self.rows::<(i64,)>(sql).await[0].0
    }

    /// The id of the only task.
    pub async fn task(&mut self) -> Option<String> {
        self.rows("SELECT CAST(id AS TEXT) FROM task").await.pop().map(|(id,)| id)
    }

    /// The checkpoint of the only job, in microseconds since 1970: no row up to it may be sent
    /// again.
    pub async fn position(&mut self) -> Option<i64> {
        self.rows("SELECT cursor_time FROM job").await.pop().and_then(|(position,)| position)
    }

    /// Asserts that all work is finished: no job is open or leased, and each log is numbered
    /// without gaps or duplicates and has one final line, the last one.
    pub async fn assert_finished(&mut self) {
        let open = "SELECT count(*) FROM job WHERE state NOT IN ('succeeded', 'failed', 'cancelled') OR due_at IS NOT NULL";
        assert_eq!(self.number(open).await, 0, "jobs are open");
        assert_eq!(self.number("SELECT count(*) FROM task WHERE finished_at IS NULL").await, 0, "tasks are open");
        let gaps = "SELECT count(*) FROM task LEFT JOIN (SELECT task_id, count(*) AS lines, min(seq) AS low, max(seq) AS high, \
                    count(final_state) AS ends, max(CASE WHEN final_state IS NOT NULL THEN seq END) AS last_end \
                    FROM event GROUP BY task_id) AS log ON task_id = id \
                    WHERE lines IS NULL OR low <> 1 OR high <> lines OR last_seq <> high OR ends <> 1 OR last_end <> high";
        assert_eq!(self.number(gaps).await, 0, "a log has gaps, or no end");
    }
}
