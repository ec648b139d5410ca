//! The connections to the server.

use std::{
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use sqlx::{
    ConnectOptions, FromRow, PgConnection, Postgres,
    postgres::{PgArguments, PgConnectOptions, PgRow},
    query::{Query, QueryScalar},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{Failure, answered};
use crate::QueueError;

/// A queue of this process is behind a pooler. Others then do without prepared statements too, which
/// costs them some time only.
static IS_BEHIND_POOLER: AtomicBool = AtomicBool::new(false);

/// From now on no statement is prepared: a pooler may run each transaction in another session.
pub fn prepare_nothing() {
    IS_BEHIND_POOLER.store(true, Ordering::Relaxed);
}

pub fn is_prepared() -> bool {
    !IS_BEHIND_POOLER.load(Ordering::Relaxed)
}

/// A statement that is prepared once a connection, unless there is a pooler.
pub fn query(sql: &'static str) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(sql).persistent(is_prepared())
}

/// As [`query`], for a statement of one column.
pub fn query_scalar<T>(sql: &'static str) -> QueryScalar<'static, Postgres, T, PgArguments>
where
    (T,): for<'r> FromRow<'r, PgRow>,
{
    sqlx::query_scalar(sql).persistent(is_prepared())
}

/// Connections that are opened on first use. Clones share them. sqlx's own pool hides why a
/// connection cannot be opened.
#[derive(Debug, Clone)]
pub struct Connections {
    options: Arc<PgConnectOptions>,
    permits: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<PgConnection>>>,
}

/// A connection in use. It is closed on drop, and with it an open transaction, unless it is
/// [returned](Self::give_back).
pub struct Lent {
    connection: PgConnection,
    idle: Arc<Mutex<Vec<PgConnection>>>,
    _permit: OwnedSemaphorePermit,
}

impl Connections {
    pub fn new(options: PgConnectOptions, most: usize) -> Self {
        Self { options: Arc::new(options), permits: Arc::new(Semaphore::new(most)), idle: Arc::default() }
    }

    pub async fn acquire(&self) -> Result<Lent, Failure> {
        let closed = |_| Failure { error: QueueError::Closed, remedy: super::error::Remedy::Wait };
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(closed)?;
        let idle = lock(&self.idle).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => answered(self.options.connect()).await?,
        };
        Ok(Lent { connection, idle: Arc::clone(&self.idle), _permit: permit })
    }

    /// Closes the idle connections. Later calls fail with [`QueueError::Closed`].
    pub fn close(&self) {
        self.permits.close();
        lock(&self.idle).clear();
    }
}

impl Lent {
    /// Keeps the connection for others. It has no open transaction, and its last statement was
    /// answered.
    pub fn give_back(self) {
        lock(&self.idle).push(self.connection);
    }
}

impl Deref for Lent {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

fn lock(idle: &Mutex<Vec<PgConnection>>) -> MutexGuard<'_, Vec<PgConnection>> {
    // No code panics while it holds this lock.
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}
