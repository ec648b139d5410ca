//! What the queue counts and measures.

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

/// Metrics of a queue. Clones count together; whoever exports metrics registers them.
#[derive(Debug, Clone)]
pub struct QueueMetrics {
    /// Transactions that failed.
    pub errors: Family<CauseLabel, Counter>,
    /// Leases that ended before the work on their jobs did.
    pub leases_lost: Counter,
    /// Duration of `COMMIT` alone: the time that the disk takes.
    pub commit_seconds: Histogram,
    /// From the request for jobs to their leases, including the wait for the writer.
    pub claim_seconds: Histogram,
}

/// Upper bounds in seconds: from a fast disk to one that stalls.
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
