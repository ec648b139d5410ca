//! A pool of connections to PostgreSQL, directly or through a pooler.
//!
//! sqlx's own pool hides why a connection failed, and keeps waiting for a new connection while an
//! existing one has become idle. A pooler in session mode may grant fewer connections than
//! configured, and then that wait never ends.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, ConnectOptions, Executor, PgConnection, postgres::PgConnectOptions};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::{config::Iota, source::SourceError};

/// A connection that was idle for longer is checked before use, as it may be broken.
const IDLE_CHECK_AFTER: Duration = Duration::from_millis(500);
/// A connection that was idle for this long is closed, to free it in a pooler.
const UNUSED_TIMEOUT: Duration = Duration::from_mins(1);

/// The connections to one server; clones share them.
#[derive(Clone)]
pub(super) struct Pool(Arc<Inner>);

struct Inner {
    options: PgConnectOptions,
    /// The server rejects startup options, so it is a pooler, which shares its sessions.
    is_pooler: AtomicBool,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    /// Notified when a connection becomes idle.
    returned: Notify,
    /// A task closes unused connections.
    is_sweeping: AtomicBool,
    timeout: Duration,
}

struct Idle {
    connection: PgConnection,
    since: Instant,
}

/// A connection in use. It is closed on drop, unless it is [returned](Self::return_to_pool).
pub(super) struct Connection {
    session: PgConnection,
    pool: Pool,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    pub fn new(config: &Iota) -> Result<Self, SourceError> {
        let options: PgConnectOptions = config
            .url
            .reveal()
            .parse()
            .map_err(|error: sqlx::Error| SourceError::Rejected(format!("iota.url {} is invalid: {error}", config.url)))?;
        let options = options
            .application_name("data-patch")
            // A pooler would reject the option, and no number is read as text.
            .extra_float_digits(None)
            // Nothing is prepared: a pooler may run each statement in another session.
            .statement_cache_capacity(0)
            .disable_statement_logging();
        Ok(Self(Arc::new(Inner {
            options,
            is_pooler: AtomicBool::new(false),
            permits: Arc::new(Semaphore::new(config.connections as usize)),
            idle: Mutex::default(),
            returned: Notify::new(),
            is_sweeping: AtomicBool::new(false),
            timeout: Duration::from_secs(config.timeout_seconds),
        })))
    }

    /// Returns an idle or a new connection, whichever is available first.
    pub async fn acquire(&self) -> Result<Connection, SourceError> {
        let seconds = self.0.timeout.as_secs();
        let permit = tokio::time::timeout(self.0.timeout, Arc::clone(&self.0.permits).acquire_owned())
            .await
            .map_err(|_| SourceError::Unavailable(format!("all iota.connections were in use for {seconds} s")))?
            .map_err(|_| SourceError::Unavailable("the connections are closed".to_owned()))?;
        let connection = tokio::time::timeout(self.0.timeout, self.idle_or_new())
            .await
            .map_err(|_| SourceError::timeout("connecting", seconds))??;
        Ok(Connection { session: connection, pool: self.clone(), _permit: permit })
    }

    async fn idle_or_new(&self) -> Result<PgConnection, sqlx::Error> {
        loop {
            let idle = self.idle().pop();
            if let Some(Idle { mut connection, since }) = idle {
                if since.elapsed() < IDLE_CHECK_AFTER || connection.execute("SELECT 1").await.is_ok() {
                    return Ok(connection);
                }
                continue;
            }
            tokio::select! {
                connected = self.connect() => return connected,
                () = self.0.returned.notified() => {}
            }
        }
    }

    /// Opens a connection outside the limit.
    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let Inner { options, is_pooler, .. } = &*self.0;
        let mut connection = if is_pooler.load(Ordering::Relaxed) {
            options.connect().await?
        } else {
            // A read-only session, as a safeguard.
            match options.clone().options([("default_transaction_read_only", "on")]).connect().await {
                Err(error) if rejects_startup_options(&error) => {
                    let connection = options.connect().await?;
                    is_pooler.store(true, Ordering::Relaxed);
                    tracing::info!("the IoTA source is behind a pooler; session options are not set");
                    connection
                }
                connected => connected?,
            }
        };
        // A pooler accepts clients before it has a server connection for them.
        connection.execute("SELECT 1").await?;
        Ok(connection)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        // No code panics while the lock is held.
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes unused connections.
    async fn sweep(pool: std::sync::Weak<Inner>) {
        loop {
            tokio::time::sleep(UNUSED_TIMEOUT / 2).await;
            let Some(inner) = pool.upgrade() else { return };
            let pool = Self(inner);
            let unused: Vec<Idle> = {
                let mut idle = pool.idle();
                let unused = idle.extract_if(.., |idle| idle.since.elapsed() > UNUSED_TIMEOUT).collect();
                if idle.is_empty() {
                    pool.0.is_sweeping.store(false, Ordering::Relaxed);
                }
                unused
            };
            for idle in unused {
                // The result does not matter: the connection is dropped.
                let _ = sqlx::Connection::close(idle.connection).await;
            }
            if !pool.0.is_sweeping.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

impl Connection {
    /// Returns the connection to the pool, after its statements have ended.
    pub fn return_to_pool(self) {
        let Self { session: connection, pool, _permit } = self;
        let mut idle = pool.idle();
        idle.push(Idle { connection, since: Instant::now() });
        if !pool.0.is_sweeping.swap(true, Ordering::Relaxed) {
            tokio::spawn(Pool::sweep(Arc::downgrade(&pool.0)));
        }
        drop(idle);
        pool.0.returned.notify_one();
    }

    /// Runs statements in the simple query protocol.
    pub async fn fetch(&mut self, sql: String) -> Result<Vec<sqlx::postgres::PgRow>, sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut self.session).await
    }

    pub fn inner(&mut self) -> &mut PgConnection {
        &mut self.session
    }
}

/// PgBouncer: "unsupported startup parameter".
fn rejects_startup_options(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.message().contains("startup parameter"))
}
