//! The queue's file: connections with the pragmas that belong to each, statements on them, and the readers.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rusqlite::{Connection, OpenFlags, Row, config::DbConfig};
use sea_query::SqliteQueryBuilder;
use sea_query_rusqlite::RusqliteBinder;
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::QueueError;
use crate::db;

/// Statements that a connection keeps prepared: an insertion of lines or jobs is another for each number of them.
const PREPARED: usize = 128;

/// A connection to a file that is there, durable at each commit.
pub fn connect(path: &std::path::Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.set_prepared_statement_cache_capacity(PREPARED);
    // A plan is made once, and not anew for each value of a limit or of a time: that took most of a claim.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.busy_timeout(db::BUSY)?;
    // FULL: a commit is on the disk before anybody hears of it. WAL is the file's own, since it was made.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // The log is cut back to this after a checkpoint, or one busy hour would keep its size for ever.
    connection.pragma_update_and_check(None, "journal_size_limit", db::JOURNAL_BYTES, |_| Ok(()))?;
    Ok(connection)
}

/// Runs a statement that returns no rows; returns how many it has changed.
pub fn run(connection: &Connection, statement: &impl RusqliteBinder) -> rusqlite::Result<usize> {
    let (sql, values) = statement.build_rusqlite(SqliteQueryBuilder);
    connection.prepare_cached(&sql)?.execute(&*values.as_params())
}

/// Runs a statement, and reads all rows that it returns.
pub fn rows<T>(
    connection: &Connection,
    statement: &impl RusqliteBinder,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    let (sql, values) = statement.build_rusqlite(SqliteQueryBuilder);
    connection.prepare_cached(&sql)?.query_map(&*values.as_params(), read)?.collect()
}

/// Connections for reading beside the writer, each opened when it is first needed. Clones share them.
#[derive(Clone)]
pub struct Readers {
    path: Arc<PathBuf>,
    idle: Arc<Mutex<Vec<Connection>>>,
    places: Arc<Semaphore>,
}

impl Readers {
    pub fn new(path: PathBuf, connections: u32) -> Self {
        let places = Arc::new(Semaphore::new(connections as usize));
        Self { path: Arc::new(path), idle: Arc::default(), places }
    }

    /// Reads in a thread where waiting for the disk disturbs nobody.
    pub async fn read<T, W>(&self, work: W) -> Result<T, QueueError>
    where
        W: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| QueueError::Closed)?;
        let readers = self.clone();
        let reading = spawn_blocking(move || {
            let _place = place;
            let idle = readers.idle().pop();
            let connection = idle.map_or_else(|| connect(&readers.path), Ok)?;
            let read = work(&connection)?;
            // One that has failed is not used again.
            readers.idle().push(connection);
            Ok(read)
        });
        // An error is a runtime that ends, or a panic that it has already reported.
        reading.await.map_err(|_| QueueError::Closed)?.map_err(QueueError::away)
    }

    /// Reads all rows of a statement.
    pub async fn rows<T, S>(
        &self,
        statement: S,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<Vec<T>, QueueError>
    where
        S: RusqliteBinder + Send + 'static,
        T: Send + 'static,
    {
        self.read(move |connection| rows(connection, &statement, read)).await
    }

    /// Closes the connections; what is asked later is refused.
    pub fn close(&self) {
        self.places.close();
        self.idle().clear();
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        // Nothing panics while it is locked.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
