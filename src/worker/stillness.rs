//! Whether a job stands still: nothing of it is acknowledged, held back or read, since it waits for the store or Kafka.
//!
//! A crash is not counted against a job that stands still ([`crate::queue::Report::waiting`]), however often that happens: it
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
pub(super) struct Stillness {
    /// Grows with each batch and row that the job goes on to.
    steps: AtomicU64,
    /// The queue has it that the job stands still, or may have: a write of it is under way or has failed.
    is_told: AtomicBool,
    /// The job has got what it waited for.
    resumed: Notify,
    /// The queue has it that the job goes on.
    untold: Notify,
}

impl Stillness {
    /// The job is about to go on; returns once the queue knows. Cancel-safe.
    pub async fn go_on(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        while self.is_told.load(Ordering::Relaxed) {
            self.resumed.notify_one();
            self.untold.notified().await;
        }
    }

    /// Another number each time that the job has gone on.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Waits until the job wants to go on that the queue has standing still.
    pub async fn resumed(&self) {
        self.resumed.notified().await;
    }

    /// The queue is told from now on that it stands still.
    pub fn tell(&self) {
        self.is_told.store(true, Ordering::Relaxed);
    }

    /// The queue has it that it goes on.
    pub fn untell(&self) {
        self.is_told.store(false, Ordering::Relaxed);
        self.untold.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_job_that_the_queue_has_standing_still_goes_on_only_when_it_knows_better() {
        let stillness = Stillness::default();
        assert_eq!(stillness.go_on().now_or_never(), Some(()));
        // What was said before anybody waited says nothing of the next time.
        stillness.untell();
        stillness.tell();
        let mut going_on = pin!(stillness.go_on());
        assert_eq!(going_on.as_mut().now_or_never(), None);
        assert_eq!(stillness.resumed().now_or_never(), Some(()));
        stillness.untell();
        assert_eq!(going_on.now_or_never(), Some(()));
        assert_eq!(stillness.steps(), 2);
    }
}
