//! The connections to the server.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, Postgres, Transaction, postgres::PgConnectOptions};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{self, Failure, Remedy};
use crate::{QueueError, policy::millis};

/// Works with a connection of `$connections`, which is a `&mut PgConnection` in `$work`, a future.
macro_rules! lend {
    ($connections:expr, $connection:ident => $work:expr) => {{
        let connections = &$connections;
        let work = async {
            let mut lent = connections.acquire().await?;
            let $connection: &mut sqlx::PgConnection = &mut lent;
            let result = connections.answered($work).await?;
            lent.give_back();
            Ok::<_, $crate::store::postgres::error::Failure>(result)
        };
        work.await
    }};
}

/// Commits what `$work`, a block, does in a transaction, and returns its value.
macro_rules! transact {
    ($shared:expr, $transaction:ident => $work:block) => {
        $crate::store::postgres::connections::lend!($shared.connections, connection => async {
            let mut $transaction = $shared.connections.begin(connection).await?;
            let value = $work;
            $shared.commit($transaction).await?;
            Ok(value)
        })
    };
}

pub(super) use {lend, transact};

/// Connections that are opened on first use. Clones share them. sqlx's own pool hides why a
/// connection cannot be opened.
#[derive(Debug, Clone)]
pub struct Connections {
    options: Arc<PgConnectOptions>,
    begin: Arc<str>,
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
    /// At most so many. The server ends a transaction whose client asks nothing for
    /// `max_idle_in_transaction`: its process is frozen, or cut off, and the others wait for the locks.
    pub fn new(options: PgConnectOptions, most: usize, max_idle_in_transaction: Duration) -> Self {
        // With each transaction: a pooler passes no options of sessions.
        let idle_ms = millis(max_idle_in_transaction);
        let begin = format!("BEGIN; SET LOCAL idle_in_transaction_session_timeout = {idle_ms}").into();
        Self { options: Arc::new(options), begin, permits: Arc::new(Semaphore::new(most)), idle: Arc::default() }
    }

    pub async fn acquire(&self) -> Result<Lent, Failure> {
        let closed = |_| Failure { error: QueueError::Closed, remedy: Remedy::Wait };
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(closed)?;
        let idle = lock(&self.idle).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.answered(self.options.connect()).await?,
        };
        Ok(Lent { connection, idle: Arc::clone(&self.idle), _permit: permit })
    }

    /// Begins a transaction.
    pub async fn begin<'c>(&self, connection: &'c mut PgConnection) -> sqlx::Result<Transaction<'c, Postgres>> {
        connection.begin_with(AssertSqlSafe(Arc::clone(&self.begin))).await
    }

    /// Waits for an answer of the server, but not for ever. If there is none, the idle connections are
    /// closed: what broke one has broken them all, and each would fail an operation, or let it wait.
    pub async fn answered<T>(&self, work: impl Future<Output = sqlx::Result<T>> + Send) -> Result<T, Failure> {
        self.answered_within(error::ANSWER_TIMEOUT, work).await
    }

    /// As [`answered`](Self::answered), with another limit of time.
    pub async fn answered_within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = sqlx::Result<T>> + Send,
    ) -> Result<T, Failure> {
        let answer = error::answered_within(limit, work).await;
        if answer.as_ref().is_err_and(|failure| failure.remedy == Remedy::Wait) {
            lock(&self.idle).clear();
        }
        answer
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
