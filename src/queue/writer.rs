//! The one writer, a thread of its own. Whatever arrives before a transaction is committed goes into it, so that many small
//! changes share one flush of the disk (group commit), and nobody hears of a change, or of a log line, before it is on the
//! disk.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Row, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{QueueError, clock::QueueClock, file, sql};
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
    /// Of the steady clock, for what waits and for leases.
    pub now_ms: i64,
    /// Of the wall clock, for people.
    pub wall_ms: i64,
    told: Vec<LogEvent>,
}

impl Tx<'_> {
    /// Runs a statement that returns no rows; returns how many it has changed.
    pub fn run(&self, statement: &sql::Statement<'_>) -> rusqlite::Result<usize> {
        file::run(self.connection, statement)
    }

    /// Runs a statement, and reads all rows that it returns.
    pub fn rows<T>(
        &self,
        statement: &sql::Statement<'_>,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        file::rows(self.connection, statement, read)
    }

    /// Appends lines to a task's log, and with the last ends the task if it `ends`; returns the number of the last.
    pub fn log(&mut self, task: TaskId, lines: Vec<Line>, ends: Option<TaskState>) -> rusqlite::Result<u64> {
        let before = self.rows(&sql::last_seq(task), sql::read_last_seq)?.pop();
        let before = before.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let last_seq = before + lines.len() as u64;
        let events: Vec<LogEvent> = (before + 1..)
            .zip(lines)
            .map(|(seq, line)| LogEvent {
                task,
                seq,
                at_ms: self.wall_ms,
                ok: line.ok,
                message: line.message,
                ends: ends.filter(|_| seq == last_seq),
            })
            .collect();
        self.run(&match ends {
            None => sql::advance_log(task, last_seq),
            Some(state) => sql::end_log(task, last_seq, state, self.wall_ms),
        })?;
        for event in &events {
            self.run(&sql::insert_event(event))?;
        }
        self.told.extend(events);
        Ok(last_seq)
    }
}

/// A change that waits for its turn.
trait Change: Send {
    /// Makes it; once more, if what it did was undone.
    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()>;
    /// Whether it is made after all others of its transaction.
    fn comes_last(&self) -> bool;
    /// Answers whoever asked for it, after the commit or instead of it.
    fn settle(self: Box<Self>, committed: Result<(), QueueError>);
}

struct Pending<W, T> {
    work: W,
    comes_last: bool,
    value: Option<T>,
    answer: oneshot::Sender<Result<T, QueueError>>,
}

impl<W, T> Change for Pending<W, T>
where
    W: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        self.value = Some((self.work)(tx)?);
        Ok(())
    }

    fn comes_last(&self) -> bool {
        self.comes_last
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
    pub fn start(connection: Connection, hub: Hub, clock: QueueClock) -> std::io::Result<Self> {
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

    /// Makes a change; returns once it is on the disk. `work` runs again if the change of another has failed beside it.
    pub async fn write<T, W>(&self, work: W) -> Result<T, QueueError>
    where
        W: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.ask(work, false).await
    }

    /// As [`write`](Self::write), after all other changes of its transaction.
    pub async fn write_last<T, W>(&self, work: W) -> Result<T, QueueError>
    where
        W: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.ask(work, true).await
    }

    async fn ask<T, W>(&self, work: W, comes_last: bool) -> Result<T, QueueError>
    where
        W: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let changes = self.changes().clone().ok_or(QueueError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let change = Box::new(Pending { work, comes_last, value: None, answer });
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

/// Why a transaction was not made.
struct Failure {
    error: rusqlite::Error,
    /// It is one change that can't be made; else the disk is full or broken, or another service does not end its own.
    of_a_change: bool,
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self { error, of_a_change: false }
    }
}

/// The writer's thread.
struct Pen {
    connection: Connection,
    hub: Hub,
    clock: QueueClock,
    waiting: mpsc::Receiver<Box<dyn Change>>,
}

impl Pen {
    /// Writes until nobody can ask for more.
    fn write(&mut self) {
        while let Some(first) = self.waiting.blocking_recv() {
            let mut group = vec![first];
            let committed = self.commit(&mut group, GROUP);
            if group.len() > 1 && committed.as_ref().is_err_and(|failure| failure.of_a_change) {
                // Each by itself, so that the others do not fail with it. No savepoints: they copy each page that is changed.
                for change in group {
                    let mut alone = vec![change];
                    let committed = self.commit(&mut alone, 1);
                    settle(alone, committed);
                }
            } else {
                settle(group, committed);
            }
        }
    }

    /// One transaction with all changes of a group, and of those that arrive meanwhile up to `most` in all; or with none.
    fn commit(&mut self, group: &mut Vec<Box<dyn Change>>, most: usize) -> Result<(), Failure> {
        // IMMEDIATE: a transaction that read first and wrote then could fail with a stale snapshot, which no waiting mends.
        let transaction = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
        let (now_ms, wall_ms) = (self.clock.steady_ms(), self.clock.wall_ms());
        let mut tx = Tx { connection: &self.connection, now_ms, wall_ms, told: Vec::new() };
        let mut made = 0;
        loop {
            while group.len() < most
                && let Ok(next) = self.waiting.try_recv()
            {
                group.push(next);
            }
            let Some(left) = group.get_mut(made..) else { break };
            if let Some(next) = left.iter().position(|change| !change.comes_last())
                && let Some(before) = left.get_mut(..=next)
            {
                before.rotate_right(1);
            }
            let Some(change) = left.first_mut() else { break };
            // Where going on makes no sense SQLite has ended the transaction itself.
            change.apply(&mut tx).map_err(|error| Failure { error, of_a_change: !self.connection.is_autocommit() })?;
            made += 1;
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

/// Answers all changes of a group.
fn settle(group: Vec<Box<dyn Change>>, committed: Result<(), Failure>) {
    let committed = committed.map_err(|failure| QueueError::away(failure.error));
    for change in group {
        change.settle(committed.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::queue::Clock;

    fn writer(folder: &tempfile::TempDir) -> Writer {
        let connection = Connection::open(folder.path().join("x.db")).unwrap();
        connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE x (n INTEGER PRIMARY KEY)").unwrap();
        let clock = Clock::Manual(Arc::default());
        let clock = QueueClock::open(&connection, clock).unwrap();
        Writer::start(connection, Hub::default(), clock).unwrap()
    }

    /// Keeps the writer from what waits until the other end is dropped.
    fn hold(writer: &Writer) -> (impl Future<Output = Result<(), QueueError>>, std::sync::mpsc::Sender<()>) {
        let (go, gate) = std::sync::mpsc::channel();
        let held = writer.write(move |_| {
            let _ = gate.recv();
            Ok(())
        });
        (held, go)
    }

    #[tokio::test]
    async fn a_change_that_fails_takes_no_other_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(&folder);
        let insert = |n: i64| writer.write(move |tx| tx.connection.execute("INSERT INTO x VALUES (?)", [n]));
        let (first, go) = hold(&writer);
        let others = async { tokio::join!(insert(1), insert(1), insert(2), async move { drop(go) }) };
        let (first, (one, again, two, ())) = tokio::join!(first, others);
        assert!(first.is_ok() && one.is_ok() && again.is_err() && two.is_ok(), "{first:?} {one:?} {again:?} {two:?}");
        writer.close().await;
        assert!(matches!(insert(3).await, Err(QueueError::Closed)));
    }

    #[tokio::test]
    async fn what_comes_last_is_made_after_what_was_asked_for_later() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(&folder);
        let made = Arc::new(Mutex::new(Vec::new()));
        let note = |what: &'static str| {
            let made = Arc::clone(&made);
            move |_: &mut Tx<'_>| {
                made.lock().unwrap().push(what);
                Ok(())
            }
        };
        let (first, go) = hold(&writer);
        let (last, one, two) = (writer.write_last(note("last")), writer.write(note("one")), writer.write(note("two")));
        let (first, last, one, two, ()) = tokio::join!(first, last, one, two, async move { drop(go) });
        assert!(first.is_ok() && last.is_ok() && one.is_ok() && two.is_ok());
        assert_eq!(*made.lock().unwrap(), ["one", "two", "last"]);
    }
}
