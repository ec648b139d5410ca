//! Opening the file: its directory, its tables, and what can be wrong with it.

use std::{str::FromStr, sync::Arc};

use sqlx::{
    SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    Clock, Inner, Queue,
    clock::QueueClock,
    connection::{self, BUSY_TIMEOUT, Readers},
    instance::ServiceInstance,
    poll_other_processes,
    probe::Identity,
    writer::Writer,
};
use crate::{events::EventHub, metrics::QueueMetrics};

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations");

/// Where a queue is, and how it is read.
#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// `sqlite://path`. The file is created if it does not exist.
    pub url: String,
    /// Connections that read; writing has one of its own.
    pub read_connections: u32,
}

/// Why the queue file can't be used, and what helps.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("queue file {file}: {source}")]
    Url { file: String, source: sqlx::Error },
    #[error("queue file {file}: its directory can't be made or written: {source}")]
    Directory { file: String, source: std::io::Error },
    #[error("queue file {file} can't be opened: {source}. Its directory must exist and be writable for this user")]
    Open { file: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error(
        "queue file {file} is locked by another program. Services share a file gladly; end what holds it alone (a backup, a shell)"
    )]
    Locked { file: String },
    #[error(
        "queue file {file} is damaged or no SQLite database ({source}). Move it away to start with an empty queue, or put a backup in its place"
    )]
    Damaged { file: String, source: sqlx::Error },
    #[error(
        "queue file {file} was written by a newer version (migration {version} is unknown here). Start that version or a later one"
    )]
    Newer { file: String, version: i64 },
    #[error("queue file {file}: its tables can't be brought up to date: {source}")]
    Migrate { file: String, source: MigrateError },
}

impl Queue {
    /// Opens the queue, makes it where there is none, and brings its tables up to date.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(options: &QueueOptions, clock: Clock) -> Result<Self, OpenError> {
        let file = options.url.clone();
        let connect = durable(&options.url).map_err(|source| OpenError::Url { file: file.clone(), source })?;
        let path = connect.get_filename().to_owned();
        if let Some(directory) = path.parent().filter(|path| !path.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory).map_err(|source| OpenError::Directory { file: file.clone(), source })?;
        }
        let one = SqlitePoolOptions::new().max_connections(1).connect_lazy_with(connect);
        migrate(&one).await.map_err(|error| explain(file.clone(), error))?;
        one.close().await;

        let owner = ServiceInstance::register(&path).map_err(|source| OpenError::Directory { file: file.clone(), source })?;
        let (hub, metrics) = (EventHub::default(), QueueMetrics::default());
        let cannot = |source| OpenError::Open { file: file.clone(), source };
        let connection = connection::connect(&path).map_err(|error| cannot(error.into()))?;
        connection::drop_statistics(&connection);
        let clock = QueueClock::open(&connection, clock).map_err(|error| cannot(error.into()))?;
        let file = Identity::of(&path).map_err(|error| cannot(error.into()))?;
        let writer =
            Writer::start(connection, hub.clone(), clock.clone(), metrics.clone()).map_err(|error| cannot(error.into()))?;
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
                steered: Notify::new(),
                owner,
                file,
                _listening: stop.drop_guard(),
            }),
        })
    }
}

/// The file as it is opened to bring its tables up to date: durable at each commit.
fn durable(url: &str) -> Result<SqliteConnectOptions, sqlx::Error> {
    Ok(SqliteConnectOptions::from_str(url)?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // FULL: a commit is on the disk before anybody hears of it.
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
    let mut tried = 0;
    loop {
        tried += 1;
        match MIGRATIONS.run(pool).await {
            // Two services that start at once on a new file both try; the second finds the work done.
            Err(MigrateError::Execute(_) | MigrateError::ExecuteMigration(..)) if tried < 3 => {}
            done => return done,
        }
    }
}

fn explain(file: String, error: MigrateError) -> OpenError {
    let source = match error {
        MigrateError::VersionMissing(version) => return OpenError::Newer { file, version },
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => source,
        source => return OpenError::Migrate { file, source },
    };
    // SQLite's primary result codes; an extended one has the primary in its low byte.
    let code = source.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok()).map(|code| code & 0xff);
    match code {
        Some(5 | 6) => OpenError::Locked { file },
        Some(11 | 26) => OpenError::Damaged { file, source },
        Some(8 | 14) => OpenError::Open { file, source: source.into() },
        _ => OpenError::Migrate { file, source: MigrateError::Execute(source) },
    }
}
