//! Metrics of the queue.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
};

use crate::QueueError;

/// The kind of an error ([`QueueError::cause`]).
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CauseLabel {
    pub cause: &'static str,
}

/// The metrics of a queue. Clones share their values. The service registers them in its registry.
#[derive(Debug, Clone)]
pub struct QueueMetrics {
    /// Transactions that failed.
    pub errors: Family<CauseLabel, Counter>,
    /// Leases that were lost before the work on their jobs ended.
    pub leases_lost: Counter,
    /// Duration of `COMMIT` in seconds, which is mostly the time of the disk.
    pub commit_seconds: Histogram,
    /// Seconds from the call of [`Queue::claim`](crate::Queue::claim) to its leases, including the
    /// wait for the writer.
    pub claim_seconds: Histogram,
}

/// Histogram buckets in seconds, from a fast disk to one that stalls.
const SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

impl Default for QueueMetrics {
    fn default() -> Self {
        Self {
            errors: Family::default(),
            leases_lost: Counter::default(),
            commit_seconds: Histogram::new(SECONDS),
            claim_seconds: Histogram::new(SECONDS),
        }
    }
}

impl QueueMetrics {
    pub(crate) fn count_error(&self, error: &QueueError) {
        self.errors.get_or_create(&CauseLabel { cause: error.cause() }).inc();
    }
}
