//! The one writer, a thread of its own. Whatever arrives before a transaction is committed goes into it, so that many small
//! changes share one flush of the disk (group commit), and nobody hears of a change, or of a log line, before it is on the
//! disk.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Row, Transaction, TransactionBehavior};
use sea_query_rusqlite::RusqliteBinder;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Clock, QueueError, file, sql};
use crate::{
    events::Hub,
    task::{Line, LogEvent, TaskId, TaskState},
};

/// Changes that may wait for the writer; who comes later waits to be let in.
const WAITING: usize = 1_024;
/// Changes in one transaction at the most, so that the first is not kept from its answer for long.
const GROUP: usize = 256;

/// An open transaction, and what is to be told once it is committed.
pub(super) struct Tx<'a> {
    connection: &'a Connection,
    pub now_ms: i64,
    told: Vec<LogEvent>,
}

impl Tx<'_> {
    /// Runs a statement that returns no rows; returns how many it has changed.
    pub fn run(&self, statement: &impl RusqliteBinder) -> rusqlite::Result<usize> {
        file::run(self.connection, statement)
    }

    /// Runs a statement, and reads all rows that it returns.
    pub fn rows<T>(
        &self,
        statement: &impl RusqliteBinder,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        file::rows(self.connection, statement, read)
    }

    /// Appends lines to a task's log, `ends` going with the last; returns the number of the last.
    pub fn log(&mut self, task: TaskId, lines: Vec<Line>, ends: Option<TaskState>) -> rusqlite::Result<u64> {
        let count = lines.len() as u64;
        let last_seq = self.rows(&sql::advance_log(task, count), sql::read_last_seq)?.pop();
        let last_seq = last_seq.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let events: Vec<LogEvent> = (last_seq - count + 1..)
            .zip(lines)
            .map(|(seq, line)| LogEvent {
                task,
                seq,
                at_ms: self.now_ms,
                ok: line.ok,
                message: line.message,
                ends: ends.filter(|_| seq == last_seq),
            })
            .collect();
        self.run(&sql::insert_events(&events))?;
        self.told.extend(events);
        Ok(last_seq)
    }

    /// Makes a change, or undoes what it did before it failed. The outer error is the transaction's.
    fn apply(&mut self, change: &mut dyn Change) -> rusqlite::Result<rusqlite::Result<()>> {
        let told = self.told.len();
        self.mark("SAVEPOINT change")?;
        let Err(own) = change.apply(self).and_then(|()| self.mark("RELEASE change")) else { return Ok(Ok(())) };
        self.told.truncate(told);
        // A full disk has ended the transaction, savepoint and all: then the change's error is the transaction's.
        if self.connection.is_autocommit() {
            return Err(own);
        }
        self.mark("ROLLBACK TO change")?;
        self.mark("RELEASE change")?;
        Ok(Err(own))
    }

    fn mark(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute([]).map(|_| ())
    }
}

/// A change that waits for its turn.
trait Change: Send {
    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()>;
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
    W: FnOnce(&mut Tx<'_>) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        if let Some(work) = self.work.take() {
            self.value = Some(work(tx)?);
        }
        Ok(())
    }

    fn settle(self: Box<Self>, committed: Result<(), QueueError>) {
        let Self { value, answer, .. } = *self;
        // Who asked may have given up waiting.
        let _ = answer.send(committed.and_then(|()| value.ok_or(QueueError::Closed)));
    }
}

/// The way to the one writer.
pub(super) struct Writer {
    /// `None` once it is closed.
    changes: Mutex<Option<mpsc::Sender<Box<dyn Change>>>>,
    ended: CancellationToken,
}

impl Writer {
    /// Starts writing.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(connection: Connection, hub: Hub, clock: Clock) -> std::io::Result<Self> {
        let (changes, waiting) = mpsc::channel(WAITING);
        let ended = CancellationToken::new();
        let end = ended.clone().drop_guard();
        let mut pen = Pen { connection, hub, clock, waiting };
        std::thread::Builder::new().name("queue-writer".to_owned()).spawn(move || {
            pen.write();
            drop(pen);
            drop(end);
        })?;
        Ok(Self { changes: Mutex::new(Some(changes)), ended })
    }

    /// Makes a change; returns once it is on the disk.
    pub async fn write<T, W>(&self, work: W) -> Result<T, QueueError>
    where
        W: FnOnce(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let changes = self.changes().clone().ok_or(QueueError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let change = Box::new(Pending { work: Some(work), value: None, answer });
        changes.send(change).await.map_err(|_| QueueError::Closed)?;
        answered.await.map_err(|_| QueueError::Closed)?
    }

    /// Takes no more changes, and returns when those that wait are made.
    pub async fn close(&self) {
        drop(self.changes().take());
        self.ended.cancelled().await;
    }

    fn changes(&self) -> MutexGuard<'_, Option<mpsc::Sender<Box<dyn Change>>>> {
        // Nothing panics while it is locked.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writer's thread.
struct Pen {
    connection: Connection,
    hub: Hub,
    clock: Clock,
    waiting: mpsc::Receiver<Box<dyn Change>>,
}

impl Pen {
    /// Writes until nobody can ask for more.
    fn write(&mut self) {
        while let Some(first) = self.waiting.blocking_recv() {
            let mut group = vec![first];
            let committed = self.commit(&mut group).map_err(QueueError::away);
            for change in group {
                change.settle(committed.clone());
            }
        }
        // For the planner; a queue that can't be written now is none the worse without.
        let _ = self.connection.execute_batch("PRAGMA analysis_limit = 400; PRAGMA optimize");
    }

    /// One transaction with all changes of a group and those that arrive meanwhile, or, where the disk is full or broken, with
    /// none. A change that fails for a reason of its own is taken out and answered, and the others go on.
    fn commit(&mut self, group: &mut Vec<Box<dyn Change>>) -> rusqlite::Result<()> {
        // IMMEDIATE: a transaction that read first and wrote then could fail with a stale snapshot, which no waiting mends.
        let transaction = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
        let mut tx = Tx { connection: &self.connection, now_ms: self.clock.now_ms(), told: Vec::new() };
        let mut made = 0;
        while let Some(change) = group.get_mut(made) {
            match tx.apply(&mut **change)? {
                Ok(()) => made += 1,
                Err(own) => group.swap_remove(made).settle(Err(QueueError::away(own))),
            }
            if made == group.len()
                && made < GROUP
                && let Ok(next) = self.waiting.try_recv()
            {
                group.push(next);
            }
        }
        transaction.commit()?;
        for event in tx.told {
            if let Some(state) = event.ends {
                tracing::info!(task = %event.task, state = state.as_str(), "{}", event.message);
            }
            self.hub.logged(event);
        }
        Ok(())
    }
}
