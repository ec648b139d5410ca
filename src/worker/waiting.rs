//! Whether a job stands still: nothing of it is acknowledged, held back or read, since it waits for the store or Kafka.
//!
//! A crash is not counted against a job that stands still ([`crate::queue::Checkpoint::waiting`]), however often that happens: it
//! does nothing meanwhile, and whoever restarts a service during an outage must not fail its jobs. So what the queue has of it
//! must be true whenever the process may end, or a job that waits for long and then kills its process would never be found. The
//! job sees to that itself: before it does anything with rows that it has waited for, it waits until the queue has it that it
//! goes on.
//!
//! Not found this way is a row so large that it takes all memory while it is still arriving, for longer than a job must stand
//! still: PostgreSQL sends a row as one message, and a slow row cannot be told from a slow store.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(super) struct WaitState {
    /// Grows with each batch and row that the job goes on to.
    resume_count: AtomicU64,
    /// The queue has it that the job stands still, or may have: a write of it is under way or has failed.
    is_recorded: AtomicBool,
    /// The job has got what it waited for.
    resume_requested: Notify,
    /// The queue has it that the job goes on.
    cleared: Notify,
}

impl WaitState {
    /// The job is about to go on; returns once the queue knows. Cancel-safe.
    pub async fn resume(&self) {
        self.resume_count.fetch_add(1, Ordering::Relaxed);
        while self.is_recorded.load(Ordering::Relaxed) {
            self.resume_requested.notify_one();
            self.cleared.notified().await;
        }
    }

    /// Another number each time that the job has gone on.
    pub fn resume_count(&self) -> u64 {
        self.resume_count.load(Ordering::Relaxed)
    }

    /// Waits until the job wants to go on that the queue has standing still.
    pub async fn resume_requested(&self) {
        self.resume_requested.notified().await;
    }

    /// The queue is told from now on that it stands still.
    pub fn record(&self) {
        self.is_recorded.store(true, Ordering::Relaxed);
    }

    /// The queue has it that it goes on.
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
    async fn a_job_that_the_queue_has_standing_still_goes_on_only_when_it_knows_better() {
        let stillness = WaitState::default();
        assert_eq!(stillness.resume().now_or_never(), Some(()));
        // What was said before anybody waited says nothing of the next time.
        stillness.clear();
        stillness.record();
        let mut going_on = pin!(stillness.resume());
        assert_eq!(going_on.as_mut().now_or_never(), None);
        assert_eq!(stillness.resume_requested().now_or_never(), Some(()));
        stillness.clear();
        assert_eq!(going_on.now_or_never(), Some(()));
        assert_eq!(stillness.resume_count(), 2);
    }
}
