//! Whether a job is waiting: no row of it is acknowledged, quarantined or read, because the source
//! or Kafka does not respond.
//!
//! Crashes are not counted against a waiting job ([`crate::queue::Checkpoint::waiting`]): it does
//! nothing, and restarting a service during an outage must not fail its jobs. The stored flag must
//! therefore be accurate whenever the process may die. Otherwise a job that waits for a long time
//! and then crashes its process would never be blamed. So before a job processes rows that it has
//! waited for, it waits until the queue has stored that it resumes.
//!
//! One case is not detected: a row so large that the process runs out of memory while the row
//! arrives, for longer than [`WAITING_AFTER`](super::heartbeat::WAITING_AFTER). PostgreSQL sends a
//! row as one message, so a slow row cannot be distinguished from a slow source.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(super) struct WaitState {
    /// Increased for each batch and row that the job processes.
    resume_count: AtomicU64,
    /// The queue may have stored that the job waits: such a write has begun, and no later one has
    /// cleared it.
    is_recorded: AtomicBool,
    /// Notified when the job has rows again.
    resume_requested: Notify,
    /// Notified when the queue has stored that the job resumes.
    cleared: Notify,
}

impl WaitState {
    /// Called before the job processes rows. Returns once the queue does not list the job as
    /// waiting. Cancel-safe.
    pub async fn resume(&self) {
        self.resume_count.fetch_add(1, Ordering::Relaxed);
        while self.is_recorded.load(Ordering::Relaxed) {
            self.resume_requested.notify_one();
            self.cleared.notified().await;
        }
    }

    /// Changes each time the job resumes.
    pub fn resume_count(&self) -> u64 {
        self.resume_count.load(Ordering::Relaxed)
    }

    /// Waits until a job that is recorded as waiting wants to resume.
    pub async fn resume_requested(&self) {
        self.resume_requested.notified().await;
    }

    /// Records that the queue is about to store that the job waits.
    pub fn record(&self) {
        self.is_recorded.store(true, Ordering::Relaxed);
    }

    /// Records that the queue has stored that the job resumes.
    pub fn clear(&self) {
        self.is_recorded.store(false, Ordering::Relaxed);
        self.cleared.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_recorded_wait_delays_the_job_until_it_is_cleared() {
        let wait_state = WaitState::default();
        assert_eq!(wait_state.resume().now_or_never(), Some(()));
        // A notification that came too early does not affect the next wait.
        wait_state.clear();
        wait_state.record();
        let mut resuming = pin!(wait_state.resume());
        assert_eq!(resuming.as_mut().now_or_never(), None);
        assert_eq!(wait_state.resume_requested().now_or_never(), Some(()));
        wait_state.clear();
        assert_eq!(resuming.now_or_never(), Some(()));
        assert_eq!(wait_state.resume_count(), 2);
    }
}
