//! A partition of a topic as a lane: how many of its rows were sent, how many were answered, and when
//! the last one was acknowledged.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// A partition is stalled if it has rows in flight and acknowledges nothing for this long.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(2);

/// One partition of a topic, with the numbers of rows sent and completed.
#[derive(Debug)]
pub(super) struct Lane {
    pub topic: Arc<str>,
    pub partition: i32,
    pub sent: AtomicU64,
    pub completed: AtomicU64,
    last_ack: Mutex<Option<Instant>>,
}

impl Lane {
    pub fn new(topic: &str, partition: i32) -> Self {
        let (sent, completed) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { topic: topic.into(), partition, sent, completed, last_ack: Mutex::default() }
    }

    pub fn key(&self) -> Key {
        (Arc::clone(&self.topic), self.partition)
    }

    /// Counts a row that was passed to the producer.
    pub fn record_sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a delivery report, successful or not.
    pub fn record_completed(&self) {
        self.completed.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that rows were acknowledged now.
    pub fn record_ack(&self) {
        *self.last_ack.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether the partition has acknowledged rows recently, so that it need not prove again that
    /// it is available.
    pub fn acked_recently(&self) -> bool {
        let at = self.last_ack.lock().unwrap_or_else(PoisonError::into_inner);
        at.is_some_and(|at| at.elapsed() < STALL_TIMEOUT)
    }
}

pub(super) type Key = (Arc<str>, i32);
