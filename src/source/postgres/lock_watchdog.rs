//! Cancels long statements that block other sessions. The database has writers, and an ALTER TABLE
//! that waits for one of our statements blocks all of them.
//!
//! Each statement begins with a comment that identifies it in `pg_stat_activity`, also through a
//! pooler. While statements run for longer than a second, they are checked once a second, on a
//! separate connection.

use std::{
    collections::HashMap,
    fmt::Write,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::pool::Pool;
use crate::source::SourceError;

/// Statements that have run for this long are checked, at this interval.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Without a long statement for this time, the watchdog closes its connection.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Minimum interval between warnings that checks fail.
const WARNING_INTERVAL: Duration = Duration::from_mins(1);
/// Timeout of one check, which reads system views and takes no locks.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Tracks running statements; clones share their state.
#[derive(Clone)]
pub(super) struct LockWatchdog(Arc<Inner>);

struct Inner {
    pool: Pool,
    /// Distinguishes our statements from those of other services on the same database.
    instance: String,
    next: AtomicU64,
    max_blocking: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    statements: HashMap<u64, Statement>,
    is_running: bool,
}

struct Statement {
    since: Instant,
    /// When it was first seen to block another session.
    blocking_since: Option<Instant>,
    is_cancelled: bool,
    /// Its client has dropped it.
    is_abandoned: bool,
}

/// A running statement. If it is dropped before it has [finished](Self::finish), it is cancelled on
/// the server too.
pub(super) struct WatchedStatement {
    watchdog: LockWatchdog,
    number: u64,
    is_finished: bool,
}

impl LockWatchdog {
    pub fn new(pool: Pool, max_blocking_seconds: u64) -> Self {
        let instance = format!("{:08x}", fastrand::u32(..));
        let max_blocking = Duration::from_secs(max_blocking_seconds);
        Self(Arc::new(Inner { pool, instance, next: AtomicU64::new(1), max_blocking, state: Mutex::default() }))
    }

    /// Registers a statement that is about to start.
    pub fn start(&self) -> WatchedStatement {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let statement = Statement { since: Instant::now(), blocking_since: None, is_cancelled: false, is_abandoned: false };
        let mut state = self.state();
        state.statements.insert(number, statement);
        if !std::mem::replace(&mut state.is_running, true) {
            tokio::spawn(Self::run(Arc::downgrade(&self.0)));
        }
        WatchedStatement { watchdog: self.clone(), number, is_finished: false }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while the lock is held.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(inner: Weak<Inner>) {
        let mut connection = None;
        let mut last_long_statement = Instant::now();
        let mut last_warning: Option<Instant> = None;
        loop {
            let Some(watchdog) = inner.upgrade().map(Self) else { return };
            let interval = CHECK_INTERVAL.min(watchdog.0.max_blocking / 4);
            let is_long = {
                let mut state = watchdog.state();
                if state.statements.is_empty() && last_long_statement.elapsed() > IDLE_CHECK_INTERVAL {
                    state.is_running = false;
                    return;
                }
                state.statements.values().any(|statement| statement.since.elapsed() >= interval)
            };
            if is_long {
                last_long_statement = Instant::now();
                if let Err(error) = watchdog.check(&mut connection).await {
                    connection = None;
                    if last_warning.is_none_or(|last_warning| last_warning.elapsed() > WARNING_INTERVAL) {
                        last_warning = Some(Instant::now());
                        tracing::warn!(%error, "long statements on the IoTA source cannot be checked for blocked sessions");
                    }
                }
            } else if last_long_statement.elapsed() > IDLE_CHECK_INTERVAL {
                connection = None;
            }
            drop(watchdog);
            tokio::time::sleep(interval).await;
        }
    }

    /// Finds statements that block other sessions, and cancels those that must yield and those that
    /// are abandoned.
    async fn check(&self, connection: &mut Option<PgConnection>) -> Result<(), SourceError> {
        let timed_out = |_| SourceError::timeout("checking for locks", QUERY_TIMEOUT.as_secs());
        if connection.is_none() {
            *connection = Some(tokio::time::timeout(QUERY_TIMEOUT, self.0.pool.connect()).await.map_err(timed_out)??);
        }
        let Some(connection) = connection else { return Ok(()) };
        let mut query = async |sql: String| {
            let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut *connection);
            Ok::<_, SourceError>(tokio::time::timeout(QUERY_TIMEOUT, rows).await.map_err(timed_out)??)
        };
        let rows = query(format!(
            "WITH ours AS (SELECT pid, split_part(query, ' ', 3) AS name FROM pg_catalog.pg_stat_activity
                           WHERE state = 'active' AND query LIKE '/* data-patch {}-%')
             SELECT pid, name, pid IN (SELECT unnest(pg_catalog.pg_blocking_pids(pid)) FROM pg_catalog.pg_locks WHERE NOT granted)
                    AS blocks FROM ours",
            self.0.instance
        ))
        .await?;
        let mut cancel_sql = String::new();
        for row in &rows {
            let name: &str = row.try_get("name")?;
            let number = name.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0);
            if self.must_cancel(number, row.try_get("blocks")?) {
                let pid: i32 = row.try_get("pid")?;
                // Only if it is still the same statement: the session may run another client's by
                // now.
                let _ = write!(
                    cancel_sql,
                    "SELECT pg_catalog.pg_cancel_backend(pid) FROM pg_catalog.pg_stat_activity
                     WHERE pid = {pid} AND state = 'active' AND query LIKE '/* data-patch {name} */%';"
                );
            }
        }
        if !cancel_sql.is_empty() {
            query(cancel_sql).await?;
        }
        // Forgets abandoned statements that have ended.
        let running: Vec<u64> =
            rows.iter().filter_map(|row| row.try_get::<&str, _>("name").ok()?.rsplit('-').next()?.parse().ok()).collect();
        self.state().statements.retain(|number, statement| !statement.is_abandoned || running.contains(number));
        Ok(())
    }

    fn must_cancel(&self, number: u64, is_blocking: bool) -> bool {
        let mut state = self.state();
        let Some(statement) = state.statements.get_mut(&number) else { return false };
        if statement.is_abandoned {
            return true;
        }
        statement.blocking_since = if is_blocking { Some(statement.blocking_since.unwrap_or_else(Instant::now)) } else { None };
        // The session may have been blocked since the previous check, and cancelling takes until
        // the next one.
        let grace = self.0.max_blocking.saturating_sub(CHECK_INTERVAL * 3);
        let must_cancel = statement.blocking_since.is_some_and(|since| since.elapsed() >= grace);
        statement.is_cancelled |= must_cancel;
        must_cancel
    }
}

impl WatchedStatement {
    /// The comment that the statement begins with.
    pub fn name(&self) -> String {
        format!("/* data-patch {}-{} */ ", self.watchdog.0.instance, self.number)
    }

    /// The statement has ended.
    pub fn finish(mut self) {
        self.is_finished = true;
    }

    /// The statement has failed; returns the reason.
    pub fn failed(mut self, error: sqlx::Error) -> SourceError {
        // An error from the server means that the statement has ended.
        self.is_finished = matches!(error, sqlx::Error::Database(_));
        let is_cancelled = self.watchdog.state().statements.get(&self.number).is_some_and(|statement| statement.is_cancelled);
        if is_cancelled && error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("57014")) {
            return SourceError::Yielded;
        }
        error.into()
    }
}

impl Drop for WatchedStatement {
    fn drop(&mut self) {
        let mut state = self.watchdog.state();
        match state.statements.get_mut(&self.number) {
            // It runs on until it writes to its closed connection, which can take long.
            Some(statement) if !self.is_finished && statement.since.elapsed() >= CHECK_INTERVAL => statement.is_abandoned = true,
            _ => drop(state.statements.remove(&self.number)),
        }
    }
}
