//! The metrics of each part, by the conventions of Prometheus: base units, `_total` for counters, labels with few values.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

/// How an attempt on a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    pub outcome: &'static str,
}

/// Why a client's message was rejected; the `payload.code` of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodeLabel {
    pub code: &'static str,
}

/// What kind of error it was.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CauseLabel {
    pub cause: &'static str,
}

/// Errors of one part, by cause.
pub type Errors = Family<CauseLabel, Counter>;

/// Counts an error.
pub fn count_error(errors: &Errors, cause: &'static str) {
    errors.get_or_create(&CauseLabel { cause }).inc();
}

/// One more in a gauge, as long as this lives, however it ends.
#[derive(Debug)]
pub struct GaugeGuard(Gauge);

impl GaugeGuard {
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Upper bounds of durations, in seconds: from a write to the disk to an outage.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// A histogram of durations.
#[derive(Debug, Clone)]
pub struct Durations(pub(super) Histogram);

impl Default for Durations {
    fn default() -> Self {
        Self(Histogram::new(SECONDS))
    }
}

impl Durations {
    pub fn observe(&self, duration: std::time::Duration) {
        self.0.observe(duration.as_secs_f64());
    }
}

/// What clients and workers do; cheap to clone, and all clones count together. So it is with the others.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub tasks_created: Counter,
    pub requests_rejected: Family<CodeLabel, Counter>,
    pub job_attempts: Family<OutcomeLabel, Counter>,
    pub rows_published: Counter,
    pub rows_quarantined: Counter,
    pub connections: Gauge,
    pub log_subscriptions: Gauge,
    pub jobs_running: Gauge,
    /// From the commit of a log line to its way out to a client that watches.
    pub log_delay: Durations,
}

impl Metrics {
    /// Counts an attempt that has ended.
    pub fn job_attempt(&self, outcome: &'static str) {
        self.job_attempts.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts a message that was rejected.
    pub fn request_rejected(&self, code: &'static str) {
        self.requests_rejected.get_or_create(&CodeLabel { code }).inc();
    }
}

/// What the IoTA store does.
#[derive(Debug, Clone, Default)]
pub struct StoreMetrics {
    pub errors: Errors,
}

/// What Kafka does, and what librdkafka says of it.
#[derive(Debug, Clone, Default)]
pub struct KafkaMetrics {
    pub errors: Errors,
    /// From the hand-over of some rows to librdkafka to the acknowledgement of the last of them.
    pub acknowledgement: Durations,
    pub requests: Counter,
    pub request_errors: Counter,
    pub request_retries: Counter,
    pub request_timeouts: Counter,
    pub sent_bytes: Counter,
    pub disconnects: Counter,
    producers: Arc<Mutex<Vec<Weak<ProducerGauges>>>>,
}

/// What one librdkafka client said last of its present state.
#[derive(Debug, Default)]
pub struct ProducerGauges {
    last: Mutex<ProducerState>,
}

/// The state of a librdkafka client.
#[derive(Debug, Clone, Default)]
pub struct ProducerState {
    pub queued_messages: u64,
    pub queued_bytes: u64,
    /// By the broker's host and port; the mean of the last period in which it answered.
    pub round_trip_seconds: HashMap<String, f64>,
    /// The longest that a broker told it to wait in the last period (quotas).
    pub throttle_seconds: f64,
}

impl ProducerGauges {
    pub fn update(&self, update: impl FnOnce(&mut ProducerState)) {
        update(&mut self.last.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl KafkaMetrics {
    fn producers(&self) -> MutexGuard<'_, Vec<Weak<ProducerGauges>>> {
        // Nothing panics while it is locked.
        self.producers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gauges that count as long as they live.
    pub fn producer(&self) -> Arc<ProducerGauges> {
        let gauges = Arc::new(ProducerGauges::default());
        let mut producers = self.producers();
        producers.retain(|producer| producer.strong_count() > 0);
        producers.push(Arc::downgrade(&gauges));
        gauges
    }

    /// How many clients there are, and their states put together: sums, and the worst of times.
    pub fn state(&self) -> (usize, ProducerState) {
        let (mut clients, mut all) = (0, ProducerState::default());
        for gauges in self.producers().iter().filter_map(Weak::upgrade) {
            let last = gauges.last.lock().unwrap_or_else(PoisonError::into_inner);
            clients += 1;
            all.queued_messages += last.queued_messages;
            all.queued_bytes += last.queued_bytes;
            all.throttle_seconds = all.throttle_seconds.max(last.throttle_seconds);
            for (broker, seconds) in &last.round_trip_seconds {
                let worst = all.round_trip_seconds.entry(broker.clone()).or_default();
                *worst = worst.max(*seconds);
            }
        }
        (clients, all)
    }
}
