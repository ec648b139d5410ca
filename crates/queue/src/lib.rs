#![doc = include_str!("../README.md")]
//!
//! # Where to look
//!
//! [`Queue`] takes tasks and hands out [`Lease`]s; a [`Lease`] is the only way to change a running job; a [`LogTail`] follows a
//! task's log. All SQL is in `sql/`, all names in `schema.rs`, and `writer/` makes all changes.

mod claim;
mod clock;
mod connection;
mod crash;
pub mod events;
mod instance;
mod lease;
mod log_tail;
mod metrics;
mod open;
mod probe;
mod schema;
mod sql;
mod submit;
mod writer;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

pub use claim::{ClaimLimits, Claimed};
pub use clock::Clock;
pub use lease::{Checkpoint, DeviceCount, Job, Lease, LeaseError};
pub use log_tail::LogTail;
pub use metrics::{CauseLabel, QueueMetrics};
pub use open::{OpenError, QueueOptions};
pub use probe::ProbeError;
pub use submit::{Cancelled, Submitted};

use data_patch_failpoint as failpoint;
use data_patch_protocol::task;
use events::EventHub;
use task::{LogEntry, QuarantinedRow, TaskId, TaskState};

/// Why the queue did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    /// The file is locked, its disk is full or fails: trying again is right.
    #[error("{0}")]
    Unavailable(Arc<rusqlite::Error>),
    /// The file, or an entry in it, is not what this service wrote: waiting does not help.
    #[error("the queue's file is damaged, or was changed by another program: {0}")]
    Damaged(Arc<rusqlite::Error>),
    /// Nobody knows whether trying again helps.
    #[error("unexpected: {0}")]
    Unknown(Arc<rusqlite::Error>),
    #[error("the queue is closed: the service is stopping")]
    Closed,
}

impl QueueError {
    /// A word for its kind, for metrics.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "away",
            Self::Damaged(_) => "damaged",
            Self::Unknown(_) => "unknown",
            Self::Closed => "closed",
        }
    }

    fn of(error: rusqlite::Error) -> Self {
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

/// A task as it is stored.
#[derive(Debug, Clone)]
pub struct TaskRow {
    pub id: TaskId,
    pub thing: Uuid,
    pub topic: String,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    pub state: TaskState,
    pub last_seq: u64,
    pub created_at_ms: i64,
    /// Somebody asked to cancel it; its running jobs are stopping.
    pub cancel_requested: bool,
}

/// How much there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Jobs that have not ended.
    pub jobs: u64,
    /// How long the job that has waited longest has been due; zero where none is.
    pub oldest_due: Duration,
}

/// A handle; clones are the same queue.
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
    /// Told when something may have become claimable.
    work: Notify,
    /// Told when a task was steered in this process.
    steered: Notify,
    owner: instance::ServiceInstance,
    file: probe::Identity,
    /// Ends the look-out for what other processes write.
    _listening: DropGuard,
}

impl Queue {
    /// A task, if there is one of this id.
    ///
    /// # Errors
    /// The file can't be read.
    pub async fn task(&self, id: TaskId) -> Result<Option<TaskRow>, QueueError> {
        Ok(self.inner.readers.rows(sql::task(id), sql::read_task).await?.pop())
    }

    /// The lines of a task's log after `seq`, in order, at most `limit`.
    ///
    /// # Errors
    /// The file can't be read.
    pub async fn log_after(&self, task: TaskId, seq: u64, limit: u64) -> Result<Vec<LogEntry>, QueueError> {
        self.inner.readers.rows(sql::log_after(task, seq, limit), move |row| sql::read_log_entry(task, row)).await
    }

    /// The rows of a task that were held back, with their devices.
    ///
    /// # Errors
    /// The file can't be read.
    pub async fn quarantined_rows(&self, task: TaskId) -> Result<Vec<(Uuid, QuarantinedRow)>, QueueError> {
        self.inner.readers.rows(sql::quarantined_rows(task), sql::read_quarantined).await
    }

    /// How much there is to do.
    ///
    /// # Errors
    /// The file can't be read.
    pub async fn backlog(&self) -> Result<Backlog, QueueError> {
        let (jobs, due_at) = self.inner.readers.rows(sql::backlog(), sql::read_backlog).await?.pop().unwrap_or_default();
        // Of a job that is running the end of its lease counts, which is not over.
        let waited_ms = due_at.map_or(0, |due_at| self.inner.clock.steady_ms().saturating_sub(due_at));
        Ok(Backlog { jobs, oldest_due: Duration::from_millis(waited_ms.try_into().unwrap_or(0)) })
    }

    /// Follows a task's log from the line after `after`.
    pub fn tail(&self, task: TaskId, after: u64) -> LogTail {
        LogTail::new(self.clone(), self.inner.hub.subscribe(task), task, after)
    }

    /// Waits until something may have become claimable in this process. Work of other processes is found by asking.
    pub async fn work_arrived(&self) {
        self.inner.work.notified().await;
    }

    /// Waits until a task is steered (cancelled) in this process. What other processes steer is found by asking.
    pub async fn task_steered(&self) {
        self.inner.steered.notified().await;
    }

    /// The tasks that somebody asked to cancel and whose running jobs have not all stopped yet.
    ///
    /// # Errors
    /// The file can't be read.
    pub async fn tasks_being_cancelled(&self) -> Result<Vec<TaskId>, QueueError> {
        self.inner.readers.rows(sql::tasks_being_cancelled(), sql::read_task_id).await
    }

    /// Removes tasks that ended before `before_ms`, a few at a time so that nobody waits for long. Returns how many.
    ///
    /// # Errors
    /// The file can't be written.
    pub async fn prune(&self, before_ms: i64) -> Result<u64, QueueError> {
        let mut removed = 0;
        loop {
            // A task may have thousands of jobs and lines, or one.
            let some = move |tx: &mut writer::Tx<'_>| {
                let mut tasks = 0;
                while !tx.is_full() && tx.run(&sql::prune(before_ms, 1))? > 0 {
                    tasks += 1;
                }
                Ok((tasks, tx.is_full()))
            };
            let (tasks, is_full) = self.inner.writer.write_large(some).await?;
            removed += tasks;
            if !is_full {
                return Ok(removed);
            }
        }
    }

    /// What it counts.
    pub fn metrics(&self) -> &QueueMetrics {
        &self.inner.metrics
    }

    /// Waits until the thread that writes has died. Nothing can be stored any more, and the process should end.
    pub async fn writer_died(&self) {
        self.inner.writer.died().await;
    }

    /// Milliseconds since 1970 by the wall clock.
    pub fn now_ms(&self) -> i64 {
        self.inner.clock.wall_ms()
    }

    /// Finishes the changes that wait, hands back the leases that workers of this service could not hand back themselves, and
    /// closes the file. What is asked later is refused.
    pub async fn close(&self) {
        let owner = self.owner();
        match self.inner.writer.write(move |tx| tx.run(&sql::release_all(&owner, tx.now_ms))).await {
            Ok(0) | Err(QueueError::Closed) => {}
            Ok(jobs) => {
                tracing::warn!(jobs, "jobs were handed back by the queue; they go on from their cursors at the next start");
            }
            Err(error) => {
                tracing::warn!(%error, "leases could not be handed back; the next service on this queue ends them");
                self.inner.owner.leave_leases();
            }
        }
        self.inner.writer.close().await;
        self.inner.readers.close();
    }
}

/// Tells watchers here of lines that other processes wrote to the same file.
async fn poll_other_processes(readers: connection::Readers, hub: EventHub, stop: CancellationToken) {
    /// What a watcher waits for a line of another process, at the most.
    const POLL_INTERVAL: std::time::Duration = std::time::Duration::from_millis(250);
    /// SQLite's limit of variables in a statement is far above it.
    const MAX_TASKS_PER_QUERY: usize = 500;
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        for tasks in hub.subscribed_tasks().chunks(MAX_TASKS_PER_QUERY) {
            // A file that can't be read just now can be in a moment, and others report it.
            let lengths = readers.rows(sql::last_seqs(tasks), sql::read_log_length).await.unwrap_or_default();
            for (task, last_seq) in lengths {
                hub.advance_tail(task, last_seq);
            }
        }
    }
}
