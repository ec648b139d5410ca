//! A queue file as the source or the target of a copy.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode};
use tokio::task::spawn_blocking;

use super::{clock::QueueClock, connection, error::queue_error, instance, open, sql};
use crate::{
    Clock, CopyError, OpenError, QueueError, QueueOptions,
    store::copy::{Answer, CopyEnd, Place, Record, Role, Table},
};

/// A queue file in a transaction that keeps others from writing.
pub(crate) struct SqliteEnd {
    name: String,
    connection: Arc<Mutex<Connection>>,
    /// When the copy began, by the steady clock.
    now_ms: i64,
}

impl SqliteEnd {
    /// Opens the file while no service runs on it. A target is created if it does not exist.
    pub async fn open(options: &QueueOptions, clock: Clock, role: Role) -> Result<Self, CopyError> {
        let name = open::shown(&options.url);
        let path = open::path_of(&options.url)?;
        if role == Role::Source && !is_queue(&path) {
            return Err(CopyError::NoQueue { queue: name });
        }
        // Not to be migrated under a service of an older version.
        refuse_services(&name, &path)?;
        let path = open::migrated_file(&options.url).await?;
        let failed = |error| open_error(&name, error);
        let connection = connection::connect(&path).map_err(failed)?;
        let clock = QueueClock::open(&connection, clock).map_err(failed)?;
        // A service that starts later waits for this lock, and gives up after a few seconds.
        connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
        refuse_services(&name, &path)?;
        Ok(Self { name, connection: Arc::new(Mutex::new(connection)), now_ms: clock.steady_ms() })
    }

    /// Uses the connection on a blocking thread.
    fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Answer<'static, T> {
        let connection = Arc::clone(&self.connection);
        let task = spawn_blocking(move || {
            // A panic was reported already, and its copy is not committed.
            work(&connection.lock().unwrap_or_else(PoisonError::into_inner)).map_err(queue_error)
        });
        // A join error means that the runtime is stopping.
        Box::pin(async move { task.await.map_err(|_| QueueError::Closed)? })
    }
}

impl CopyEnd for SqliteEnd {
    fn name(&self) -> &str {
        &self.name
    }

    fn stores_nul(&self) -> bool {
        true
    }

    fn count(&mut self, table: Table) -> Answer<'_, u64> {
        self.call(move |connection| {
            let count = connection::rows(connection, &sql::count_rows(table), |row| row.get(0))?;
            count.first().copied().ok_or(rusqlite::Error::QueryReturnedNoRows)
        })
    }

    fn read(&mut self, table: Table, after: Place, limit: u32) -> Answer<'_, Vec<Record>> {
        let now_ms = self.now_ms;
        self.call(move |connection| {
            connection::rows(connection, &sql::rows_after(table, &after, limit), |row| sql::read_record(table, row, now_ms))
        })
    }

    fn write(&mut self, rows: Vec<Record>) -> Answer<'_, ()> {
        let now_ms = self.now_ms;
        self.call(move |connection| {
            rows.iter().try_for_each(|row| connection::run(connection, &sql::insert_record(row, now_ms)).map(drop))
        })
    }

    fn commit(self: Box<Self>) -> Answer<'static, ()> {
        self.call(|connection| connection.execute_batch("COMMIT"))
    }
}

/// Whether the file exists and may have a queue. What else is wrong with it is told when it is
/// opened.
fn is_queue(path: &Path) -> bool {
    let newest = |connection: Connection| connection.query_row(sql::NEWEST_MIGRATION, [], |row| row.get::<_, Option<i64>>(0));
    match connection::connect(path).and_then(newest) {
        Ok(newest) => newest.is_some(),
        Err(rusqlite::Error::SqliteFailure(failure, _)) => !matches!(failure.code, ErrorCode::Unknown | ErrorCode::CannotOpen),
        Err(_) => true,
    }
}

fn refuse_services(name: &str, path: &Path) -> Result<(), CopyError> {
    match instance::count_living(path) {
        Ok(0) => Ok(()),
        Ok(services) => Err(CopyError::InUse { queue: name.to_owned(), services, silent_for: Duration::ZERO }),
        // The folder of a new file does not exist yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(OpenError::Directory { queue: name.to_owned(), source }.into()),
    }
}

fn open_error(name: &str, error: rusqlite::Error) -> CopyError {
    let queue = name.to_owned();
    CopyError::Open(match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::Locked { queue },
        _ => OpenError::Open { queue, source: error.into() },
    })
}
