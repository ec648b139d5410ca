//! Connections to the queue file, their pragmas, and the read connections.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, Row, config::DbConfig, params_from_iter};
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{error::queue_error, probe::Identity, sql::Statement};
use crate::QueueError;

/// How long a connection waits for a lock before SQLite reports `SQLITE_BUSY`.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Prepared statements per connection: enough for all statements of the queue.
const STATEMENT_CACHE: usize = 64;

/// The size to which SQLite truncates the write-ahead log after a checkpoint, in bytes.
const JOURNAL_BYTES: u32 = 16 << 20;

/// Opens a connection to an existing file. Each commit is durable.
pub fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    // Query planner stability guarantee: one plan per statement. Without it SQLite planned anew for
    // each value of a limit or a time, which took most of the time of a claim.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // By default SQLite takes a quoted name that is no column for a string. If a newer version has
    // renamed a column, reading it must be an error and not give its name.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // FULL: a commit is on disk before it is reported. WAL mode is stored in the file.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Without the limit the log would keep its largest size for ever.
    connection.pragma_update_and_check(None, "journal_size_limit", JOURNAL_BYTES, |_| Ok(()))?;
    Ok(connection)
}

/// Drops planner statistics, which versions up to 0.1 wrote when a queue was closed. Statistics of
/// a small queue make SQLite scan whole tables once it is large.
pub fn drop_statistics(connection: &Connection) {
    // Not a reason to refuse the start: the statements that depend on statistics name their
    // indexes.
    if let Err(error) = connection.execute_batch("DROP TABLE IF EXISTS sqlite_stat1; DROP TABLE IF EXISTS sqlite_stat4") {
        tracing::warn!(%error, "the queue's old planner statistics cannot be dropped; the next start tries again");
    }
}

/// Runs a statement that returns no rows. Returns the number of rows it changed.
pub fn run(connection: &Connection, statement: &Statement<'_>) -> rusqlite::Result<usize> {
    connection.prepare_cached(&statement.text)?.execute(params_from_iter(&statement.values))
}

/// Runs a statement and reads all rows that it returns.
pub fn rows<T>(
    connection: &Connection,
    statement: &Statement<'_>,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    connection.prepare_cached(&statement.text)?.query_map(params_from_iter(&statement.values), read)?.collect()
}

/// A pool of read connections, opened on first use. Clones share it.
#[derive(Clone)]
pub struct Readers {
    file: Arc<Identity>,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub fn new(file: Identity, connections: u32) -> Self {
        let permits = Arc::new(Semaphore::new(connections as usize));
        Self { file: Arc::new(file), idle: Arc::default(), permits }
    }

    /// Runs a statement on a blocking thread and reads all its rows.
    pub async fn rows<T: Send + 'static>(
        &self,
        statement: Statement<'static>,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<Vec<T>, QueueError> {
        self.call(move |connection| rows(connection, &statement, read)).await
    }

    /// Runs several statements on a blocking thread: each change of thread costs more than a
    /// statement that finds its row by an index.
    pub async fn call<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, QueueError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| QueueError::Closed)?;
        let readers = self.clone();
        let task = spawn_blocking(move || {
            let _permit = permit;
            let idle = readers.idle().pop();
            let connection = idle.map_or_else(|| readers.connect(), Ok)?;
            let result = read(&connection).map_err(queue_error)?;
            // A connection with an error is not reused.
            readers.idle().push(connection);
            Ok(result)
        });
        // A join error means that the runtime is stopping, or a panic that was already reported.
        task.await.map_err(|_| QueueError::Closed)?
    }

    /// Opens a connection, unless another file has the name now: SQLite would take the first
    /// connection to it for the only one, and cut the index of the write-ahead log, which the
    /// other connections have mapped under the same name (SIGBUS).
    fn connect(&self) -> Result<Connection, QueueError> {
        self.file.check().map_err(|error| QueueError::Unavailable(Arc::new(error)))?;
        connect(self.file.path()).map_err(queue_error)
    }

    /// Closes the pool. Later calls return [`QueueError::Closed`].
    pub fn close(&self) {
        self.permits.close();
        self.idle().clear();
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        // No code panics while it holds this lock.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    // Of 400 services whose file was replaced under load, five died of SIGBUS.
    #[tokio::test]
    async fn no_connection_is_opened_to_another_file_of_the_same_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.db");
        let first = Connection::open(&path).unwrap();
        first.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x)").unwrap();
        let readers = Readers::new(Identity::of(&path).unwrap(), 2);
        let count = |connection: &Connection| connection.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
        assert_eq!(readers.call(count).await.unwrap(), 0);

        fs::copy(&path, folder.path().join("copy")).unwrap();
        fs::rename(folder.path().join("copy"), &path).unwrap();
        assert_eq!(readers.call(count).await.unwrap(), 0, "by the connection that it has");
        readers.idle().clear();
        let error = readers.call(count).await.unwrap_err();
        assert!(matches!(&error, QueueError::Unavailable(_)) && error.to_string().contains("removed or replaced"), "{error}");
    }
}
