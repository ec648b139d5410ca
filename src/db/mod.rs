//! Connections to SQLite, with the pragmas that belong to each. Knows no table.

use std::{str::FromStr, time::Duration};

use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};

/// How long a connection waits for another's lock before it says so.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

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
