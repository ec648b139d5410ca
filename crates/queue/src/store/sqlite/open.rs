//! Opening the queue file: its directory and its migrations.

use std::{path::PathBuf, str::FromStr, time::Instant};

use sqlx::{
    ConnectOptions, SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{
    SqliteStore,
    clock::QueueClock,
    connection::{self, BUSY_TIMEOUT, Readers},
    instance::ServiceInstance,
    probe::Identity,
    sql,
    writer::Writer,
};
use crate::{OpenError, QueueOptions, store::StoreContext};

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/sqlite");

impl SqliteStore {
    /// Opens the queue file. Creates it if it does not exist, and migrates its tables.
    pub async fn open(options: &QueueOptions, context: StoreContext) -> Result<Self, OpenError> {
        let queue = shown(&options.url);
        let path = migrated_file(&options.url).await?;
        let instance = ServiceInstance::register(&path, &options.version)
            .map_err(|source| OpenError::Directory { queue: queue.clone(), source })?;
        let open_error = |source| OpenError::Open { queue: queue.clone(), source };
        let connection = connection::connect(&path).map_err(|error| open_error(error.into()))?;
        connection::drop_statistics(&connection);
        let clock = QueueClock::open(&connection, context.clock).map_err(|error| open_error(error.into()))?;
        let file = Identity::of(&path).map_err(|error| open_error(error.into()))?;
        let writer =
            Writer::start(connection, context.hub, clock.clone(), context.metrics).map_err(|error| open_error(error.into()))?;
        let readers = Readers::new(file.clone(), options.read_connections);
        Ok(Self { writer, readers, clock, instance, file })
    }
}

/// The queue, as errors name it.
pub fn shown(url: &str) -> String {
    format!("queue file {url}")
}

/// The path of the file that a URL names.
pub fn path_of(url: &str) -> Result<PathBuf, OpenError> {
    let connect = migration_options(url).map_err(|source| OpenError::Url { queue: shown(url), source: source.into() })?;
    Ok(connect.get_filename().to_owned())
}

/// Creates the file if it does not exist, migrates its tables, and returns its path.
pub async fn migrated_file(url: &str) -> Result<PathBuf, OpenError> {
    let connect = migration_options(url).map_err(|source| OpenError::Url { queue: shown(url), source: source.into() })?;
    let path = connect.get_filename().to_owned();
    if let Some(directory) = path.parent().filter(|path| !path.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory).map_err(|source| OpenError::Directory { queue: shown(url), source })?;
    }
    let pool = SqlitePoolOptions::new().max_connections(1).connect_lazy_with(connect);
    migrate(&pool, url).await.map_err(|error| open_error_of(shown(url), error))?;
    pool.close().await;
    Ok(path)
}

/// The connection options for migrations.
fn migration_options(url: &str) -> Result<SqliteConnectOptions, sqlx::Error> {
    Ok(SqliteConnectOptions::from_str(url)?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // FULL: a commit is on disk before it is reported.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        // A migration of a large file is logged as such, and not as a slow statement.
        .disable_statement_logging())
}

/// The last migration that this version knows.
pub fn newest_known() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default()
}

/// Migrates the tables. The log says so unless the file is new or up to date: a large file takes
/// a while, in which the service does not answer yet.
async fn migrate(pool: &SqlitePool, file: &str) -> Result<(), MigrateError> {
    let newest = sqlx::query_scalar::<_, Option<i64>>(sql::NEWEST_MIGRATION).fetch_one(pool).await;
    let Some(from) = newest.ok().flatten().filter(|from| *from < newest_known()) else { return run_migrations(pool).await };
    let (to, begin) = (newest_known(), Instant::now());
    tracing::info!(
        file,
        from,
        to,
        "the queue's tables are being migrated; the service is up after that. It can be stopped or killed and started again"
    );
    run_migrations(pool).await?;
    tracing::info!(file, to, took = ?begin.elapsed(), "the queue's tables are migrated");
    Ok(())
}

async fn run_migrations(pool: &SqlitePool) -> Result<(), MigrateError> {
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

fn open_error_of(queue: String, error: MigrateError) -> OpenError {
    let source = match error {
        MigrateError::VersionMissing(version) => return OpenError::Newer { queue, version },
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => source,
        source => return OpenError::Migrate { queue, source: source.into() },
    };
    // The low byte of an extended result code is the primary one
    // (<https://sqlite.org/rescode.html>): BUSY, LOCKED; CORRUPT, NOTADB; READONLY, CANTOPEN.
    let code = source.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok()).map(|code| code & 0xff);
    match code {
        Some(5 | 6) => OpenError::Locked { queue },
        Some(11 | 26) => OpenError::Damaged { queue, source: source.into() },
        Some(8 | 14) => OpenError::Open { queue, source: source.into() },
        _ => OpenError::Migrate { queue, source: MigrateError::Execute(source).into() },
    }
}
