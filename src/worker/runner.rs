//! Runs one leased job: the replay, the heartbeat beside it, and the write that ends it.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    Pool, aligned_interval::AlignedInterval, heartbeat::Heartbeat, rate::TaskRate, slots::SlotGuard, waiting::WaitState,
};
use crate::{
    failpoint,
    queue::{Checkpoint, DeviceCount, Lease, LeaseError},
    replay::{self, LeaseExpired, Outcome, Replay},
    sink::kafka::AckTracker,
    task::{Event, Progress, QuarantinedRow},
    telemetry::traces::TraceSpan,
};

/// Signals to a job, and the times of its periodic writes.
#[derive(Clone)]
pub struct JobSignals {
    /// Stop reading, wait for the rows in flight, and release the lease.
    pub stop: CancellationToken,
    /// The task is cancelled: like `stop`, but the job ends.
    pub cancel: CancellationToken,
    /// Do not wait for the rows in flight any longer.
    pub abort: CancellationToken,
    /// When checkpoints are stored.
    pub checkpoints: AlignedInterval,
    /// When progress is logged.
    pub progress_logs: AlignedInterval,
    /// The rate of the task.
    pub rate: Arc<TaskRate>,
}

/// Runs a leased job until it ends, is asked to stop, or loses its lease.
///
/// The slot is freed when the work is over, before the end of the job is stored: the claim of the
/// next job then commits in the same transaction.
pub async fn run(pool: Arc<Pool>, lease: Lease, signals: JobSignals, slot: SlotGuard) {
    // A span of level ERROR, so that warnings and errors carry task and device at every log level.
    let span = tracing::error_span!("job", task = %lease.job.task.id, device = %lease.job.device, attempt = lease.job.attempt);
    LeaseRunner::new(pool, lease, signals).run(slot).instrument(span).await;
}

pub(super) struct LeaseRunner {
    pub pool: Arc<Pool>,
    pub lease: Lease,
    pub acks: Arc<AckTracker>,
    pub signals: JobSignals,
    pub count: RowCount,
    pub wait_state: WaitState,
    /// This attempt, in the trace of its task.
    pub span: TraceSpan,
}

/// The delay before a failed write to the queue is retried.
pub(super) const WRITE_RETRY_DELAY: Duration = Duration::from_millis(250);

/// An error of an unknown kind fails the job after this many consecutive attempts.
const MAX_UNKNOWN_ERRORS: u32 = 10;

/// The row count of the last progress entry, and the earliest time of the next one.
pub(super) struct LastProgressLog {
    pub published: u64,
    pub next_at: Instant,
}

impl LeaseRunner {
    fn new(pool: Arc<Pool>, lease: Lease, signals: JobSignals) -> Self {
        let mut progress = lease.job.progress.clone();
        // An attempt that ended in order has said so.
        progress.delivered.lost_worker |= lease.job.attempt > 1 && !progress.delivered.settled;
        let acks = Arc::new(AckTracker::new(progress));
        let count = RowCount::new(lease.job.total);
        let span = pool.traces.start(lease.job.task.id.0, "job");
        span.set("data_patch.device", lease.job.device);
        span.set("data_patch.attempt", lease.job.attempt);
        Self { pool, lease, acks, signals, count, wait_state: WaitState::default(), span }
    }

    async fn run(self, slot: SlotGuard) {
        let job = &self.lease.job;
        let replay = Replay {
            task: job.task.id,
            thing: job.task.thing,
            device: job.device,
            topic: job.task.topic.clone(),
            from: job.task.from,
            to: job.task.to,
            total: job.total,
            layout: job.layout.clone(),
        };
        let signals = replay::Signals { stop: self.signals.stop.clone(), abort: self.signals.abort.clone() };
        let context = LeaseContext {
            lease: &self.lease,
            count: &self.count,
            wait_state: &self.wait_state,
            rate: &self.signals.rate,
            span: &self.span,
        };
        let done = CancellationToken::new();
        let work = async {
            let outcome = self.pool.replay_runner.run(&replay, &self.acks, &context, &signals).await;
            done.cancel();
            outcome
        };
        let mut heartbeat = Heartbeat::new(&self, &slot);
        let (outcome, is_lost) = tokio::join!(work, heartbeat.run(&done));
        let (logged, counted_rows) = heartbeat.into_parts();
        let outcome = match outcome {
            Ok(outcome) if !is_lost => self.finish(outcome, &logged, slot).await,
            outcome => {
                let reason = outcome.err().map_or_else(|| "the lease is lost".to_owned(), |error| error.to_string());
                tracing::warn!(
                    reason,
                    "the job is abandoned; rows that were sent after the last checkpoint are sent again by the next worker"
                );
                "lost"
            }
        };
        self.pool.metrics.job_attempt(outcome);
        let counts = self.count_rows(&counted_rows);
        self.end_span(outcome, &counts);
    }

    fn end_span(self, outcome: &'static str, counts: &Progress) {
        self.span.set("data_patch.outcome", outcome);
        self.span.set("data_patch.published", counts.published);
        self.span.set("data_patch.quarantined", counts.quarantined);
        self.span.end(matches!(outcome, "failed" | "lost").then(|| outcome.to_owned()));
    }

    /// Adds the rows since `before` to the metrics, and returns the present counts.
    pub fn count_rows(&self, before: &Progress) -> Progress {
        let now = self.acks.counts();
        self.pool.metrics.rows_published.inc_by(now.published.saturating_sub(before.published));
        self.pool.metrics.rows_quarantined.inc_by(now.quarantined.saturating_sub(before.quarantined));
        now
    }

    /// Stores the outcome of the attempt, and returns its name.
    async fn finish(&self, outcome: Outcome, logged: &LastProgressLog, slot: SlotGuard) -> &'static str {
        let job = &self.lease.job;
        let (mut progress, quarantined) = self.acks.checkpoint();
        progress.delivered.settled = !matches!(outcome, Outcome::Abandoned { unanswered: 1.. });
        let events = self.count.take_notes().into_iter().chain(self.quarantine_events(&quarantined)).collect();
        let (counted, layout) = (self.count.pending().take(), self.count.layout());
        let mut checkpoint = Checkpoint { counted, progress, layout, quarantined, events, waiting: None, rows_per_second: None };
        let (progress, events) = (&checkpoint.progress, &mut checkpoint.events);
        let (published, has_progressed) = (progress.published, job.has_progressed(progress));
        match &outcome {
            Outcome::Outage { dependency, .. } if !has_progressed => slot.open_breaker(*dependency),
            Outcome::Stopped | Outcome::Abandoned { .. } | Outcome::Unknown { .. } => {}
            Outcome::Outage { .. } | Outcome::Done | Outcome::Failed(_) => slot.close_breakers(),
        }
        drop(slot);
        let is_cancelled = self.signals.cancel.is_cancelled();
        let (name, written) = match outcome {
            Outcome::Done => {
                events.extend(self.final_events(progress));
                ("succeeded", self.write(checkpoint, |checkpoint| self.lease.succeed(checkpoint)).await)
            }
            Outcome::Stopped | Outcome::Outage { .. } | Outcome::Unknown { .. } if is_cancelled => {
                self.cancel(checkpoint, 0).await
            }
            Outcome::Abandoned { unanswered } if is_cancelled => self.cancel(checkpoint, unanswered).await,
            Outcome::Stopped => {
                failpoint::hit("releasing");
                if let Some(rows) = self.count.total().filter(|_| published > logged.published) {
                    events.push(Event::Published { device: job.device, published, total: rows });
                }
                ("released", self.write(checkpoint, |checkpoint| self.lease.release(checkpoint)).await)
            }
            Outcome::Abandoned { unanswered } => {
                tracing::warn!(
                    published,
                    unanswered,
                    "the job stops with rows that Kafka has not acknowledged; they are sent again after the next start"
                );
                ("abandoned", self.write(checkpoint, |checkpoint| self.lease.release(checkpoint)).await)
            }
            Outcome::Unknown { reason } if job.next_outage_count(has_progressed) >= MAX_UNKNOWN_ERRORS => {
                self.fail(checkpoint, format!("{reason} (tried {MAX_UNKNOWN_ERRORS} times in a row)")).await
            }
            Outcome::Outage { reason, .. } | Outcome::Unknown { reason } => {
                let backoff = self.backoff(job.next_outage_count(has_progressed));
                tracing::warn!(reason, published, ?backoff, "an outage: the job is retried after a backoff");
                self.span.set("data_patch.reason", reason.clone());
                events.push(Event::Waiting { device: job.device, published, reason, retry_ms: backoff.as_millis() as u64 });
                ("retried", self.write(checkpoint, |checkpoint| self.lease.retry(checkpoint, backoff)).await)
            }
            Outcome::Failed(reason) => self.fail(checkpoint, reason).await,
        };
        match written {
            Ok(()) => name,
            Err(error) => {
                tracing::warn!(%error, "the outcome of the job could not be stored; another worker resumes from its checkpoint when the lease expires");
                "lost"
            }
        }
    }

    async fn fail(&self, mut checkpoint: Checkpoint, reason: String) -> (&'static str, Result<(), LeaseError>) {
        let job = &self.lease.job;
        let published = checkpoint.progress.published;
        self.span.set("data_patch.reason", reason.clone());
        tracing::error!(reason, published, "the job failed; its task continues with the other devices");
        checkpoint.events.push(Event::Failed { device: Some(job.device), name: job.name.clone(), reason: reason.clone() });
        ("failed", self.write(checkpoint, |checkpoint| self.lease.fail(checkpoint, reason.clone())).await)
    }

    async fn cancel(&self, mut checkpoint: Checkpoint, unanswered: u64) -> (&'static str, Result<(), LeaseError>) {
        let published = checkpoint.progress.published;
        tracing::info!(published, unanswered, "the job ends because its task is cancelled");
        let device = self.lease.job.device;
        checkpoint.events.push(Event::Cancelled { device, published, unanswered, worker_died: false });
        ("cancelled", self.write(checkpoint, |checkpoint| self.lease.cancel(checkpoint, unanswered)).await)
    }

    /// The contract's final event of a device, preceded by one that explains a difference between
    /// the counted and the read rows.
    fn final_events(&self, progress: &Progress) -> Vec<Event> {
        let (device, read) = (self.lease.job.device, progress.published + progress.quarantined);
        let mismatch = self.count.total().filter(|counted| *counted != read);
        let mismatch = mismatch.map(|counted| Event::CountMismatch { device, counted, read });
        mismatch.into_iter().chain([Event::Published { device, published: progress.published, total: read }]).collect()
    }

    pub fn quarantine_events(&self, quarantined: &[QuarantinedRow]) -> Vec<Event> {
        if quarantined.is_empty() {
            return Vec::new();
        }
        tracing::warn!(
            rows = quarantined.len(),
            "rows are quarantined; the task's log and the quarantine table list them with reasons"
        );
        vec![Event::quarantined(self.lease.job.device, quarantined)]
    }

    /// Stores the end of the job, and retries while the lease is valid.
    async fn write<F>(&self, checkpoint: Checkpoint, write: impl Fn(Checkpoint) -> F) -> Result<(), LeaseError>
    where
        F: Future<Output = Result<(), LeaseError>>,
    {
        loop {
            match write(checkpoint.clone()).await {
                Err(LeaseError::Queue(error)) if self.lease.remaining() > WRITE_RETRY_DELAY => {
                    tracing::warn!(%error, "the outcome of the job cannot be stored yet; retrying while the lease is valid");
                    tokio::time::sleep(WRITE_RETRY_DELAY).await;
                }
                written => return written,
            }
        }
    }

    /// Exponential backoff with a limit, and with jitter so that jobs are not all retried at once.
    fn backoff(&self, outages: u32) -> Duration {
        let config = &self.pool.config;
        let max = Duration::from_millis(config.retry_max_ms);
        let doubled = Duration::from_millis(config.retry_initial_ms).saturating_mul(1 << (outages.saturating_sub(1)).min(20));
        doubled.min(max).mul_f64(0.5 + 0.5 * fastrand::f64())
    }
}

/// The row count of the device, and what is to be stored with the next checkpoint.
#[derive(Default)]
pub(super) struct RowCount {
    total: OnceLock<u64>,
    /// The count, until it is stored.
    pending: Mutex<Option<DeviceCount>>,
    layout: OnceLock<String>,
    /// Events that are not stored yet.
    notes: Mutex<Vec<Event>>,
}

impl RowCount {
    fn new(total: Option<u64>) -> Self {
        Self { total: total.map(OnceLock::from).unwrap_or_default(), ..Self::default() }
    }

    pub fn total(&self) -> Option<u64> {
        self.total.get().copied()
    }

    pub fn layout(&self) -> Option<String> {
        self.layout.get().cloned()
    }

    pub fn notes(&self) -> MutexGuard<'_, Vec<Event>> {
        // No code panics while it holds this lock.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn take_notes(&self) -> Vec<Event> {
        std::mem::take(&mut *self.notes())
    }

    pub fn restore_notes(&self, mut notes: Vec<Event>) {
        let mut newer = self.notes();
        notes.append(&mut newer);
        *newer = notes;
    }

    pub fn pending(&self) -> MutexGuard<'_, Option<DeviceCount>> {
        // No code panics while it holds this lock.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects a replay with its lease.
struct LeaseContext<'a> {
    lease: &'a Lease,
    count: &'a RowCount,
    wait_state: &'a WaitState,
    rate: &'a TaskRate,
    span: &'a TraceSpan,
}

impl replay::JobContext for LeaseContext<'_> {
    fn counted(&self, name: Option<String>, total: u64) {
        self.span.event("counted", || vec![("rows", total.into())]);
        *self.count.pending() = Some(DeviceCount { name, total });
        self.count.total.get_or_init(|| total);
    }

    fn layout(&self, layout: String) {
        self.count.layout.get_or_init(|| layout);
    }

    fn note(&self, text: String) {
        self.count.notes().push(Event::Note { device: self.lease.job.device, note: text });
    }

    async fn resume(&self) {
        self.wait_state.resume().await;
    }

    async fn pace(&self, rows: usize) -> usize {
        let rows = self.rate.take(rows).await;
        self.span.event("rows read", || vec![("rows", (rows as u64).into())]);
        rows
    }

    fn ensure_lease_valid(&self) -> Result<(), LeaseExpired> {
        if self.lease.remaining().is_zero() {
            return Err(LeaseExpired("the lease may have expired: it was not renewed in time".to_owned()));
        }
        Ok(())
    }
}
