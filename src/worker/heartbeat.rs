//! What happens beside the work on a lease: the cursor is stored, the lease renewed, the log written, again and again.

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

/// So few rows more, and they wait to be stored until others come: small jobs are over before, and stored once.
const MIN_CHECKPOINT_ROWS: u64 = 200;
/// They wait no longer than this.
const MAX_CHECKPOINT_DELAY: Duration = Duration::from_millis(250);
/// A job with nothing acknowledged, and nothing read, for so long stands still: it is not to blame for a crash
/// ([`super::waiting`]).
const WAITING_AFTER: Duration = Duration::from_secs(2);
/// A job whose rows in flight are not acknowledged for so long leaves its slot to another meanwhile.
const PARK_AFTER: Duration = Duration::from_secs(2);
/// A cancelled job whose rows in flight are not acknowledged for so long drops those that were not sent yet.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Heartbeat<'w> {
    worker: &'w LeaseRunner,
    slot: &'w SlotGuard,
    /// What the queue has.
    stored: Progress,
    stored_at: Instant,
    /// Whether it has it that the job stands still; `None` after a write of that which failed.
    stored_waiting: Option<bool>,
    /// What `/metrics` has counted.
    counted: Progress,
    logged: LastProgressLog,
    /// When rows were done with last.
    last_progress_at: Instant,
    /// How often the job had got on when that was looked at last, and when it had.
    resume_count: u64,
    resumed_at: Instant,
    /// When that was logged last, or when there was nothing to say of it.
    stall_logged_at: Instant,
}

/// What is to be written now.
struct PendingWrite {
    report: Checkpoint,
    held: Vec<QuarantinedRow>,
    notes: Vec<Event>,
    says_progress: bool,
}

impl<'w> Heartbeat<'w> {
    pub fn new(worker: &'w LeaseRunner, slot: &'w SlotGuard) -> Self {
        let (now, progress) = (Instant::now(), worker.lease.job.progress.clone());
        // Not before half of a period, so that a small job that runs across a tick has no line more for it.
        let half = Duration::from_millis(worker.pool.config.progress_log_interval_ms) / 2;
        let next_at = worker.signals.progress_logs.next_after(now + half);
        let logged = LastProgressLog { published: progress.published, next_at };
        let (stored, counted) = (progress.clone(), progress);
        Self {
            worker,
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
        }
    }

    /// What the log said last, and what `/metrics` has counted.
    pub fn end(self) -> (LastProgressLog, Progress) {
        (self.logged, self.counted)
    }

    /// Beats until the work is over; tells whether the lease was lost.
    pub async fn run(&mut self, over: &CancellationToken) -> bool {
        let LeaseRunner { flight, lease, signals, .. } = self.worker;
        loop {
            let flush_requested = tokio::select! {
                biased;
                () = over.cancelled() => return false,
                () = flight.flush_requested() => true,
                () = self.worker.stillness.resume_requested() => false,
                () = tokio::time::sleep_until(signals.checkpoints.next_after(Instant::now()).into()) => false,
            };
            self.counted = self.worker.count_rows(&self.counted);
            self.check_ack_silence();
            let Some(write) = self.next_write(flush_requested) else { continue };
            match lease.checkpoint(write.report.clone()).await {
                Ok(()) => self.written(write),
                Err(error) => {
                    self.restore(write);
                    if matches!(error, LeaseError::Lost) || lease.remaining().is_zero() {
                        tracing::warn!(%error, "the heartbeat failed for good");
                        // What was not sent yet is not to be sent any more.
                        signals.abort.cancel();
                        over.cancelled().await;
                        return true;
                    }
                    tracing::warn!(%error, remaining = ?lease.remaining(), "the heartbeat failed; trying again while the lease lasts");
                    tokio::time::sleep(WRITE_RETRY_DELAY).await;
                }
            }
        }
    }

    /// While Kafka does not answer, another job may have the slot, and a cancelled job does not wait for ever.
    fn check_ack_silence(&self) {
        let silence = self.worker.flight.ack_silence().unwrap_or_default();
        self.slot.set_parked(silence >= PARK_AFTER);
        let signals = &self.worker.signals;
        if silence >= CANCEL_TIMEOUT && signals.cancel.is_cancelled() && !signals.abort.is_cancelled() {
            tracing::info!(?silence, "the task is cancelled and Kafka does not answer: rows that were not sent yet are dropped");
            signals.abort.cancel();
        }
    }

    /// Whether nothing was done with or read for a while.
    fn is_waiting(&mut self) -> bool {
        let steps = self.worker.stillness.resume_count();
        if steps != self.resume_count {
            (self.resume_count, self.resumed_at) = (steps, Instant::now());
        }
        self.last_progress_at.max(self.resumed_at).elapsed() >= WAITING_AFTER
    }

    /// What is to be written, or nothing where that can wait.
    fn next_write(&mut self, flush_requested: bool) -> Option<PendingWrite> {
        let LeaseRunner { flight, lease, pool, signals, count, .. } = self.worker;
        let (progress, held) = flight.progress();
        let now = Instant::now();
        if progress != self.stored {
            self.last_progress_at = now;
        }
        if progress != self.stored || !flight.has_in_flight() {
            self.stall_logged_at = now;
        }
        let is_stalled = self.stall_logged_at.elapsed() >= Duration::from_secs(pool.config.stall_warning_seconds);
        let stands_still = self.is_waiting();
        let waiting = (self.stored_waiting != Some(stands_still)).then_some(stands_still);
        let counted = count.pending().take();
        let published = progress.published;
        // The next time comes whether there are news now or not: what comes in between waits for the others.
        let is_time = now >= self.logged.next_at;
        if is_time {
            self.logged.next_at = signals.progress_logs.next_after(now);
        }
        let is_news = |rows: &u64| is_time && published > self.logged.published && published < *rows;
        let news = count.total().filter(is_news).map(|total| Event::Published { device: lease.job.device, published, total });
        // Nothing new, or little and lately, and time left: the disk is spared.
        let is_quiet = counted.is_none() && progress == self.stored && held.is_empty();
        // A device that is begun again has fewer than before.
        let rows = progress.rows().abs_diff(self.stored.rows());
        let is_little = !flush_requested && rows < MIN_CHECKPOINT_ROWS && self.stored_at.elapsed() < MAX_CHECKPOINT_DELAY;
        let is_urgent = is_stalled || news.is_some() || waiting.is_some();
        if (is_quiet || is_little) && !is_urgent && lease.remaining() > pool.config.lease() / 2 {
            flight.requeue(held);
            *count.pending() = counted;
            return None;
        }
        self.stored_at = now;
        if waiting == Some(true) {
            self.worker.stillness.record();
        }
        let stalled = is_stalled.then(|| Event::Stalled {
            device: lease.job.device,
            published,
            silent_seconds: self.last_progress_at.elapsed().as_secs(),
        });
        if is_stalled {
            self.stall_logged_at = now;
            tracing::warn!(published, since = ?self.last_progress_at.elapsed(), "Kafka acknowledges nothing; the job goes on when it does");
        }
        let says_progress = news.is_some();
        let notes = count.take_notes();
        let events: Vec<Event> =
            notes.iter().cloned().chain(self.worker.quarantine_events(&held)).chain(news).chain(stalled).collect();
        let (held_now, layout) = (held.clone(), count.layout());
        Some(PendingWrite {
            report: Checkpoint { counted, progress, layout, quarantined: held_now, events, waiting },
            held,
            notes,
            says_progress,
        })
    }

    fn written(&mut self, write: PendingWrite) {
        let PendingWrite { report, says_progress, .. } = write;
        self.worker.flight.confirm_reported();
        if self.worker.lease.job.has_progressed(&report.progress) {
            self.slot.close_breakers();
        }
        if says_progress {
            self.logged.published = report.progress.published;
        }
        if let Some(waiting) = report.waiting {
            self.stored_waiting = Some(waiting);
            if !waiting {
                self.worker.stillness.clear();
            }
        }
        self.stored = report.progress;
    }

    fn restore(&mut self, write: PendingWrite) {
        if write.report.waiting.is_some() {
            self.stored_waiting = None;
        }
        self.worker.flight.requeue(write.held);
        *self.worker.count.pending() = write.report.counted;
        self.worker.count.restore_notes(write.notes);
    }
}
