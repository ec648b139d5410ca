//! Opening the queue file: its directory, its migrations, and the errors that can occur.

use std::{str::FromStr, sync::Arc};

use sqlx::{
    SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    clock::QueueClock,
    connection::{self, BUSY_TIMEOUT, Readers},
    instance::ServiceInstance,
    probe::Identity,
    writer::Writer,
};
use crate::{Clock, Inner, Queue, events::EventHub, metrics::QueueMetrics, poll_other_processes};

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations");

/// Where the queue file is, and how it is read.
#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// `sqlite://path`. The file is created if it does not exist.
    pub url: String,
    /// The number of read connections. Writes use one further connection.
    pub read_connections: u32,
}

/// Why the queue file cannot be used, and how to fix it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("queue file {file}: {source}")]
    Url { file: String, source: sqlx::Error },
    #[error("queue file {file}: its directory cannot be created or written: {source}")]
    Directory { file: String, source: std::io::Error },
    #[error("queue file {file} cannot be opened: {source}. Its directory must exist and be writable for this user")]
    Open { file: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error(
        "queue file {file} is locked exclusively by another program. Services can share a file; end the program that locks it (a backup, a shell)"
    )]
    Locked { file: String },
    #[error(
        "queue file {file} is damaged or not an SQLite database ({source}). Move it away to start with an empty queue, or restore a backup"
    )]
    Damaged { file: String, source: sqlx::Error },
    #[error(
        "queue file {file} was written by a newer version (migration {version} is unknown to this one). Start that version or a later one"
    )]
    Newer { file: String, version: i64 },
    #[error("queue file {file}: its tables cannot be migrated: {source}")]
    Migrate { file: String, source: MigrateError },
}

impl Queue {
    /// Opens the queue. Creates the file if it does not exist, and migrates its tables.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(options: &QueueOptions, clock: Clock) -> Result<Self, OpenError> {
        let file = options.url.clone();
        let connect = migration_options(&options.url).map_err(|source| OpenError::Url { file: file.clone(), source })?;
        let path = connect.get_filename().to_owned();
        if let Some(directory) = path.parent().filter(|path| !path.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory).map_err(|source| OpenError::Directory { file: file.clone(), source })?;
        }
        let pool = SqlitePoolOptions::new().max_connections(1).connect_lazy_with(connect);
        migrate(&pool).await.map_err(|error| open_error_of(file.clone(), error))?;
        pool.close().await;

        let instance = ServiceInstance::register(&path).map_err(|source| OpenError::Directory { file: file.clone(), source })?;
        let (hub, metrics) = (EventHub::default(), QueueMetrics::default());
        let open_error = |source| OpenError::Open { file: file.clone(), source };
        let connection = connection::connect(&path).map_err(|error| open_error(error.into()))?;
        connection::drop_statistics(&connection);
        let clock = QueueClock::open(&connection, clock).map_err(|error| open_error(error.into()))?;
        let file = Identity::of(&path).map_err(|error| open_error(error.into()))?;
        let writer =
            Writer::start(connection, hub.clone(), clock.clone(), metrics.clone()).map_err(|error| open_error(error.into()))?;
        let readers = Readers::new(path, options.read_connections);
        let stop = CancellationToken::new();
        tokio::spawn(poll_other_processes(readers.clone(), hub.clone(), stop.clone()));
        Ok(Self {
            inner: Arc::new(Inner {
                writer,
                metrics,
                readers,
                hub,
                clock,
                work: Notify::new(),
                cancel_requests: Notify::new(),
                instance,
                file,
                _polling: stop.drop_guard(),
            }),
        })
    }
}

/// The connection options for migrations.
fn migration_options(url: &str) -> Result<SqliteConnectOptions, sqlx::Error> {
    Ok(SqliteConnectOptions::from_str(url)?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // FULL: a commit is on disk before it is reported.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT))
}

async fn migrate(pool: &SqlitePool) -> Result<(), MigrateError> {
    #[cfg(feature = "failpoints")]
    pool.acquire().await?.lock_handle().await?.set_commit_hook(|| {
        crate::failpoint::hit("migration");
        true
    });
    let mut attempts = 0;
    loop {
        attempts += 1;
        match MIGRATIONS.run(pool).await {
            // If two services start on a new file at once, both migrate, and the loser finds the
            // work done at its next attempt.
            Err(MigrateError::Execute(_) | MigrateError::ExecuteMigration(..)) if attempts < 3 => {}
            result => return result,
        }
    }
}

fn open_error_of(file: String, error: MigrateError) -> OpenError {
    let source = match error {
        MigrateError::VersionMissing(version) => return OpenError::Newer { file, version },
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => source,
        source => return OpenError::Migrate { file, source },
    };
    // The low byte of an extended result code is the primary one
    // (<https://sqlite.org/rescode.html>): BUSY, LOCKED; CORRUPT, NOTADB; READONLY, CANTOPEN.
    let code = source.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok()).map(|code| code & 0xff);
    match code {
        Some(5 | 6) => OpenError::Locked { file },
        Some(11 | 26) => OpenError::Damaged { file, source },
        Some(8 | 14) => OpenError::Open { file, source: source.into() },
        _ => OpenError::Migrate { file, source: MigrateError::Execute(source) },
    }
}
