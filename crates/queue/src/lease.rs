//! The lease: a worker's time-limited right to a job, and the only way to change a running job.
//!
//! Every write is conditional on the attempt number. If no row changed, the lease is lost and the
//! worker must stop.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{Queue, QueueError, TaskRow};
use crate::{
    store::Store,
    task::{Event, JobChange, Progress, QuarantinedRow},
};

/// Why a write to a job failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LeaseError {
    /// The job belongs to another attempt or is no longer running. Results of this attempt do not
    /// count.
    #[error("the lease is lost: another worker has the job, or its task was cancelled")]
    Lost,
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// A job, as it was when it was leased.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: i64,
    pub task: Arc<TaskRow>,
    pub device: Uuid,
    /// The name of the device; known once its rows are counted.
    pub name: Option<String>,
    /// The number of this attempt. It is the fencing token of the lease.
    pub attempt: i64,
    /// Whose lease it is.
    pub owner: Arc<str>,
    /// Consecutive outages without a row published in between.
    pub outages: u32,
    /// The job was in progress at several crashes. At most one such job runs at a time.
    pub is_suspect: bool,
    /// Rows in the range, if this or an earlier attempt counted them.
    pub total: Option<u64>,
    /// The last stored checkpoint.
    pub progress: Progress,
    /// The source layout that the checkpoint's position belongs to, if known.
    pub layout: Option<String>,
}

impl Job {
    /// Whether `progress` covers more rows than the job's progress when it was leased.
    pub fn has_progressed(&self, progress: &Progress) -> bool {
        progress.rows() > self.progress.rows()
    }

    /// The number of consecutive outages, if this attempt ends with one.
    pub fn next_outage_count(&self, has_progressed: bool) -> u32 {
        if has_progressed { 1 } else { self.outages.saturating_add(1) }
    }
}

/// The right to work on a job until [`remaining`](Self::remaining) is zero.
pub struct Lease {
    queue: Queue,
    /// Shared with the writes of the lease.
    pub job: Arc<Job>,
    /// For how long a claim or renewal is valid.
    duration: Duration,
    /// When the claim was requested.
    claimed: Instant,
    /// When the lease expires, in milliseconds after `claimed`.
    expires_ms: AtomicU64,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("job", &self.job).finish_non_exhaustive()
    }
}

/// One write to a job.
#[derive(Debug, Default)]
pub(crate) struct JobUpdate {
    /// The state change, and the delay until the job may be claimed again if it returns to the
    /// queue. `None` renews the lease.
    pub change: Option<(JobChange, Option<Duration>)>,
    pub counted: Option<DeviceCount>,
    pub progress: Option<Progress>,
    pub layout: Option<String>,
    pub quarantined: Vec<QuarantinedRow>,
    pub events: Vec<Event>,
    pub reason: Option<String>,
    /// Whether the job waits for the source or Kafka, if that has changed.
    pub waiting: Option<bool>,
    /// Rows that were sent to Kafka and not acknowledged.
    pub unanswered: Option<u64>,
    pub rows_per_second: Option<f64>,
}

/// The name of a device and the number of its rows in the range.
#[derive(Debug, Clone)]
pub struct DeviceCount {
    pub name: Option<String>,
    pub total: u64,
}

/// The state of a job that a worker stores.
#[derive(Debug, Clone, Default)]
pub struct Checkpoint {
    /// Set once, when the rows are counted. It is logged before `events`.
    pub counted: Option<DeviceCount>,
    /// The position and the number of rows up to it.
    pub progress: Progress,
    /// The source layout that the position belongs to.
    pub layout: Option<String>,
    /// Rows quarantined since the previous checkpoint.
    pub quarantined: Vec<QuarantinedRow>,
    /// Events to append to the task's log.
    pub events: Vec<Event>,
    /// Whether the job waits for the source or Kafka, if that has changed. A crash is not counted
    /// against a waiting job.
    pub waiting: Option<bool>,
    /// The present speed in rows a second, to be shown.
    pub rows_per_second: Option<f64>,
}

impl Lease {
    pub(super) fn new(queue: Queue, job: Job, claimed: Instant, duration: Duration) -> Self {
        let expires_ms = AtomicU64::new(duration.as_millis() as u64);
        Self { queue, job: Arc::new(job), duration, claimed, expires_ms }
    }

    /// The time until the lease expires, or others may take this instance for dead; zero once that
    /// may have happened. It is measured by this machine's steady clock from before the renewal was
    /// requested, so a process that was frozen detects at once that its lease may have expired.
    pub fn remaining(&self) -> Duration {
        let confirmed_at = self.claimed + self.valid_for().saturating_sub(self.duration);
        self.until_expiry().min(self.queue.inner.store.alive_for(confirmed_at))
    }

    /// From when it was claimed until it expires.
    fn valid_for(&self) -> Duration {
        Duration::from_millis(self.expires_ms.load(Ordering::Relaxed))
    }

    fn until_expiry(&self) -> Duration {
        self.valid_for().saturating_sub(self.claimed.elapsed())
    }

    /// Whether to renew the lease even if there is nothing to store: half of it is over. That others
    /// see that this instance is alive is none of its concern.
    pub fn is_renewal_due(&self) -> bool {
        self.until_expiry() <= self.duration / 2
    }

    /// Stores a checkpoint and renews the lease.
    ///
    /// # Errors
    /// The lease is lost, or the queue is unavailable.
    pub async fn checkpoint(&self, checkpoint: Checkpoint) -> Result<(), LeaseError> {
        self.write(JobUpdate::from(checkpoint)).await
    }

    /// Ends the job as succeeded: every row is acknowledged or quarantined.
    ///
    /// # Errors
    /// The lease is lost, or the queue is unavailable.
    pub async fn succeed(&self, checkpoint: Checkpoint) -> Result<(), LeaseError> {
        self.write(JobUpdate { change: Some((JobChange::Succeed, None)), ..checkpoint.into() }).await
    }

    /// Ends the job as failed, for a reason that a retry does not change.
    ///
    /// # Errors
    /// The lease is lost, or the queue is unavailable.
    pub async fn fail(&self, checkpoint: Checkpoint, reason: String) -> Result<(), LeaseError> {
        self.write(JobUpdate { change: Some((JobChange::Fail, None)), reason: Some(reason), ..checkpoint.into() }).await
    }

    /// Returns the job to the queue because of an outage. It may be claimed again after `wait`.
    ///
    /// # Errors
    /// The lease is lost, or the queue is unavailable.
    pub async fn retry(&self, checkpoint: Checkpoint, wait: Duration) -> Result<(), LeaseError> {
        self.write(JobUpdate { change: Some((JobChange::Retry, Some(wait))), ..checkpoint.into() }).await
    }

    /// Ends the job because its task is cancelled. Up to `unanswered` rows were sent to Kafka
    /// without an acknowledgement and may still arrive.
    ///
    /// # Errors
    /// The lease is lost, or the queue is unavailable.
    pub async fn cancel(&self, checkpoint: Checkpoint, unanswered: u64) -> Result<(), LeaseError> {
        let unanswered = Some(unanswered);
        self.write(JobUpdate { change: Some((JobChange::Cancel, None)), unanswered, ..checkpoint.into() }).await
    }

    /// Returns the job to the queue, to be claimed at once.
    ///
    /// # Errors
    /// The lease is lost, or the queue is unavailable.
    pub async fn release(&self, checkpoint: Checkpoint) -> Result<(), LeaseError> {
        self.write(JobUpdate { change: Some((JobChange::Release, Some(Duration::ZERO))), ..checkpoint.into() }).await?;
        self.queue.inner.work.notify_one();
        Ok(())
    }

    async fn write(&self, update: JobUpdate) -> Result<(), LeaseError> {
        let requested = self.claimed.elapsed();
        let is_valid = self.queue.inner.store.update_job(Arc::clone(&self.job), update, self.duration).await?;
        if !is_valid {
            // Counted once per lease, however often its holder retries.
            if self.expires_ms.swap(0, Ordering::Relaxed) > 0 {
                self.queue.inner.metrics.leases_lost.inc();
            }
            return Err(LeaseError::Lost);
        }
        self.expires_ms.store((requested + self.duration).as_millis() as u64, Ordering::Relaxed);
        Ok(())
    }
}

impl From<Checkpoint> for JobUpdate {
    fn from(Checkpoint { counted, progress, layout, quarantined, events, waiting, rows_per_second }: Checkpoint) -> Self {
        Self { counted, progress: Some(progress), layout, quarantined, events, waiting, rows_per_second, ..Self::default() }
    }
}
