//! The one writer, a thread of its own. Whatever arrives before a transaction is committed goes into it, so that many small
//! changes share one flush of the disk (group commit), and nobody hears of a change, or of a log line, before it is on the
//! disk. Large changes, such as a task of ten thousand devices, take turns with the small ones.

#[cfg(test)]
mod tests;
mod thread;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Row};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{QueueError, clock::QueueClock, connection, sql};
use crate::{
    events::EventHub,
    metrics::QueueMetrics,
    task::{Event, LogEntry, TaskId, TaskState},
};

/// Changes that may wait for the writer; later ones wait to be queued.
const CHANNEL_CAPACITY: usize = 1_024;
/// Large changes that may wait for the writer: each can hold ten thousand devices in memory.
const LARGE_REQUEST_PERMITS: usize = 16;

/// Rows after which a transaction takes no further change. One change may have more, since it is made whole or not at all.
const MAX_ROWS_PER_TRANSACTION: u64 = 2_000;

/// An open transaction, and the log entries to publish once it is committed.
pub(super) struct Tx<'a> {
    connection: &'a Connection,
    /// Of the steady clock, for what waits and for leases.
    pub now_ms: i64,
    /// Of the wall clock, for people.
    pub wall_ms: i64,
    events: Vec<LogEntry>,
    /// What the connection had changed before this transaction.
    changes_before: u64,
}

impl<'a> Tx<'a> {
    fn new(connection: &'a Connection, clock: &QueueClock) -> Self {
        let (now_ms, wall_ms) = (clock.steady_ms(), clock.wall_ms());
        Self { connection, now_ms, wall_ms, events: Vec::new(), changes_before: connection.total_changes() }
    }

    /// Changes the file and nothing in it: SQLite's number for the application, which nobody else here uses.
    pub fn touch(&mut self) -> rusqlite::Result<()> {
        let number: i32 = self.connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        self.connection.pragma_update(None, "user_version", number.wrapping_add(1))
    }

    /// Whether it has so many rows that no further change should join it.
    pub fn is_full(&self) -> bool {
        self.changed() >= MAX_ROWS_PER_TRANSACTION
    }

    /// Rows that it has inserted, updated or deleted, those of cascades included.
    fn changed(&self) -> u64 {
        self.connection.total_changes() - self.changes_before
    }

    /// Runs a statement that returns no rows; returns how many it has changed.
    pub fn run(&self, statement: &sql::Statement<'_>) -> rusqlite::Result<usize> {
        connection::run(self.connection, statement)
    }

    /// Runs a statement, and reads all rows that it returns.
    pub fn rows<T>(
        &self,
        statement: &sql::Statement<'_>,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        connection::rows(self.connection, statement, read)
    }

    /// Appends events to a task's log. With `final_state` the last of them ends the task. Returns the number of the last.
    pub fn log(&mut self, task: TaskId, events: Vec<Event>, final_state: Option<TaskState>) -> rusqlite::Result<u64> {
        let before = self.rows(&sql::last_seq(task), sql::read_last_seq)?.pop();
        let before = before.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let last_seq = before + events.len() as u64;
        let entries: Vec<LogEntry> = (before + 1..)
            .zip(events)
            .map(|(seq, event)| LogEntry {
                task,
                seq,
                at_ms: self.wall_ms,
                event,
                final_state: final_state.filter(|_| seq == last_seq),
            })
            .collect();
        self.run(&match final_state {
            None => sql::advance_log(task, last_seq),
            Some(state) => sql::end_log(task, last_seq, state, self.wall_ms),
        })?;
        for entry in &entries {
            self.run(&sql::insert_log_entry(entry)?)?;
        }
        self.events.extend(entries);
        Ok(last_seq)
    }
}

/// A change that waits for its turn.
trait WriteRequest: Send {
    /// Makes it; once more, if what it did was undone.
    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()>;
    fn kind(&self) -> RequestKind;
    /// Answers whoever asked for it, after the commit or instead of it.
    fn respond(self: Box<Self>, committed: Result<(), QueueError>);
}

/// When a change is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestKind {
    /// As it comes.
    Small,
    /// After all small changes of its transaction.
    EndOfBatch,
    /// In transactions of their own, in turn with those of small changes.
    Large,
}

struct Pending<W, T> {
    work: W,
    order: RequestKind,
    value: Option<T>,
    /// Its place among the large changes that may wait.
    _place: Option<OwnedSemaphorePermit>,
    answer: oneshot::Sender<Result<T, QueueError>>,
}

impl<W, T> WriteRequest for Pending<W, T>
where
    W: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        self.value = Some((self.work)(tx)?);
        Ok(())
    }

    fn kind(&self) -> RequestKind {
        self.order
    }

    fn respond(self: Box<Self>, committed: Result<(), QueueError>) {
        let Self { value, answer, .. } = *self;
        // Who asked may have given up waiting.
        let _ = answer.send(committed.and_then(|()| value.ok_or(QueueError::Closed)));
    }
}

/// The way to the one writer.
pub(super) struct Writer {
    /// `None` once it is closed.
    changes: Mutex<Option<mpsc::Sender<Box<dyn WriteRequest>>>>,
    large: Arc<Semaphore>,
    ended: CancellationToken,
}

impl Writer {
    /// Starts writing.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(connection: Connection, hub: EventHub, clock: QueueClock, metrics: QueueMetrics) -> std::io::Result<Self> {
        let (changes, waiting) = mpsc::channel(CHANNEL_CAPACITY);
        let ended = CancellationToken::new();
        let end = ended.clone().drop_guard();
        std::thread::Builder::new().name("queue-writer".to_owned()).spawn(move || {
            // Dropped at the very end, and also when the thread panics.
            let _end = end;
            thread::Pen::new(connection, hub, clock, metrics, waiting).run();
        })?;
        Ok(Self { changes: Mutex::new(Some(changes)), large: Arc::new(Semaphore::new(LARGE_REQUEST_PERMITS)), ended })
    }

    /// Makes a change; returns once it is on the disk. `work` runs again if the change of another has failed beside it.
    pub async fn write<T, W>(&self, work: W) -> Result<T, QueueError>
    where
        W: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.enqueue(work, RequestKind::Small).await
    }

    /// As [`write`](Self::write), after all other small changes of its transaction.
    pub async fn write_at_end_of_batch<T, W>(&self, work: W) -> Result<T, QueueError>
    where
        W: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.enqueue(work, RequestKind::EndOfBatch).await
    }

    /// As [`write`](Self::write), for a change of hundreds of rows and more: small changes do not wait behind several of them.
    pub async fn write_large<T, W>(&self, work: W) -> Result<T, QueueError>
    where
        W: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.enqueue(work, RequestKind::Large).await
    }

    async fn enqueue<T, W>(&self, work: W, order: RequestKind) -> Result<T, QueueError>
    where
        W: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let place = match order {
            // The semaphore is never closed.
            RequestKind::Large => Arc::clone(&self.large).acquire_owned().await.ok(),
            RequestKind::Small | RequestKind::EndOfBatch => None,
        };
        let changes = self.changes().clone().ok_or(QueueError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let change = Box::new(Pending { work, order, value: None, _place: place, answer });
        changes.send(change).await.map_err(|_| QueueError::Closed)?;
        answered.await.map_err(|_| QueueError::Closed)?
    }

    /// Takes no more changes, and returns when those that wait are made.
    pub async fn close(&self) {
        drop(self.changes().take());
        self.ended.cancelled().await;
    }

    /// Waits until the thread ends without having been asked to: it has panicked.
    pub async fn died(&self) {
        self.ended.cancelled().await;
        if self.changes().is_none() {
            std::future::pending::<()>().await;
        }
    }

    fn changes(&self) -> MutexGuard<'_, Option<mpsc::Sender<Box<dyn WriteRequest>>>> {
        // Nothing panics while it is locked.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
