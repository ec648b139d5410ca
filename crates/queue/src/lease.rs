//! The lease: a worker's right to a job for a while, and the only way to change a running job.
//!
//! Every write is conditional on the attempt; when no row changed, the lease is lost and the work must stop.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{Queue, QueueError, TaskRow, sql, writer::Tx};
use crate::{
    failpoint,
    task::{Event, JobChange, JobState, MAX_NAMED, Progress, QuarantinedRow, Summary, TaskState},
};

/// Why a write to a job was not made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LeaseError {
    /// Another worker has the job, or had it; what this one does no longer counts.
    #[error("the lease is lost: another worker has the job, or its task was cancelled")]
    Lost,
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// A job as it was when it was leased.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: i64,
    pub task: Arc<TaskRow>,
    pub device: Uuid,
    /// Known once its rows were counted.
    pub name: Option<String>,
    /// The fencing token.
    pub attempt: i64,
    /// Outages in a row with no row published in between.
    pub outages: u32,
    /// It was in progress at several crashes: no other such job runs beside it.
    pub is_suspect: bool,
    /// Rows counted, by this worker or one before it.
    pub total: Option<u64>,
    /// How far it has got.
    pub progress: Progress,
    /// How the store was laid out when its cursor was stored, where that is known.
    pub layout: Option<String>,
}

impl Job {
    /// Whether rows were done with since it was leased.
    pub fn has_progressed(&self, progress: &Progress) -> bool {
        progress.rows() > self.progress.rows()
    }

    /// Outages in a row, if there is one now.
    pub fn next_outage_count(&self, grown: bool) -> u32 {
        if grown { 1 } else { self.outages.saturating_add(1) }
    }
}

/// The right to work on a job.
pub struct Lease {
    queue: Queue,
    pub job: Job,
    length: Duration,
    claimed: Instant,
    /// When it ends unless it is renewed, in milliseconds after `claimed`.
    ends_ms: AtomicU64,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("job", &self.job).finish_non_exhaustive()
    }
}

/// What is written to a job in one go.
#[derive(Debug, Default)]
pub(super) struct JobUpdate {
    /// What happens to it, and when it may be claimed if it goes back. `None`: it is renewed.
    pub change: Option<(JobChange, Option<Duration>)>,
    pub counted: Option<DeviceCount>,
    pub progress: Option<Progress>,
    pub layout: Option<String>,
    pub held: Vec<QuarantinedRow>,
    pub events: Vec<Event>,
    pub reason: Option<String>,
    /// Whether it stands still, where that has changed.
    pub waiting: Option<bool>,
    /// Rows on the wire to Kafka with no answer.
    pub unanswered: Option<u64>,
}

/// A device whose rows were counted.
#[derive(Debug, Clone)]
pub struct DeviceCount {
    pub name: Option<String>,
    pub total: u64,
}

/// How far the work has got since the last report.
#[derive(Debug, Clone, Default)]
pub struct Checkpoint {
    /// Said in the log before all else.
    pub counted: Option<DeviceCount>,
    pub progress: Progress,
    /// How the store is laid out that the cursor is in.
    pub layout: Option<String>,
    /// Rows held back that were not reported yet.
    pub held: Vec<QuarantinedRow>,
    /// What the log is to say of it.
    pub events: Vec<Event>,
    /// Whether the job stands still, waiting for the store or Kafka, where that has changed: a crash is then not its fault.
    pub waiting: Option<bool>,
}

impl Lease {
    pub(super) fn new(queue: Queue, job: Job, claimed: Instant, length: Duration) -> Self {
        let ends_ms = AtomicU64::new(length.as_millis() as u64);
        Self { queue, job, length, claimed, ends_ms }
    }

    /// How long it lasts unless it is renewed; zero when it is over. Counted by this machine's steady clock, from
    /// before the renewal was asked for, so a process that was frozen knows at once that it may be too late.
    pub fn remaining(&self) -> Duration {
        Duration::from_millis(self.ends_ms.load(Ordering::Relaxed)).saturating_sub(self.claimed.elapsed())
    }

    /// Stores what is reported, and renews.
    ///
    /// # Errors
    /// The lease is lost, or the queue is away.
    pub async fn checkpoint(&self, report: Checkpoint) -> Result<(), LeaseError> {
        self.write(JobUpdate::from(report)).await
    }

    /// All rows are done with.
    ///
    /// # Errors
    /// The lease is lost, or the queue is away.
    pub async fn succeed(&self, report: Checkpoint) -> Result<(), LeaseError> {
        self.write(JobUpdate { change: Some((JobChange::Succeed, None)), ..report.into() }).await
    }

    /// It can't get better.
    ///
    /// # Errors
    /// The lease is lost, or the queue is away.
    pub async fn fail(&self, report: Checkpoint, reason: String) -> Result<(), LeaseError> {
        self.write(JobUpdate { change: Some((JobChange::Fail, None)), reason: Some(reason), ..report.into() }).await
    }

    /// Something is away: back to the queue for a while.
    ///
    /// # Errors
    /// The lease is lost, or the queue is away.
    pub async fn retry(&self, report: Checkpoint, wait: Duration) -> Result<(), LeaseError> {
        self.write(JobUpdate { change: Some((JobChange::Retry, Some(wait))), ..report.into() }).await
    }

    /// Its task is cancelled, and nothing of it is sent any more. `unanswered` rows were on the wire to Kafka with no answer, and
    /// may still arrive.
    ///
    /// # Errors
    /// The lease is lost, or the queue is away.
    pub async fn cancel(&self, report: Checkpoint, unanswered: u64) -> Result<(), LeaseError> {
        let unanswered = Some(unanswered);
        self.write(JobUpdate { change: Some((JobChange::Cancel, None)), unanswered, ..report.into() }).await
    }

    /// Back to the queue, to be claimed at once.
    ///
    /// # Errors
    /// The lease is lost, or the queue is away.
    pub async fn release(&self, report: Checkpoint) -> Result<(), LeaseError> {
        self.write(JobUpdate { change: Some((JobChange::Release, Some(Duration::ZERO))), ..report.into() }).await?;
        self.queue.inner.work.notify_one();
        Ok(())
    }

    async fn write(&self, write: JobUpdate) -> Result<(), LeaseError> {
        let (job, length) = (self.job.clone(), self.length);
        let asked = self.claimed.elapsed();
        let held = self.queue.inner.writer.write(move |tx| apply(tx, &job, &write, tx.now_ms + millis(length))).await?;
        if !held {
            // Once for each lease, however often its holder tries.
            if self.ends_ms.swap(0, Ordering::Relaxed) > 0 {
                self.queue.inner.metrics.leases_lost.inc();
            }
            return Err(LeaseError::Lost);
        }
        self.ends_ms.store((asked + self.length).as_millis() as u64, Ordering::Relaxed);
        Ok(())
    }
}

impl From<Checkpoint> for JobUpdate {
    fn from(Checkpoint { counted, progress, layout, held, events, waiting }: Checkpoint) -> Self {
        Self { counted, progress: Some(progress), layout, held, events, waiting, ..Self::default() }
    }
}

/// Makes a write, if the attempt still has the lease; tells whether it had. The task ends with its last job.
pub(super) fn apply(tx: &mut Tx<'_>, job: &Job, write: &JobUpdate, until_ms: i64) -> rusqlite::Result<bool> {
    let mut change = write.change;
    if let Some((JobChange::Retry | JobChange::Release, _)) = change
        && !tx.rows(&sql::cancel_requested(job.task.id), |_| Ok(()))?.is_empty()
    {
        // Cancelled before its worker heard of it.
        change = Some((JobChange::Cancel, None));
    }
    let (state, due_at) = match change {
        None => (JobState::Running, Some(until_ms)),
        Some((change, wait)) => {
            let state = JobState::Running.after(change).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
            (state, wait.map(|wait| tx.now_ms + millis(wait)))
        }
    };
    let grown = write.progress.as_ref().is_some_and(|progress| job.has_progressed(progress));
    let changes = sql::JobWrite {
        name: write.counted.as_ref().and_then(|counted| counted.name.as_deref()),
        total: write.counted.as_ref().map(|counted| counted.total),
        progress: write.progress.as_ref(),
        layout: write.layout.as_deref(),
        outages: match change {
            Some((JobChange::Retry, _)) => Some(job.next_outage_count(grown)),
            None if !grown => None,
            _ => Some(0),
        },
        reason: write.reason.as_deref(),
        waiting: write.waiting.or(change.is_some().then_some(false)),
        unanswered: write.unanswered,
    };
    if tx.run(&sql::write_job(job.id, job.attempt, state, due_at, &changes))? == 0 {
        return Ok(false);
    }
    let mut events = Vec::with_capacity(write.events.len() + 2);
    if let Some(DeviceCount { name, total }) = &write.counted {
        events.push(Event::Counted { device: job.device, name: name.clone(), total: *total });
    }
    events.extend(write.events.iter().cloned());
    if write.change.is_none() && write.progress.is_some() {
        failpoint::hit("heartbeat");
    }
    for row in &write.held {
        tx.run(&sql::insert_quarantined(job.task.id, job.device, row, tx.wall_ms))?;
    }
    let mut final_state = None;
    if state.is_final() {
        final_state = finish_task_if_done(tx, &job.task, &mut events)?;
    }
    if !events.is_empty() {
        tx.log(job.task.id, events, final_state)?;
    }
    Ok(true)
}

/// How a task ends that has no work left; its last event is added to `events`, and ends it when it is logged. `None`: it has work
/// left.
pub(super) fn finish_task_if_done(tx: &Tx<'_>, task: &TaskRow, events: &mut Vec<Event>) -> rusqlite::Result<Option<TaskState>> {
    if !tx.rows(&sql::has_open_jobs(task.id), |_| Ok(()))?.is_empty() {
        return Ok(None);
    }
    let Some(totals) = tx.rows(&sql::task_totals(task.id), sql::read_task_totals)?.pop() else { return Ok(None) };
    let failures = match totals.jobs.failed {
        0 => Vec::new(),
        _ => tx.rows(&sql::failures(task.id, MAX_NAMED as u64), sql::read_failure)?,
    };
    failpoint::hit("last-event");
    let sql::TaskTotals { jobs, published, quarantined, unanswered, empty } = totals;
    events.push(Event::Finished(Summary {
        devices: jobs.into(),
        published,
        quarantined,
        unanswered,
        empty_devices: empty,
        took_ms: u64::try_from(tx.wall_ms - task.created_at_ms).unwrap_or(0),
        failures,
    }));
    Ok(Some(TaskState::of(jobs)))
}

/// A length of time as the queue counts it.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}
