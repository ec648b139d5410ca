//! The queue's file: connections with the pragmas that belong to each, statements on them, and the readers.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, Row, config::DbConfig, params_from_iter};
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{QueueError, sql::Statement};

/// How long a connection waits for another's lock before it reports an error.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Statements that a connection keeps prepared: all that there are.
const STATEMENT_CACHE: usize = 64;

/// What a write-ahead log keeps of its size after a checkpoint.
const JOURNAL_BYTES: u32 = 16 << 20;

/// A connection to a file that is there, durable at each commit.
pub fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    // A plan is made once, and not anew for each value of a limit or of a time: that took most of a claim.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // FULL: a commit is on the disk before anybody hears of it. WAL is the file's own, since it was made.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // The log is cut back to this after a checkpoint, or one busy hour would keep its size for ever.
    connection.pragma_update_and_check(None, "journal_size_limit", JOURNAL_BYTES, |_| Ok(()))?;
    Ok(connection)
}

/// Drops the planner's statistics, which versions up to 0.1 took when a queue was closed: those of a small queue make SQLite
/// read whole tables of a large one.
pub fn drop_statistics(connection: &Connection) {
    // Not worth refusing the start: the statements whose plans would change name their indexes.
    if let Err(error) = connection.execute_batch("DROP TABLE IF EXISTS sqlite_stat1; DROP TABLE IF EXISTS sqlite_stat4") {
        tracing::warn!(%error, "the queue's old planner statistics can't be dropped; trying again at the next start");
    }
}

/// Runs a statement that returns no rows; returns how many it has changed.
pub fn run(connection: &Connection, statement: &Statement<'_>) -> rusqlite::Result<usize> {
    connection.prepare_cached(&statement.text)?.execute(params_from_iter(&statement.values))
}

/// Runs a statement, and reads all rows that it returns.
pub fn rows<T>(
    connection: &Connection,
    statement: &Statement<'_>,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    connection.prepare_cached(&statement.text)?.query_map(params_from_iter(&statement.values), read)?.collect()
}

/// Connections for reading beside the writer, each opened when it is first needed. Clones share them.
#[derive(Clone)]
pub struct Readers {
    path: Arc<PathBuf>,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub fn new(path: PathBuf, connections: u32) -> Self {
        let permits = Arc::new(Semaphore::new(connections as usize));
        Self { path: Arc::new(path), idle: Arc::default(), permits }
    }

    /// Reads all rows of a statement, in a thread where waiting for the disk disturbs nobody.
    pub async fn rows<T: Send + 'static>(
        &self,
        statement: Statement<'static>,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<Vec<T>, QueueError> {
        let place = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| QueueError::Closed)?;
        let readers = self.clone();
        let reading = spawn_blocking(move || {
            let _place = place;
            let idle = readers.idle().pop();
            let connection = idle.map_or_else(|| connect(&readers.path), Ok)?;
            let read = rows(&connection, &statement, read)?;
            // One that has failed is not used again.
            readers.idle().push(connection);
            Ok(read)
        });
        // An error is a runtime that ends, or a panic that it has already reported.
        reading.await.map_err(|_| QueueError::Closed)?.map_err(QueueError::of)
    }

    /// Closes the connections; what is asked later is refused.
    pub fn close(&self) {
        self.permits.close();
        self.idle().clear();
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        // Nothing panics while it is locked.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
