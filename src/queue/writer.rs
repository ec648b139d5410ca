//! The one writer. Whatever is waiting when a transaction begins goes into it, so that many small changes share one
//! flush of the disk (group commit), and nobody hears of a change, or of a log line, before it is on the disk.

use futures_util::future::BoxFuture;
use sea_query::{SqliteQueryBuilder, Value, Values};
use sea_query_sqlx::{SqlxBinder, SqlxValues};
use sqlx::{AssertSqlSafe, Sqlite, SqlitePool, Transaction, sqlite::SqliteRow};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{Clock, QueueError, sql};
use crate::{
    events::Hub,
    task::{Line, LogEvent, TaskId, TaskState},
};

/// Changes that may wait for the writer; who comes later waits to be let in.
const WAITING: usize = 1_024;
/// Changes in one transaction at the most, so that the first is not kept from its answer for long.
const GROUP: usize = 256;

/// An open transaction, and what is to be told once it is committed.
///
/// Each way to SQLite's thread and back costs more than most statements do. So a statement of whose outcome nothing
/// depends is only put down, and goes with the next one that is waited for.
pub(super) struct Tx {
    transaction: Transaction<'static, Sqlite>,
    pub now_ms: i64,
    told: Vec<LogEvent>,
    later: Statements,
    /// SQLite has heard of the change that is being made.
    begun: bool,
}

/// Statements that go in one text; SQLite runs them in order, up to the first that fails.
#[derive(Default)]
struct Statements {
    sql: String,
    values: Vec<Value>,
}

impl Statements {
    fn push(&mut self, statement: &impl SqlxBinder) {
        let (sql, SqlxValues(values)) = statement.build_sqlx(SqliteQueryBuilder);
        self.raw(&sql);
        self.values.extend(values);
    }

    fn raw(&mut self, sql: &str) {
        if !self.sql.is_empty() {
            self.sql.push(';');
        }
        self.sql.push_str(sql);
    }
}

impl Tx {
    /// Puts a statement down; it runs before the next one that is waited for, or at the end of the change.
    pub fn later(&mut self, statement: &impl SqlxBinder) {
        self.later.push(statement);
    }

    /// Runs a statement that returns rows, after those that were put down; returns the rows of all of them.
    pub async fn fetch(&mut self, statement: &impl SqlxBinder) -> Result<Vec<SqliteRow>, sqlx::Error> {
        self.later.push(statement);
        self.begun = true;
        let Statements { sql, values } = std::mem::take(&mut self.later);
        sqlx::query_with(AssertSqlSafe(sql), SqlxValues(Values(values))).fetch_all(&mut *self.transaction).await
    }

    /// Runs the statements that were put down.
    pub async fn flush(&mut self) -> Result<(), sqlx::Error> {
        self.begun = true;
        let Statements { sql, values } = std::mem::take(&mut self.later);
        sqlx::query_with(AssertSqlSafe(sql), SqlxValues(Values(values))).execute(&mut *self.transaction).await.map(|_| ())
    }

    /// Makes a change, or undoes what it did before it failed. The outer error is the transaction's.
    async fn apply(&mut self, change: &mut dyn Change) -> Result<Result<(), sqlx::Error>, sqlx::Error> {
        let told = self.told.len();
        self.later.raw("SAVEPOINT change");
        let mut applied = change.apply(self).await;
        if applied.is_ok() {
            self.later.raw("RELEASE change");
            applied = self.flush().await;
        }
        let heard = std::mem::take(&mut self.begun);
        let Err(own) = applied else { return Ok(Ok(())) };
        self.told.truncate(told);
        self.later = Statements::default();
        if heard {
            self.later.raw("ROLLBACK TO change");
            self.later.raw("RELEASE change");
            // A full disk has ended the transaction, savepoint and all: then the change's error is the transaction's.
            if self.flush().await.is_err() {
                return Err(own);
            }
        }
        Ok(Err(own))
    }

    /// Appends lines to a task's log.
    pub async fn log(&mut self, task: TaskId, lines: Vec<Line>) -> Result<(), sqlx::Error> {
        let (_, last_seq) = self.fetch_to_log(task).await?;
        self.log_after(last_seq, task, lines, None);
        Ok(())
    }

    /// Runs the statements that were put down; returns their rows, and the number of the last line of a task's log.
    pub async fn fetch_to_log(&mut self, task: TaskId) -> Result<(Vec<SqliteRow>, u64), sqlx::Error> {
        let mut rows = self.fetch(&sql::log_length(task)).await?;
        let last_seq = rows.pop().map(|row| sql::read_last_seq(&row)).transpose()?.ok_or(sqlx::Error::RowNotFound)?;
        Ok((rows, last_seq))
    }

    /// Appends lines to a task's log whose last line is known; `ends` goes with the last.
    pub fn log_after(&mut self, last_seq: u64, task: TaskId, lines: Vec<Line>, ends: Option<TaskState>) {
        let count = lines.len() as u64;
        if count == 0 {
            return;
        }
        let events: Vec<LogEvent> = (last_seq + 1..)
            .zip(lines)
            .map(|(seq, line)| LogEvent {
                task,
                seq,
                at_ms: self.now_ms,
                ok: line.ok,
                message: line.message,
                ends: ends.filter(|_| seq == last_seq + count),
            })
            .collect();
        self.later(&sql::advance_log(task, count));
        self.later(&sql::insert_events(&events));
        self.told.extend(events);
    }
}

/// A change that waits for its turn.
trait Change: Send {
    fn apply<'a>(&'a mut self, tx: &'a mut Tx) -> BoxFuture<'a, Result<(), sqlx::Error>>;
    /// Answers whoever asked for it, after the commit or instead of it.
    fn settle(self: Box<Self>, committed: Result<(), QueueError>);
}

struct Pending<W, T> {
    work: Option<W>,
    value: Option<T>,
    answer: oneshot::Sender<Result<T, QueueError>>,
}

impl<W, T> Change for Pending<W, T>
where
    W: for<'a> FnOnce(&'a mut Tx) -> BoxFuture<'a, Result<T, sqlx::Error>> + Send,
    T: Send,
{
    fn apply<'a>(&'a mut self, tx: &'a mut Tx) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        Box::pin(async {
            if let Some(work) = self.work.take() {
                self.value = Some(work(tx).await?);
            }
            Ok(())
        })
    }

    fn settle(self: Box<Self>, committed: Result<(), QueueError>) {
        let Self { value, answer, .. } = *self;
        // Who asked may have given up waiting.
        let _ = answer.send(committed.and_then(|()| value.ok_or(QueueError::Closed)));
    }
}

/// The way to the one writer.
pub(super) struct Writer {
    changes: mpsc::Sender<Box<dyn Change>>,
    closing: CancellationToken,
    running: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts writing to `pool`, which has one connection.
    pub fn start(pool: SqlitePool, hub: Hub, clock: Clock) -> Self {
        let (changes, waiting) = mpsc::channel(WAITING);
        let closing = CancellationToken::new();
        let running = tokio::spawn(run(pool, hub, clock, waiting, closing.clone()));
        Self { changes, closing, running: tokio::sync::Mutex::new(Some(running)) }
    }

    /// Makes a change; returns once it is on the disk.
    pub async fn write<T, W>(&self, work: W) -> Result<T, QueueError>
    where
        W: for<'a> FnOnce(&'a mut Tx) -> BoxFuture<'a, Result<T, sqlx::Error>> + Send + 'static,
        T: Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let change = Box::new(Pending { work: Some(work), value: None, answer });
        self.changes.send(change).await.map_err(|_| QueueError::Closed)?;
        answered.await.map_err(|_| QueueError::Closed)?
    }

    /// Takes no more changes, and returns when those that wait are made.
    pub async fn close(&self) {
        self.closing.cancel();
        if let Some(running) = self.running.lock().await.take() {
            // An error is a panic that the runtime has already reported.
            let _ = running.await;
        }
    }
}

async fn run(pool: SqlitePool, hub: Hub, clock: Clock, mut waiting: mpsc::Receiver<Box<dyn Change>>, closing: CancellationToken) {
    loop {
        let first = tokio::select! {
            biased;
            change = waiting.recv() => change,
            () = closing.cancelled() => {
                // Those that are in the channel are still received, then `None`.
                waiting.close();
                waiting.recv().await
            }
        };
        let Some(first) = first else { break };
        let mut group = vec![first];
        while group.len() < GROUP
            && let Ok(change) = waiting.try_recv()
        {
            group.push(change);
        }
        let committed = commit(&pool, &hub, &clock, &mut group).await.map_err(QueueError::from);
        if committed.is_err() {
            renew(&pool).await;
        }
        for change in group {
            change.settle(committed.clone());
        }
    }
    pool.close().await;
}

/// Puts a new connection in the place of one whose transaction failed. SQLite ends a transaction by itself when the disk
/// is full; sqlx then can't roll it back, counts it as open, and would begin no other on this connection, ever.
async fn renew(pool: &SqlitePool) {
    if let Ok(connection) = pool.acquire().await {
        // It has nothing to lose: what failed was told so.
        let _ = connection.close().await;
    }
}

/// One transaction with all changes of a group, or, where the disk is full or broken, with none. A change that fails for a
/// reason of its own is taken out and answered, and the others go on.
async fn commit(pool: &SqlitePool, hub: &Hub, clock: &Clock, group: &mut Vec<Box<dyn Change>>) -> Result<(), sqlx::Error> {
    // IMMEDIATE: a transaction that read first and wrote then could fail with a stale snapshot, which no waiting mends.
    let transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    let mut tx = Tx { transaction, now_ms: clock.now_ms(), told: Vec::new(), later: Statements::default(), begun: false };
    let mut waiting = std::mem::take(group).into_iter();
    while let Some(mut change) = waiting.next() {
        match tx.apply(&mut *change).await {
            Ok(Ok(())) => group.push(change),
            Ok(Err(own)) => change.settle(Err(own.into())),
            Err(error) => {
                group.push(change);
                group.extend(waiting);
                return Err(error);
            }
        }
    }
    let Tx { transaction, told, .. } = tx;
    transaction.commit().await?;
    for event in told {
        if let Some(state) = event.ends {
            tracing::info!(task = %event.task, state = state.as_str(), "{}", event.message);
        }
        hub.logged(event);
    }
    Ok(())
}
