//! The single writer thread. Requests that arrive before a transaction commits join it, so that
//! many small changes share one flush to disk (group commit). A request is answered, and its log
//! entries are published, only after the commit. Large requests, such as a task of ten thousand
//! devices, alternate with the small ones.

#[cfg(test)]
mod tests;
mod thread;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Row};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{clock::QueueClock, connection, sql};
use crate::{
    QueueError,
    log_hub::LogHub,
    metrics::QueueMetrics,
    policy,
    task::{Event, LogEntry, TaskId, TaskState},
};
use thread::WriterThread;

/// Requests that may wait in the channel; senders of further ones wait.
const CHANNEL_CAPACITY: usize = 1_024;
/// Large requests that may wait. Each can keep ten thousand devices in memory.
const LARGE_REQUEST_PERMITS: usize = 16;

/// A transaction with this many changed rows accepts no further request. A single request may
/// change more, because it is applied as a whole.
const MAX_ROWS_PER_TRANSACTION: u64 = 2_000;

/// An open transaction, and the log entries to publish once it is committed.
pub struct Tx<'a> {
    connection: &'a Connection,
    /// The steady clock, in milliseconds: for due times and leases.
    pub now_ms: i64,
    /// The wall clock, in milliseconds since 1970: for times that are shown.
    pub wall_ms: i64,
    events: Vec<LogEntry>,
    /// The last id that was given to a task.
    last_task: TaskId,
    /// The connection's count of changed rows when this transaction began.
    changes_before: u64,
}

impl<'a> Tx<'a> {
    fn new(connection: &'a Connection, clock: &QueueClock, last_task: TaskId) -> Self {
        let (now_ms, wall_ms) = (clock.steady_ms(), clock.wall_ms());
        Self { connection, now_ms, wall_ms, events: Vec::new(), last_task, changes_before: connection.total_changes() }
    }

    /// The id of a task that is created now.
    pub fn new_task_id(&mut self) -> TaskId {
        self.last_task = TaskId::created_at(self.wall_ms, self.last_task);
        self.last_task
    }

    /// Writes to the file without changing a table: increments `user_version`, which this
    /// application does not use otherwise.
    pub fn touch(&mut self) -> rusqlite::Result<()> {
        let number: i32 = self.connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        self.connection.pragma_update(None, "user_version", number.wrapping_add(1))
    }

    /// The last migration of the file. A newer version may have migrated it since it was opened.
    pub fn newest_migration(&self) -> rusqlite::Result<i64> {
        self.connection.query_row(sql::NEWEST_MIGRATION, [], |row| row.get(0))
    }

    /// Whether the transaction has so many changed rows that no further request should join it.
    pub fn is_full(&self) -> bool {
        self.changed() >= MAX_ROWS_PER_TRANSACTION
    }

    /// Rows inserted, updated or deleted so far, including those of cascades.
    fn changed(&self) -> u64 {
        self.connection.total_changes() - self.changes_before
    }

    /// Runs a statement that returns no rows. Returns the number of rows it changed.
    pub fn run(&self, statement: &sql::Statement<'_>) -> rusqlite::Result<usize> {
        connection::run(self.connection, statement)
    }

    /// Runs a statement and reads all rows that it returns.
    pub fn rows<T>(
        &self,
        statement: &sql::Statement<'_>,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        connection::rows(self.connection, statement, read)
    }

    /// Appends events to a task's log and returns the sequence number of the last one. With
    /// `final_state`, the last event finishes the task.
    pub fn log(&mut self, task: TaskId, events: Vec<Event>, final_state: Option<TaskState>) -> rusqlite::Result<u64> {
        let before = self.rows(&sql::last_seq(task), sql::read_last_seq)?.pop();
        let before = before.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let entries = policy::log::number(task, before, self.wall_ms, events, final_state);
        let last_seq = entries.last().map_or(before, |entry| entry.seq);
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

/// A pending request to the writer.
trait WriteRequest: Send {
    /// Applies the change. Called again if its transaction was rolled back because of another
    /// request.
    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()>;
    fn kind(&self) -> RequestKind;
    /// Answers the requester, after the commit or its failure.
    fn respond(self: Box<Self>, committed: Result<(), QueueError>);
}

/// When a request is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestKind {
    /// In order of arrival.
    Small,
    /// After all small requests of its transaction.
    EndOfBatch,
    /// In separate transactions, which alternate with those of small requests.
    Large,
}

struct Pending<W, T> {
    apply: W,
    kind: RequestKind,
    value: Option<T>,
    /// Its share of [`LARGE_REQUEST_PERMITS`].
    _permit: Option<OwnedSemaphorePermit>,
    answer: oneshot::Sender<Result<T, QueueError>>,
}

impl<W, T> WriteRequest for Pending<W, T>
where
    W: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        self.value = Some((self.apply)(tx)?);
        Ok(())
    }

    fn kind(&self) -> RequestKind {
        self.kind
    }

    fn respond(self: Box<Self>, committed: Result<(), QueueError>) {
        let Self { value, answer, .. } = *self;
        // The requester may have stopped waiting.
        let _ = answer.send(committed.and_then(|()| value.ok_or(QueueError::Closed)));
    }
}

/// A handle to the writer thread.
pub struct Writer {
    /// `None` once the writer is closed.
    requests: Mutex<Option<mpsc::Sender<Box<dyn WriteRequest>>>>,
    large: Arc<Semaphore>,
    stopped: CancellationToken,
}

impl Writer {
    /// Starts the writer thread.
    ///
    /// # Errors
    /// The operating system cannot create a thread.
    pub fn start(connection: Connection, hub: LogHub, clock: QueueClock, metrics: QueueMetrics) -> std::io::Result<Self> {
        let (requests, receiver) = mpsc::channel(CHANNEL_CAPACITY);
        let stopped = CancellationToken::new();
        let stopped_guard = stopped.clone().drop_guard();
        std::thread::Builder::new().name("queue-writer".to_owned()).spawn(move || {
            // Dropped when the thread ends, also when it panics.
            let _stopped_guard = stopped_guard;
            WriterThread::new(connection, hub, clock, metrics, receiver).run();
        })?;
        Ok(Self { requests: Mutex::new(Some(requests)), large: Arc::new(Semaphore::new(LARGE_REQUEST_PERMITS)), stopped })
    }

    /// Applies a change and returns once it is durable. `apply` may run more than once: its
    /// transaction is rolled back and repeated if another request in it fails.
    pub async fn write<T, W>(&self, apply: W) -> Result<T, QueueError>
    where
        W: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.enqueue(apply, RequestKind::Small).await
    }

    /// Like [`write`](Self::write), but applied after all small requests of its transaction.
    pub async fn write_at_end_of_batch<T, W>(&self, apply: W) -> Result<T, QueueError>
    where
        W: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.enqueue(apply, RequestKind::EndOfBatch).await
    }

    /// Like [`write`](Self::write), for a change of hundreds of rows or more. A small request waits
    /// for at most one large transaction.
    pub async fn write_large<T, W>(&self, apply: W) -> Result<T, QueueError>
    where
        W: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.enqueue(apply, RequestKind::Large).await
    }

    async fn enqueue<T, W>(&self, apply: W, kind: RequestKind) -> Result<T, QueueError>
    where
        W: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let permit = match kind {
            // The semaphore is never closed.
            RequestKind::Large => Arc::clone(&self.large).acquire_owned().await.ok(),
            RequestKind::Small | RequestKind::EndOfBatch => None,
        };
        let requests = self.requests().clone().ok_or(QueueError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let request = Box::new(Pending { apply, kind, value: None, _permit: permit, answer });
        requests.send(request).await.map_err(|_| QueueError::Closed)?;
        answered.await.map_err(|_| QueueError::Closed)?
    }

    /// Rejects further requests and returns when the pending ones are done.
    pub async fn close(&self) {
        drop(self.requests().take());
        self.stopped.cancelled().await;
    }

    /// Waits until the thread ends without [`close`](Self::close), which means that it has
    /// panicked.
    pub async fn died(&self) {
        self.stopped.cancelled().await;
        if self.requests().is_none() {
            std::future::pending::<()>().await;
        }
    }

    fn requests(&self) -> MutexGuard<'_, Option<mpsc::Sender<Box<dyn WriteRequest>>>> {
        // No code panics while it holds this lock.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
