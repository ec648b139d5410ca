//! Connections to SQLite, with the pragmas that belong to each. Knows no table.

use std::{str::FromStr, time::Duration};

use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

/// How long a connection waits for another's lock before it says so.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The queue's file as it is opened to bring its tables up to date: made when it is not there, durable at each commit.
///
/// # Errors
/// `url` is no SQLite URL.
pub fn queue_options(url: &str) -> Result<SqliteConnectOptions, sqlx::Error> {
    Ok(SqliteConnectOptions::from_str(url)?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // FULL: a commit is on the disk before anybody hears of it.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT))
}

/// A database of somebody else's: never made, never written.
///
/// # Errors
/// `url` is no SQLite URL.
pub fn read_only_options(url: &str) -> Result<SqliteConnectOptions, sqlx::Error> {
    Ok(SqliteConnectOptions::from_str(url)?.create_if_missing(false).read_only(true).busy_timeout(BUSY_TIMEOUT))
}

/// A pool that connects when it is first needed.
pub fn pool(options: SqliteConnectOptions, connections: u32) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(30))
        // A file can be asked for nothing that it would not tell in the next statement anyway.
        .test_before_acquire(false)
        .connect_lazy_with(options)
}
