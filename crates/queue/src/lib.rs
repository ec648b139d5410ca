#![doc = include_str!("../README.md")]
//!
//! # Where to look
//!
//! [`Queue`] stores tasks and leases their jobs. A [`Lease`] is the only way to change a running
//! job. A [`LogTail`] follows a task's log.
//!
//! The rules are pure functions in `policy/`. What a store must do and guarantee is written at
//! `trait Store` (`store/mod.rs`), and all that is SQLite is in `store/sqlite/`.

mod claim;
mod clock;
mod copy;
mod error;
mod instances;
mod lease;
mod list;
pub mod log_hub;
mod log_tail;
mod metrics;
mod open;
mod policy;
mod probe;
mod steer;
mod store;
mod submit;

use std::{
    num::NonZeroU32,
    sync::{Arc, Weak},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

pub use claim::{ClaimLimits, Claimed};
pub use clock::Clock;
pub use copy::{CopyError, CopyPhase, CopyProgress, CopyReport, copy};
pub use error::QueueError;
pub use instances::{InstanceProcess, InstanceRow};
pub use lease::{Checkpoint, DeviceCount, Job, Lease, LeaseError};
pub use list::{JobRow, OverlapQuery, QuarantineCursor, TaskDetail, TaskFilter, TaskPage, TaskTotals};
pub use log_tail::LogTail;
pub use metrics::{CauseLabel, QueueMetrics};
pub use open::{OpenError, QueueOptions};
pub use probe::ProbeError;
pub use steer::{Steer, Steered, Steering};
pub use submit::{Submission, Submitted};

use data_patch_failpoint as failpoint;
use data_patch_protocol::task;
use log_hub::LogHub;
use store::{AnyStore, Store};
use task::{LogEntry, QuarantinedRow, Requester, TaskId, TaskState};

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
    /// None of its jobs is claimed until it is resumed.
    pub is_paused: bool,
    /// The most rows a second of the whole task.
    pub rate: Option<NonZeroU32>,
    pub request_id: Option<String>,
    pub reason: Option<String>,
    /// Who asked for it; `None` for tasks of older versions.
    pub requester: Option<Requester>,
    /// The task whose devices it tries again.
    pub retry_of: Option<TaskId>,
    /// Milliseconds since 1970.
    pub finished_at_ms: Option<i64>,
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

/// A subscription to the tasks that this process finishes ([`Queue::finished_tasks`]).
pub struct FinishedTasks(broadcast::Receiver<LogEntry>);

impl FinishedTasks {
    /// The next last entry. `Err` is the number of entries that were missed because more than 1,024
    /// waited; `None` means that the queue is gone.
    pub async fn next(&mut self) -> Option<Result<LogEntry, u64>> {
        match self.0.recv().await {
            Ok(entry) => Some(Ok(entry)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Err(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

struct Inner {
    store: AnyStore,
    metrics: QueueMetrics,
    hub: LogHub,
    /// Notified when a job may have become claimable.
    work: Notify,
    /// Notified when a task is steered in this process.
    steering_changed: Notify,
    /// Stops [`poll_other_instances`] when it is dropped.
    _polling: DropGuard,
}

impl Queue {
    /// The task with this id, if it exists.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn task(&self, id: TaskId) -> Result<Option<TaskRow>, QueueError> {
        self.inner.store.task(id).await
    }

    /// At most `limit` entries of a task's log after `seq`, in order.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn log_after(&self, task: TaskId, seq: u64, limit: u64) -> Result<Vec<LogEntry>, QueueError> {
        self.inner.store.log_after(task, seq, limit).await
    }

    /// The quarantined rows of a task, each with its device.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn quarantined_rows(&self, task: TaskId) -> Result<Vec<(Uuid, QuarantinedRow)>, QueueError> {
        self.inner.store.quarantined_rows(task).await
    }

    /// The number of unfinished jobs, and the age of the oldest due one.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn backlog(&self) -> Result<Backlog, QueueError> {
        self.inner.store.backlog().await
    }

    /// Follows a task's log from the entry after `after`.
    pub fn tail(&self, task: TaskId, after: u64) -> LogTail {
        LogTail::new(self.clone(), self.inner.hub.subscribe(task), task, after)
    }

    /// The last entries of the logs of the tasks that this process finishes from now on.
    pub fn finished_tasks(&self) -> FinishedTasks {
        FinishedTasks(self.inner.hub.finished())
    }

    /// Waits until a job may have become claimable in this process. Work that other processes add
    /// is only found by polling.
    pub async fn work_arrived(&self) {
        self.inner.work.notified().await;
    }

    /// Removes tasks that finished before `before_ms` (milliseconds since 1970) and returns their
    /// number. They are removed in several transactions, so that other writers do not wait for
    /// long.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn prune(&self, before_ms: i64) -> Result<u64, QueueError> {
        self.inner.store.prune(before_ms).await
    }

    /// The queue's metrics.
    pub fn metrics(&self) -> &QueueMetrics {
        &self.inner.metrics
    }

    /// Waits until the writer thread has panicked. Nothing can be written any more, so the process
    /// should exit.
    pub async fn writer_died(&self) {
        self.inner.store.died().await;
    }

    /// The kind of database that the queue is in, to be shown.
    pub fn kind(&self) -> &'static str {
        self.inner.store.kind()
    }

    /// The wall-clock time in milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        self.inner.store.now_ms()
    }

    /// Completes the pending writes, releases the leases that this service still has, and closes
    /// the file. Later calls return [`QueueError::Closed`].
    pub async fn close(&self) {
        match self.inner.store.release_all().await {
            Ok(0) | Err(QueueError::Closed) => {}
            Ok(jobs) => {
                tracing::warn!(
                    jobs,
                    "the queue released leases that workers had not released; the jobs resume from their checkpoints at the next start"
                );
            }
            Err(error) => {
                tracing::warn!(%error, "leases could not be released; the next service on this queue expires them");
            }
        }
        self.inner.store.close().await;
    }
}

/// Signals log entries that other instances committed to the subscribers in this process.
async fn poll_other_instances(inner: Weak<Inner>, hub: LogHub, stop: CancellationToken) {
    /// The longest delay until a subscriber sees an entry of another instance.
    const POLL_INTERVAL: Duration = Duration::from_millis(250);
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // While this waits, the queue may be dropped.
        let Some(logged) = inner.upgrade().map(|inner| inner.store.others_logged()) else { return };
        tokio::select! {
            () = stop.cancelled() => return,
            () = logged => {}
            _ = ticks.tick() => {}
        }
        let tasks = hub.subscribed_tasks();
        if tasks.is_empty() {
            continue;
        }
        let Some(inner) = inner.upgrade() else { return };
        // A failed read is retried at the next tick. Other readers report the error.
        for (task, last_seq) in inner.store.last_seqs(&tasks).await.unwrap_or_default() {
            hub.advance_tail(task, last_seq);
        }
    }
}
