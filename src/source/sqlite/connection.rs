//! The connections to a source's file, and their pragmas.

use std::{str::FromStr, time::Duration};

use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};

/// How long a connection waits for a lock before SQLite reports `SQLITE_BUSY`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Options for a database of another application: it is never created or written.
///
/// # Errors
/// `url` is not an SQLite URL.
pub fn read_only_options(url: &str) -> Result<SqliteConnectOptions, sqlx::Error> {
    Ok(SqliteConnectOptions::from_str(url)?.create_if_missing(false).read_only(true).busy_timeout(BUSY_TIMEOUT))
}

/// A pool of at most `connections` connections, opened on first use.
pub fn pool(options: SqliteConnectOptions, connections: u32) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(30))
        // A test query on a file finds nothing that the next statement would not find.
        .test_before_acquire(false)
        .connect_lazy_with(options)
}
