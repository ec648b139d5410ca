//! Working on one lease: the job itself, the heartbeat beside it, and what is written at its end.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{Pool, aligned_interval::AlignedInterval, heartbeat::Heartbeat, slots::SlotGuard, waiting::WaitState};
use crate::{
    failpoint,
    queue::{Checkpoint, DeviceCount, Lease, LeaseError},
    replay::{self, LeaseExpired, Outcome, Replay},
    sink::kafka::AckTracker,
    task::{Event, Progress, QuarantinedRow},
};

/// What a worker is told beside its lease.
#[derive(Clone)]
pub struct JobSignals {
    /// Stop reading, wait for what is on its way, and hand the lease back.
    pub stop: CancellationToken,
    /// The task is cancelled: as `stop`, and the job ends.
    pub cancel: CancellationToken,
    /// Wait no longer.
    pub abort: CancellationToken,
    /// When cursors are stored.
    pub checkpoints: AlignedInterval,
    /// When the log says how far jobs have got.
    pub progress_logs: AlignedInterval,
}

/// Works on a lease until its job ends, is asked to stop, or is lost.
///
/// Its slot is free when its work is over, before its end is stored: the claim of the next job goes to the disk together
/// with it.
pub async fn run(pool: Pool, lease: Lease, signals: JobSignals, slot: SlotGuard) {
    // An error span, so that warnings and errors bear task and device at every log level.
    let span = tracing::error_span!("job", task = %lease.job.task.id, device = %lease.job.device, attempt = lease.job.attempt);
    LeaseRunner::new(pool, lease, signals).run(slot).instrument(span).await;
}

pub(super) struct LeaseRunner {
    pub pool: Pool,
    pub lease: Lease,
    pub flight: Arc<AckTracker>,
    pub signals: JobSignals,
    pub count: RowCount,
    pub stillness: WaitState,
}

/// Before a write to the queue is tried again that could not be made.
pub(super) const WRITE_RETRY_DELAY: Duration = Duration::from_millis(250);

/// So often in a row an error of an unknown kind is tried again before it fails the job.
const MAX_UNKNOWN_ERRORS: u32 = 10;

/// What the log said last of rows published, and when it may say more.
pub(super) struct LastProgressLog {
    pub published: u64,
    pub next_at: Instant,
}

impl LeaseRunner {
    fn new(pool: Pool, lease: Lease, signals: JobSignals) -> Self {
        let flight = Arc::new(AckTracker::new(lease.job.progress.clone()));
        let count = RowCount::new(lease.job.total);
        Self { pool, lease, flight, signals, count, stillness: WaitState::default() }
    }

    async fn run(self, slot: SlotGuard) {
        let job = &self.lease.job;
        let patch = Replay {
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
        let report = LeaseContext { lease: &self.lease, count: &self.count, stillness: &self.stillness };
        let over = CancellationToken::new();
        let work = async {
            let outcome = self.pool.patcher.run(&patch, &self.flight, &report, &signals).await;
            over.cancel();
            outcome
        };
        let mut heartbeat = Heartbeat::new(&self, &slot);
        let (outcome, is_lost) = tokio::join!(work, heartbeat.run(&over));
        let (logged, counted_rows) = heartbeat.end();
        match outcome {
            Ok(outcome) if !is_lost => self.finish(outcome, &logged, slot).await,
            outcome => {
                let reason = outcome.err().map_or_else(|| "the lease is lost".to_owned(), |error| error.to_string());
                tracing::warn!(
                    reason,
                    "the job is left; if another worker has it, what this one sent and did not store goes out again"
                );
                self.pool.metrics.job_attempt("lost");
            }
        }
        self.count_rows(&counted_rows);
    }

    /// Counts what was done since `before` for `/metrics`, and returns what is counted now.
    pub fn count_rows(&self, before: &Progress) -> Progress {
        let now = self.flight.counts();
        self.pool.metrics.rows_published.inc_by(now.published.saturating_sub(before.published));
        self.pool.metrics.rows_quarantined.inc_by(now.quarantined.saturating_sub(before.quarantined));
        now
    }

    /// Writes how it ended.
    async fn finish(&self, outcome: Outcome, logged: &LastProgressLog, slot: SlotGuard) {
        let job = &self.lease.job;
        let (progress, held) = self.flight.progress();
        let events = self.count.take_notes().into_iter().chain(self.quarantine_events(&held)).collect();
        let (counted, layout) = (self.count.pending().take(), self.count.layout());
        let mut report = Checkpoint { counted, progress, layout, quarantined: held, events, waiting: None };
        let (progress, events) = (&report.progress, &mut report.events);
        let (published, grown) = (progress.published, job.has_progressed(progress));
        match &outcome {
            Outcome::Outage { part, .. } if !grown => slot.open_breaker(*part),
            Outcome::Stopped | Outcome::Abandoned { .. } | Outcome::Unknown { .. } => {}
            Outcome::Outage { .. } | Outcome::Done | Outcome::Failed(_) => slot.close_breakers(),
        }
        drop(slot);
        let is_cancelled = self.signals.cancel.is_cancelled();
        let (name, written) = match outcome {
            Outcome::Done => {
                events.extend(self.last_events(progress));
                ("succeeded", self.write(report, |report| self.lease.succeed(report)).await)
            }
            Outcome::Stopped | Outcome::Outage { .. } | Outcome::Unknown { .. } if is_cancelled => self.cancel(report, 0).await,
            Outcome::Abandoned { unanswered } if is_cancelled => self.cancel(report, unanswered).await,
            Outcome::Stopped => {
                failpoint::hit("releasing");
                if let Some(rows) = self.count.total().filter(|_| published > logged.published) {
                    events.push(Event::Published { device: job.device, published, total: rows });
                }
                ("released", self.write(report, |report| self.lease.release(report)).await)
            }
            Outcome::Abandoned { unanswered } => {
                tracing::warn!(
                    published,
                    unanswered,
                    "the job stops with rows that Kafka has not answered; they go out again after the next start"
                );
                ("abandoned", self.write(report, |report| self.lease.release(report)).await)
            }
            Outcome::Unknown { reason } if job.next_outage_count(grown) >= MAX_UNKNOWN_ERRORS => {
                self.fail(report, format!("{reason} (tried {MAX_UNKNOWN_ERRORS} times in a row)")).await
            }
            Outcome::Outage { reason, .. } | Outcome::Unknown { reason } => {
                let wait = self.backoff(job.next_outage_count(grown));
                tracing::warn!(reason, published, ?wait, "the job waits for what is away");
                events.push(Event::Waiting { device: job.device, published, reason, retry_ms: wait.as_millis() as u64 });
                ("retried", self.write(report, |report| self.lease.retry(report, wait)).await)
            }
            Outcome::Failed(reason) => self.fail(report, reason).await,
        };
        match written {
            Ok(()) => self.pool.metrics.job_attempt(name),
            Err(error) => {
                tracing::warn!(%error, "how the job ended could not be stored; another worker goes on from its cursor when the lease expires");
                self.pool.metrics.job_attempt("lost");
            }
        }
    }

    async fn fail(&self, mut report: Checkpoint, reason: String) -> (&'static str, Result<(), LeaseError>) {
        let job = &self.lease.job;
        let published = report.progress.published;
        tracing::error!(reason, published, "the job has failed; its task goes on with the other devices");
        report.events.push(Event::Failed { device: Some(job.device), name: job.name.clone(), reason: reason.clone() });
        ("failed", self.write(report, |report| self.lease.fail(report, reason.clone())).await)
    }

    async fn cancel(&self, mut report: Checkpoint, unanswered: u64) -> (&'static str, Result<(), LeaseError>) {
        let published = report.progress.published;
        tracing::info!(published, unanswered, "the job ends, since its task is cancelled");
        let device = self.lease.job.device;
        report.events.push(Event::Cancelled { device, published, unanswered, worker_died: false });
        ("cancelled", self.write(report, |report| self.lease.cancel(report, unanswered)).await)
    }

    /// The contract's last line of a device, and why its number is another than was counted, where it is.
    fn last_events(&self, progress: &Progress) -> Vec<Event> {
        let (device, read) = (self.lease.job.device, progress.published + progress.quarantined);
        let recounted = self.count.total().filter(|counted| *counted != read);
        let recounted = recounted.map(|counted| Event::CountMismatch { device, counted, read });
        recounted.into_iter().chain([Event::Published { device, published: progress.published, total: read }]).collect()
    }

    pub fn quarantine_events(&self, held: &[QuarantinedRow]) -> Vec<Event> {
        if held.is_empty() {
            return Vec::new();
        }
        tracing::warn!(rows = held.len(), "rows are held back; the task's log and the quarantine table say which and why");
        vec![Event::quarantined(self.lease.job.device, held)]
    }

    /// Writes the end, trying again while the lease lasts.
    async fn write<F>(&self, report: Checkpoint, write: impl Fn(Checkpoint) -> F) -> Result<(), LeaseError>
    where
        F: Future<Output = Result<(), LeaseError>>,
    {
        loop {
            match write(report.clone()).await {
                Err(LeaseError::Queue(error)) if self.lease.remaining() > WRITE_RETRY_DELAY => {
                    tracing::warn!(%error, "the job's end can't be stored yet; trying again while the lease lasts");
                    tokio::time::sleep(WRITE_RETRY_DELAY).await;
                }
                written => return written,
            }
        }
    }

    /// Doubled with each outage in a row up to a limit, and jittered, so that jobs do not come back all at once.
    fn backoff(&self, outages: u32) -> Duration {
        let config = &self.pool.config;
        let most = Duration::from_millis(config.retry_max_ms);
        let doubled = Duration::from_millis(config.retry_initial_ms).saturating_mul(1 << (outages.saturating_sub(1)).min(20));
        doubled.min(most).mul_f64(0.5 + 0.5 * fastrand::f64())
    }
}

/// The number of rows that were counted, once it is known.
#[derive(Default)]
pub(super) struct RowCount {
    total: OnceLock<u64>,
    /// Not told to the queue yet.
    pending: Mutex<Option<DeviceCount>>,
    layout: OnceLock<String>,
    /// Lines that are not in the log yet.
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
        // Nothing panics while it is locked.
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
        // Nothing panics while it is locked.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The job's way to its lease.
struct LeaseContext<'a> {
    lease: &'a Lease,
    count: &'a RowCount,
    stillness: &'a WaitState,
}

impl replay::JobContext for LeaseContext<'_> {
    fn counted(&self, name: Option<String>, total: u64) {
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
        self.stillness.resume().await;
    }

    fn ensure_lease_valid(&self) -> Result<(), LeaseExpired> {
        if self.lease.remaining().is_zero() {
            return Err(LeaseExpired("the lease may be over: it was not renewed in time".to_owned()));
        }
        Ok(())
    }
}
