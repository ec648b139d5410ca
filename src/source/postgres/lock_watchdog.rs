//! Statements that take long give way when somebody waits for a lock because of them: the store has writers, and an
//! ALTER TABLE that waits for one statement of ours holds up all of them.
//!
//! Each statement begins with a comment that names it, so that it is found in `pg_stat_activity`, through a pooler too. A
//! statement that has run for longer than a moment is looked for once a second, on a connection of its own.

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

/// A statement that has run for so long is watched, and looked at this often.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The watch leaves its connection after so long without a statement to look at.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// That it can't look is said this often.
const WARNING_INTERVAL: Duration = Duration::from_mins(1);
/// For one look: the store's own views, and no lock.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Watches statements; clones share them.
#[derive(Clone)]
pub(super) struct LockWatchdog(Arc<Inner>);

struct Inner {
    pool: Pool,
    /// Tells our statements from those of other services on the same store.
    instance: String,
    next: AtomicU64,
    most: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    statements: HashMap<u64, Statement>,
    is_watching: bool,
}

struct Statement {
    since: Instant,
    /// When somebody was first seen to wait.
    blocks: Option<Instant>,
    gave_way: bool,
    /// Nobody waits for its answer any more.
    is_left: bool,
}

/// A statement that runs. Dropped before it is [over](Self::finish), it is ended in the store too.
pub(super) struct WatchedStatement {
    watch: LockWatchdog,
    number: u64,
    is_over: bool,
}

impl LockWatchdog {
    pub fn new(pool: Pool, max_blocking_seconds: u64) -> Self {
        let instance = format!("{:08x}", fastrand::u32(..));
        let most = Duration::from_secs(max_blocking_seconds);
        Self(Arc::new(Inner { pool, instance, next: AtomicU64::new(1), most, state: Mutex::default() }))
    }

    /// A statement begins.
    pub fn begin(&self) -> WatchedStatement {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let statement = Statement { since: Instant::now(), blocks: None, gave_way: false, is_left: false };
        let mut state = self.state();
        state.statements.insert(number, statement);
        if !std::mem::replace(&mut state.is_watching, true) {
            tokio::spawn(Self::run(Arc::downgrade(&self.0)));
        }
        WatchedStatement { watch: self.clone(), number, is_over: false }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is locked.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(inner: Weak<Inner>) {
        let mut connection = None;
        let mut seen = Instant::now();
        let mut told: Option<Instant> = None;
        loop {
            let Some(watch) = inner.upgrade().map(Self) else { return };
            let every = CHECK_INTERVAL.min(watch.0.most / 4);
            let is_long = {
                let mut state = watch.state();
                if state.statements.is_empty() && seen.elapsed() > IDLE_CHECK_INTERVAL {
                    state.is_watching = false;
                    return;
                }
                state.statements.values().any(|statement| statement.since.elapsed() >= every)
            };
            if is_long {
                seen = Instant::now();
                if let Err(error) = watch.check(&mut connection).await {
                    connection = None;
                    if told.is_none_or(|told| told.elapsed() > WARNING_INTERVAL) {
                        told = Some(Instant::now());
                        tracing::warn!(%error, "statements that take long on the IoTA store can't be watched; whether somebody waits for them is not known");
                    }
                }
            } else if seen.elapsed() > IDLE_CHECK_INTERVAL {
                connection = None;
            }
            drop(watch);
            tokio::time::sleep(every).await;
        }
    }

    /// Looks which statements somebody waits for, and ends those that are to give way, or that nobody wants any more.
    async fn check(&self, connection: &mut Option<PgConnection>) -> Result<(), SourceError> {
        let late = |_| SourceError::timeout("looking for locks", QUERY_TIMEOUT.as_secs());
        if connection.is_none() {
            *connection = Some(tokio::time::timeout(QUERY_TIMEOUT, self.0.pool.connect()).await.map_err(late)??);
        }
        let Some(connection) = connection else { return Ok(()) };
        let mut ask = async |sql: String| {
            let asked = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut *connection);
            Ok::<_, SourceError>(tokio::time::timeout(QUERY_TIMEOUT, asked).await.map_err(late)??)
        };
        let rows = ask(format!(
            "WITH ours AS (SELECT pid, split_part(query, ' ', 3) AS name FROM pg_catalog.pg_stat_activity
                           WHERE state = 'active' AND query LIKE '/* data-patch {}-%')
             SELECT pid, name, pid IN (SELECT unnest(pg_catalog.pg_blocking_pids(pid)) FROM pg_catalog.pg_locks WHERE NOT granted)
                    AS blocks FROM ours",
            self.0.instance
        ))
        .await?;
        let mut end = String::new();
        for row in &rows {
            let name: &str = row.try_get("name")?;
            let number = name.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0);
            if self.must_give_way(number, row.try_get("blocks")?) {
                let pid: i32 = row.try_get("pid")?;
                // Only if it is still the same: the session may have gone on to another's statement.
                let _ = write!(
                    end,
                    "SELECT pg_catalog.pg_cancel_backend(pid) FROM pg_catalog.pg_stat_activity
                     WHERE pid = {pid} AND state = 'active' AND query LIKE '/* data-patch {name} */%';"
                );
            }
        }
        if !end.is_empty() {
            ask(end).await?;
        }
        // Those that nobody waits for and that are not there any more.
        let there: Vec<u64> =
            rows.iter().filter_map(|row| row.try_get::<&str, _>("name").ok()?.rsplit('-').next()?.parse().ok()).collect();
        self.state().statements.retain(|number, statement| !statement.is_left || there.contains(number));
        Ok(())
    }

    fn must_give_way(&self, number: u64, blocks: bool) -> bool {
        let mut state = self.state();
        let Some(statement) = state.statements.get_mut(&number) else { return false };
        if statement.is_left {
            return true;
        }
        statement.blocks = if blocks { Some(statement.blocks.unwrap_or_else(Instant::now)) } else { None };
        // Whoever waits may have waited since the last look, and ending takes until the next.
        let patience = self.0.most.saturating_sub(CHECK_INTERVAL * 3);
        let ends = statement.blocks.is_some_and(|since| since.elapsed() >= patience);
        statement.gave_way |= ends;
        ends
    }
}

impl WatchedStatement {
    /// What the statement begins with.
    pub fn name(&self) -> String {
        format!("/* data-patch {}-{} */ ", self.watch.0.instance, self.number)
    }

    /// It has ended.
    pub fn finish(mut self) {
        self.is_over = true;
    }

    /// It has failed; why it did.
    pub fn failed(mut self, error: sqlx::Error) -> SourceError {
        // Whatever the server said, it has said it, and the statement has ended.
        self.is_over = matches!(error, sqlx::Error::Database(_));
        let gave_way = self.watch.state().statements.get(&self.number).is_some_and(|statement| statement.gave_way);
        if gave_way && error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("57014")) {
            return SourceError::GaveWay;
        }
        error.into()
    }
}

impl Drop for WatchedStatement {
    fn drop(&mut self) {
        let mut state = self.watch.state();
        match state.statements.get_mut(&self.number) {
            // It may go on for as long as it does not write to its closed connection.
            Some(statement) if !self.is_over && statement.since.elapsed() >= CHECK_INTERVAL => statement.is_left = true,
            _ => drop(state.statements.remove(&self.number)),
        }
    }
}
