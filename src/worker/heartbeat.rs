//! The heartbeat of a job: stores checkpoints, renews the lease and logs progress while the job
//! runs.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{
    runner::{LastProgressLog, LeaseRunner, WRITE_RETRY_DELAY},
    slots::SlotGuard,
};
use crate::{
    queue::{Checkpoint, LeaseError},
    task::{Event, Progress, QuarantinedRow},
};

/// A checkpoint with fewer new rows than this waits for more, so that a small job is stored only
/// once, at its end.
const MIN_CHECKPOINT_ROWS: u64 = 200;
/// The longest such wait.
const MAX_CHECKPOINT_DELAY: Duration = Duration::from_millis(250);
/// A job that has neither acknowledged nor read a row for this long counts as waiting, and is not
/// blamed for a crash ([`super::waiting`]).
pub(super) const WAITING_AFTER: Duration = Duration::from_secs(2);
/// A job whose rows in flight are not acknowledged for this long gives its slot to another job for
/// the time being.
const PARK_AFTER: Duration = Duration::from_secs(2);
/// A cancelled job whose rows in flight are not acknowledged for this long drops the rows that were
/// not sent yet.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// A heartbeat that fails is tried four times a second, and logged this often.
const FAILURE_LOG_INTERVAL: Duration = Duration::from_secs(5);

pub(super) struct Heartbeat<'w> {
    runner: &'w LeaseRunner,
    slot: &'w SlotGuard,
    /// The last stored progress.
    stored: Progress,
    stored_at: Instant,
    /// The last stored value of `waiting`; `None` if writing it failed.
    stored_waiting: Option<bool>,
    /// The counts that the metrics include.
    counted: Progress,
    logged: LastProgressLog,
    /// When the progress last changed.
    last_progress_at: Instant,
    /// The last seen [`resume_count`](super::waiting::WaitState::resume_count), and when it
    /// changed.
    resume_count: u64,
    resumed_at: Instant,
    /// When a stall was last logged, or when there was last none.
    stall_logged_at: Instant,
    /// Rows a second, smoothed; `None` before the first checkpoint.
    rows_per_second: Option<f64>,
}

/// A checkpoint that is due, and what to restore if writing it fails.
struct PendingWrite {
    checkpoint: Checkpoint,
    quarantined: Vec<QuarantinedRow>,
    notes: Vec<Event>,
    logs_progress: bool,
}

impl<'w> Heartbeat<'w> {
    pub fn new(runner: &'w LeaseRunner, slot: &'w SlotGuard) -> Self {
        let (now, progress) = (Instant::now(), runner.lease.job.progress.clone());
        // At least half a period later, so that a small job that runs across a tick logs no extra
        // entry.
        let half = Duration::from_millis(runner.pool.config.progress_log_interval_ms) / 2;
        let next_at = runner.signals.progress_logs.next_after(now + half);
        let logged = LastProgressLog { published: progress.published, next_at };
        let (stored, counted) = (progress.clone(), progress);
        Self {
            runner,
            slot,
            stored,
            stored_at: now,
            stored_waiting: Some(false),
            counted,
            logged,
            last_progress_at: now,
            resume_count: 0,
            resumed_at: now,
            stall_logged_at: now,
            rows_per_second: None,
        }
    }

    /// The last progress entry, and the counts that the metrics include.
    pub fn into_parts(self) -> (LastProgressLog, Progress) {
        (self.logged, self.counted)
    }

    /// Runs until `done`. Returns whether the lease was lost.
    pub async fn run(&mut self, done: &CancellationToken) -> bool {
        let LeaseRunner { acks, lease, signals, .. } = self.runner;
        let mut failure_logged_at: Option<Instant> = None;
        loop {
            let flush_requested = tokio::select! {
                biased;
                () = done.cancelled() => return false,
                () = acks.flush_requested() => true,
                () = self.runner.wait_state.resume_requested() => false,
                () = tokio::time::sleep_until(signals.checkpoints.next_after(Instant::now()).into()) => false,
            };
            self.counted = self.runner.count_rows(&self.counted);
            self.check_ack_silence();
            let Some(write) = self.next_write(flush_requested) else { continue };
            match lease.checkpoint(write.checkpoint.clone()).await {
                Ok(()) => {
                    failure_logged_at = None;
                    self.confirm(write);
                }
                Err(error) => {
                    self.restore(write);
                    if matches!(error, LeaseError::Lost) || lease.remaining().is_zero() {
                        tracing::warn!(%error, "the heartbeat failed and the lease is lost");
                        // Rows that were not sent yet must not be sent any more.
                        signals.abort.cancel();
                        done.cancelled().await;
                        return true;
                    }
                    if failure_logged_at.is_none_or(|at| at.elapsed() >= FAILURE_LOG_INTERVAL) {
                        failure_logged_at = Some(Instant::now());
                        tracing::warn!(%error, remaining = ?lease.remaining(), "the heartbeat failed; retrying while the lease is valid");
                    }
                    tokio::time::sleep(WRITE_RETRY_DELAY).await;
                }
            }
        }
    }

    /// Parks the slot while Kafka acknowledges nothing, and aborts a cancelled job after
    /// [`CANCEL_TIMEOUT`].
    fn check_ack_silence(&self) {
        let silence = self.runner.acks.ack_silence().unwrap_or_default();
        self.slot.set_parked(silence >= PARK_AFTER);
        let signals = &self.runner.signals;
        if silence >= CANCEL_TIMEOUT && signals.cancel.is_cancelled() && !signals.abort.is_cancelled() {
            tracing::info!(
                ?silence,
                "the task is cancelled and Kafka acknowledges nothing: rows that were not sent yet are dropped"
            );
            signals.abort.cancel();
        }
    }

    /// Whether no row was acknowledged, quarantined or read for [`WAITING_AFTER`].
    fn is_waiting(&mut self) -> bool {
        let resume_count = self.runner.wait_state.resume_count();
        if resume_count != self.resume_count {
            (self.resume_count, self.resumed_at) = (resume_count, Instant::now());
        }
        self.last_progress_at.max(self.resumed_at).elapsed() >= WAITING_AFTER
    }

    /// The speed since the last checkpoint, smoothed over about two seconds.
    #[allow(clippy::cast_precision_loss, reason = "counts of rows are far below 2^52")]
    fn speed(&mut self, rows: u64, now: Instant) -> f64 {
        const SMOOTHING: Duration = Duration::from_secs(2);
        let elapsed = now.duration_since(self.stored_at).as_secs_f64().max(0.001);
        let speed = rows.saturating_sub(self.stored.rows()) as f64 / elapsed;
        let weight = 1.0 - (-elapsed / SMOOTHING.as_secs_f64()).exp();
        let smoothed = self.rows_per_second.map_or(speed, |before| before + weight * (speed - before));
        *self.rows_per_second.insert(smoothed)
    }

    /// The checkpoint to write now, or `None` if it can wait.
    fn next_write(&mut self, flush_requested: bool) -> Option<PendingWrite> {
        let LeaseRunner { acks, lease, pool, signals, count, .. } = self.runner;
        let progress = acks.progress();
        let now = Instant::now();
        if progress != self.stored {
            self.last_progress_at = now;
        }
        if progress != self.stored || !acks.has_in_flight() {
            self.stall_logged_at = now;
        }
        let is_stalled = self.stall_logged_at.elapsed() >= Duration::from_secs(pool.config.stall_warning_seconds);
        let is_waiting = self.is_waiting();
        let waiting = (self.stored_waiting != Some(is_waiting)).then_some(is_waiting);
        // The next time is set even if there is nothing to log now: progress in between waits for
        // the shared tick.
        let is_log_time = now >= self.logged.next_at;
        if is_log_time {
            self.logged.next_at = signals.progress_logs.next_after(now);
        }
        let logged = self.logged.published;
        let total_to_log = |published: u64| count.total().filter(|total| is_log_time && published > logged && published < *total);
        // A checkpoint without changes, or with only a few recent rows, is skipped while the lease
        // is valid for long enough. This saves disk writes.
        let is_unchanged = count.pending().is_none() && progress == self.stored && !acks.has_unreported();
        // After a restart from an earlier position there are fewer rows than before.
        let rows = progress.rows().abs_diff(self.stored.rows());
        let is_small = !flush_requested && rows < MIN_CHECKPOINT_ROWS && self.stored_at.elapsed() < MAX_CHECKPOINT_DELAY;
        let is_urgent = is_stalled || total_to_log(progress.published).is_some() || waiting.is_some();
        if (is_unchanged || is_small) && !is_urgent && !lease.is_renewal_due() {
            return None;
        }
        let counted = count.pending().take();
        let (progress, quarantined) = acks.checkpoint();
        let published = progress.published;
        let progress_event = total_to_log(published).map(|total| Event::Published { device: lease.job.device, published, total });
        let rows_per_second = Some(self.speed(progress.rows(), now));
        self.stored_at = now;
        if waiting == Some(true) {
            self.runner.wait_state.record();
        }
        let stalled = is_stalled.then(|| Event::Stalled {
            device: lease.job.device,
            published,
            silent_seconds: self.last_progress_at.elapsed().as_secs(),
        });
        if is_stalled {
            self.stall_logged_at = now;
            tracing::warn!(published, since = ?self.last_progress_at.elapsed(), "Kafka acknowledges no rows; the job continues when it does");
        }
        let logs_progress = progress_event.is_some();
        let notes = count.take_notes();
        let events: Vec<Event> = notes
            .iter()
            .cloned()
            .chain(self.runner.quarantine_events(&quarantined))
            .chain(progress_event)
            .chain(stalled)
            .collect();
        let layout = count.layout();
        Some(PendingWrite {
            checkpoint: Checkpoint {
                counted,
                progress,
                layout,
                quarantined: quarantined.clone(),
                events,
                waiting,
                rows_per_second,
            },
            quarantined,
            notes,
            logs_progress,
        })
    }

    fn confirm(&mut self, write: PendingWrite) {
        let PendingWrite { checkpoint, logs_progress, .. } = write;
        self.runner.acks.confirm_reported();
        let Progress { published, quarantined, .. } = checkpoint.progress;
        self.runner.span.event("checkpoint", || vec![("published", published.into()), ("quarantined", quarantined.into())]);
        if self.runner.lease.job.has_progressed(&checkpoint.progress) {
            self.slot.close_breakers();
        }
        if logs_progress {
            self.logged.published = checkpoint.progress.published;
        }
        if let Some(waiting) = checkpoint.waiting {
            self.stored_waiting = Some(waiting);
            if !waiting {
                self.runner.wait_state.clear();
            }
        }
        self.stored = checkpoint.progress;
    }

    fn restore(&mut self, write: PendingWrite) {
        if write.checkpoint.waiting.is_some() {
            self.stored_waiting = None;
        }
        self.runner.acks.requeue(write.quarantined);
        *self.runner.count.pending() = write.checkpoint.counted;
        self.runner.count.restore_notes(write.notes);
    }
}
