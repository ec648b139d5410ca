//! Connections to PostgreSQL, straight or through a pooler.
//!
//! sqlx's own pool hides why a connection could not be made, and keeps waiting for a new one while an old one has become
//! free; a pooler in session mode may give us fewer connections than we ask for, and then that never ends.

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

/// A connection that was idle for longer may have died unnoticed, and is asked.
const IDLE_CHECK_AFTER: Duration = Duration::from_millis(500);
/// One that was idle for so long is closed: a pooler may have better use for it.
const UNUSED_TIMEOUT: Duration = Duration::from_mins(1);

/// Connections to one server; clones share them.
#[derive(Clone)]
pub(super) struct Pool(Arc<Inner>);

struct Inner {
    options: PgConnectOptions,
    /// The server takes no options at the start of a session: it is a pooler, whose sessions are not ours alone.
    is_pooler: AtomicBool,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    /// One has become idle.
    returned: Notify,
    /// Idle ones are being looked after.
    swept: AtomicBool,
    timeout: Duration,
}

struct Idle {
    connection: PgConnection,
    since: Instant,
}

/// A connection that is used by one. Dropped, it is closed, unless it is [given back](Self::give_back).
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
            .map_err(|error: sqlx::Error| SourceError::Rejected(format!("iota.url {} can't be read: {error}", config.url)))?;
        let options = options
            .application_name("data-patch")
            // A pooler would refuse it, and no number is read as text.
            .extra_float_digits(None)
            // Nothing is ever prepared: a pooler may give each statement another session.
            .statement_cache_capacity(0)
            .disable_statement_logging();
        Ok(Self(Arc::new(Inner {
            options,
            is_pooler: AtomicBool::new(false),
            permits: Arc::new(Semaphore::new(config.connections as usize)),
            idle: Mutex::default(),
            returned: Notify::new(),
            swept: AtomicBool::new(false),
            timeout: Duration::from_secs(config.timeout_seconds),
        })))
    }

    /// A connection: an idle one, or a new one, whichever is there first.
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

    /// A connection beside those that are counted.
    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let Inner { options, is_pooler, .. } = &*self.0;
        let mut connection = if is_pooler.load(Ordering::Relaxed) {
            options.connect().await?
        } else {
            // A session that can't write, even by mistake.
            match options.clone().options([("default_transaction_read_only", "on")]).connect().await {
                Err(error) if refuses_options(&error) => {
                    let connection = options.connect().await?;
                    is_pooler.store(true, Ordering::Relaxed);
                    tracing::info!("the IoTA store is behind a pooler; sessions are left as they are");
                    connection
                }
                connected => connected?,
            }
        };
        // A pooler lets everybody in, and has a server for them when it is free.
        connection.execute("SELECT 1").await?;
        Ok(connection)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        // Nothing panics while it is locked.
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes what nobody has used for long.
    async fn sweep(pool: std::sync::Weak<Inner>) {
        loop {
            tokio::time::sleep(UNUSED_TIMEOUT / 2).await;
            let Some(inner) = pool.upgrade() else { return };
            let pool = Self(inner);
            let unused: Vec<Idle> = {
                let mut idle = pool.idle();
                let unused = idle.extract_if(.., |idle| idle.since.elapsed() > UNUSED_TIMEOUT).collect();
                if idle.is_empty() {
                    pool.0.swept.store(false, Ordering::Relaxed);
                }
                unused
            };
            for idle in unused {
                // It is as good as closed whatever is answered.
                let _ = sqlx::Connection::close(idle.connection).await;
            }
            if !pool.0.swept.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

impl Connection {
    /// What it was used for has ended well: others may use it.
    pub fn give_back(self) {
        let Self { session: connection, pool, _permit } = self;
        let mut idle = pool.idle();
        idle.push(Idle { connection, since: Instant::now() });
        if !pool.0.swept.swap(true, Ordering::Relaxed) {
            tokio::spawn(Pool::sweep(Arc::downgrade(&pool.0)));
        }
        drop(idle);
        pool.0.returned.notify_one();
    }

    /// Runs statements in the simple protocol.
    pub async fn fetch(&mut self, sql: String) -> Result<Vec<sqlx::postgres::PgRow>, sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut self.session).await
    }

    pub fn inner(&mut self) -> &mut PgConnection {
        &mut self.session
    }
}

/// PgBouncer: "unsupported startup parameter".
fn refuses_options(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.message().contains("startup parameter"))
}
