#![doc = include_str!("../README.md")]
//!
//! # Where to look
//!
//! [`Queue`] stores tasks and leases their jobs. A [`Lease`] is the only way to change a running
//! job. A [`LogTail`] follows a task's log. All that is SQLite is in
//! `store/sqlite/`, and the rules are pure functions in `policy/`.

pub mod events;
mod lease;
mod log_tail;
mod metrics;
mod policy;
mod store;
mod submit;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

pub use lease::{Checkpoint, DeviceCount, Job, Lease, LeaseError};
pub use log_tail::LogTail;
pub use metrics::{CauseLabel, QueueMetrics};
pub use store::sqlite::{
    claim::{ClaimLimits, Claimed},
    clock::Clock,
    open::{OpenError, QueueOptions},
    probe::ProbeError,
};
pub use submit::{Cancelled, Submitted};

use data_patch_failpoint as failpoint;
use data_patch_protocol::task;
use events::EventHub;
use store::sqlite::{clock, connection, instance, probe, sql, writer};
use task::{LogEntry, QuarantinedRow, TaskId, TaskState};

/// Why a queue operation failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    /// The file is locked, or its disk is full or failing. Retryable.
    #[error("{0}")]
    Unavailable(Arc<rusqlite::Error>),
    /// The file or one of its rows was not written by this service. Not retryable.
    #[error("the queue file is damaged or was changed by another program: {0}")]
    Damaged(Arc<rusqlite::Error>),
    /// An error of another kind; whether a retry helps is unknown.
    #[error("unexpected: {0}")]
    Unknown(Arc<rusqlite::Error>),
    /// [`Queue::close`] was called, or the writer thread has panicked.
    #[error("the queue is closed: the service is stopping")]
    Closed,
}

impl QueueError {
    /// The kind of error, as a metric label.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "away",
            Self::Damaged(_) => "damaged",
            Self::Unknown(_) => "unknown",
            Self::Closed => "closed",
        }
    }

    fn from_sqlite(error: rusqlite::Error) -> Self {
        use rusqlite::{Error, ErrorCode as Code};
        let kind = match &error {
            Error::SqliteFailure(failure, _) => match failure.code {
                Code::DatabaseBusy
                | Code::DatabaseLocked
                | Code::DiskFull
                | Code::SystemIoFailure
                | Code::ReadOnly
                | Code::CannotOpen
                | Code::OutOfMemory
                | Code::PermissionDenied
                | Code::FileLockingProtocolFailed
                | Code::OperationInterrupted
                | Code::OperationAborted => Self::Unavailable,
                Code::DatabaseCorrupt | Code::NotADatabase | Code::SchemaChanged | Code::TypeMismatch => Self::Damaged,
                _ => Self::Unknown,
            },
            Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..)
            | Error::InvalidColumnName(_)
            | Error::Utf8Error(..)
            | Error::QueryReturnedNoRows => Self::Damaged,
            _ => Self::Unknown,
        };
        kind(Arc::new(error))
    }
}

/// A stored task.
#[derive(Debug, Clone)]
pub struct TaskRow {
    pub id: TaskId,
    pub thing: Uuid,
    pub topic: String,
    /// Start of the time range, inclusive.
    pub from: DateTime<Utc>,
    /// End of the time range, inclusive.
    pub to: DateTime<Utc>,
    pub state: TaskState,
    /// The sequence number of the last log entry; 0 while the log is empty.
    pub last_seq: u64,
    /// Milliseconds since 1970, by the wall clock.
    pub created_at_ms: i64,
    /// The task is being cancelled; its running jobs are stopping.
    pub cancel_requested: bool,
}

/// The work that is left in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Jobs that are not finished.
    pub jobs: u64,
    /// How long the oldest due job has been waiting; zero if no job is due.
    pub oldest_due: Duration,
}

/// A handle to an open queue. Clones share it.
#[derive(Clone)]
pub struct Queue {
    inner: Arc<Inner>,
}

struct Inner {
    writer: writer::Writer,
    metrics: QueueMetrics,
    readers: connection::Readers,
    hub: EventHub,
    clock: clock::QueueClock,
    /// Notified when a job may have become claimable.
    work: Notify,
    /// Notified when a task is cancelled in this process.
    cancel_requests: Notify,
    instance: instance::ServiceInstance,
    file: probe::Identity,
    /// Stops [`poll_other_processes`] when it is dropped.
    _polling: DropGuard,
}

impl Queue {
    /// The task with this id, if it exists.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn task(&self, id: TaskId) -> Result<Option<TaskRow>, QueueError> {
        Ok(self.inner.readers.rows(sql::task(id), sql::read_task).await?.pop())
    }

    /// At most `limit` entries of a task's log after `seq`, in order.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn log_after(&self, task: TaskId, seq: u64, limit: u64) -> Result<Vec<LogEntry>, QueueError> {
        self.inner.readers.rows(sql::log_after(task, seq, limit), move |row| sql::read_log_entry(task, row)).await
    }

    /// The quarantined rows of a task, each with its device.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn quarantined_rows(&self, task: TaskId) -> Result<Vec<(Uuid, QuarantinedRow)>, QueueError> {
        self.inner.readers.rows(sql::quarantined_rows(task), sql::read_quarantined).await
    }

    /// The number of unfinished jobs, and the age of the oldest due one.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn backlog(&self) -> Result<Backlog, QueueError> {
        let (jobs, due_at) = self.inner.readers.rows(sql::backlog(), sql::read_backlog).await?.pop().unwrap_or_default();
        // The `due_at` of a running job is the end of its lease. It lies in the future, so it
        // counts as no wait.
        let waited_ms = due_at.map_or(0, |due_at| self.inner.clock.steady_ms().saturating_sub(due_at));
        Ok(Backlog { jobs, oldest_due: Duration::from_millis(waited_ms.try_into().unwrap_or(0)) })
    }

    /// Follows a task's log from the entry after `after`.
    pub fn tail(&self, task: TaskId, after: u64) -> LogTail {
        LogTail::new(self.clone(), self.inner.hub.subscribe(task), task, after)
    }

    /// Waits until a job may have become claimable in this process. Work that other processes add
    /// is only found by polling.
    pub async fn work_arrived(&self) {
        self.inner.work.notified().await;
    }

    /// Waits until a task is cancelled in this process. Cancellations by other processes are only
    /// found by polling [`tasks_being_cancelled`](Self::tasks_being_cancelled).
    pub async fn cancel_requested(&self) {
        self.inner.cancel_requests.notified().await;
    }

    /// The tasks that are being cancelled and still have running jobs.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn tasks_being_cancelled(&self) -> Result<Vec<TaskId>, QueueError> {
        self.inner.readers.rows(sql::tasks_being_cancelled(), sql::read_task_id).await
    }

    /// Removes tasks that finished before `before_ms` (milliseconds since 1970) and returns their
    /// number. They are removed in several transactions, so that other writers do not wait for
    /// long.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn prune(&self, before_ms: i64) -> Result<u64, QueueError> {
        let mut removed = 0;
        loop {
            // One task at a time: a task may have one row or many thousands.
            let prune = move |tx: &mut writer::Tx<'_>| {
                let mut tasks = 0;
                while !tx.is_full() && tx.run(&sql::prune(before_ms, 1))? > 0 {
                    tasks += 1;
                }
                Ok((tasks, tx.is_full()))
            };
            let (tasks, is_full) = self.inner.writer.write_large(prune).await?;
            removed += tasks;
            if !is_full {
                return Ok(removed);
            }
        }
    }

    /// The queue's metrics.
    pub fn metrics(&self) -> &QueueMetrics {
        &self.inner.metrics
    }

    /// Waits until the writer thread has panicked. Nothing can be written any more, so the process
    /// should exit.
    pub async fn writer_died(&self) {
        self.inner.writer.died().await;
    }

    /// The wall-clock time in milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        self.inner.clock.wall_ms()
    }

    /// Completes the pending writes, releases the leases that this service still has, and closes
    /// the file. Later calls return [`QueueError::Closed`].
    pub async fn close(&self) {
        let owner = self.owner();
        match self.inner.writer.write(move |tx| tx.run(&sql::release_all(&owner, tx.now_ms))).await {
            Ok(0) | Err(QueueError::Closed) => {}
            Ok(jobs) => {
                tracing::warn!(
                    jobs,
                    "the queue released leases that workers had not released; the jobs resume from their checkpoints at the next start"
                );
            }
            Err(error) => {
                tracing::warn!(%error, "leases could not be released; the next service on this queue expires them");
                self.inner.instance.keep_lock_file();
            }
        }
        self.inner.writer.close().await;
        self.inner.readers.close();
    }
}

/// Signals log entries that other processes wrote to the same file to the subscribers in this
/// process.
async fn poll_other_processes(readers: connection::Readers, hub: EventHub, stop: CancellationToken) {
    /// The longest delay until a subscriber sees an entry of another process.
    const POLL_INTERVAL: Duration = Duration::from_millis(250);
    /// Far below SQLite's limit on the variables of a statement.
    const MAX_TASKS_PER_QUERY: usize = 500;
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        for tasks in hub.subscribed_tasks().chunks(MAX_TASKS_PER_QUERY) {
            // A failed read is retried at the next tick. Other readers report the error.
            let lengths = readers.rows(sql::last_seqs(tasks), sql::read_log_length).await.unwrap_or_default();
            for (task, last_seq) in lengths {
                hub.advance_tail(task, last_seq);
            }
        }
    }
}
