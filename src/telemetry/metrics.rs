//! The metrics of each component, by the Prometheus naming conventions: base units, `_total` for
//! counters, and labels with few values (<https://prometheus.io/docs/practices/naming/>).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::AtomicU64},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

/// What became of the spans of traces.
#[derive(Debug, Clone, Default)]
pub struct TraceMetrics {
    pub exported: Counter,
    /// Not sent: too many were waiting, or the receiver failed.
    pub dropped: Counter,
}

/// All values of [`OutcomeLabel`]. They are reported from the start, so that the first failure is an
/// increase from 0.
pub const OUTCOMES: [&str; 7] = ["succeeded", "failed", "retried", "released", "cancelled", "abandoned", "lost"];

/// The outcome of an attempt on a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    pub outcome: &'static str,
}

/// The code of a refused message, as in `payload.code` of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodeLabel {
    pub code: &'static str,
}

/// The kind of an error.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CauseLabel {
    pub cause: &'static str,
}

/// What the service depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DependencyLabel {
    pub dependency: &'static str,
}

/// Errors of one component, by cause.
pub type Errors = Family<CauseLabel, Counter>;

/// Counts an error.
pub fn count_error(errors: &Errors, cause: &'static str) {
    errors.get_or_create(&CauseLabel { cause }).inc();
}

/// Increments a gauge, and decrements it on drop.
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

/// Histogram buckets in seconds, from a disk write to an outage.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// A histogram of durations in seconds.
#[derive(Debug, Clone)]
pub struct Durations(Histogram);

impl Default for Durations {
    fn default() -> Self {
        Self(Histogram::new(SECONDS))
    }
}

impl Durations {
    pub fn observe(&self, duration: std::time::Duration) {
        self.0.observe(duration.as_secs_f64());
    }

    /// The histogram, to be registered.
    pub fn into_histogram(self) -> Histogram {
        self.0
    }
}

/// A gauge with this value.
pub fn integer_gauge(value: u64) -> Gauge {
    let gauge = Gauge::<i64>::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    gauge
}

/// A gauge with this value.
pub fn float_gauge(value: f64) -> Gauge<f64, AtomicU64> {
    let gauge = Gauge::default();
    gauge.set(value);
    gauge
}

/// Metrics of clients and workers. Clones share their values, as in the other metrics types.
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
    pub circuit_breakers_open: Family<DependencyLabel, Gauge>,
    /// From the commit of a log entry to its hand-over to a subscribed client's socket.
    pub log_delay: Durations,
    pub traces: TraceMetrics,
}

impl Metrics {
    /// Counts a finished attempt.
    pub fn job_attempt(&self, outcome: &'static str) {
        self.job_attempts.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Sets the number of open circuit breakers of the source (at most one) and of topics.
    pub fn set_circuit_breakers_open(&self, source: bool, topics: usize) {
        let open = |dependency| self.circuit_breakers_open.get_or_create_owned(&DependencyLabel { dependency });
        open("source").set(source.into());
        open("topic").set(i64::try_from(topics).unwrap_or(i64::MAX));
    }

    /// Counts a refused message.
    pub fn request_rejected(&self, code: &'static str) {
        self.requests_rejected.get_or_create(&CodeLabel { code }).inc();
    }
}

/// Metrics of the source.
#[derive(Debug, Clone, Default)]
pub struct SourceMetrics {
    pub errors: Errors,
}

/// Metrics of Kafka and of librdkafka.
#[derive(Debug, Clone, Default)]
pub struct KafkaMetrics {
    pub errors: Errors,
    /// From the hand-over of a batch of rows to librdkafka to the acknowledgement of its last row.
    pub acknowledgement: Durations,
    pub requests: Counter,
    pub request_errors: Counter,
    pub request_retries: Counter,
    pub request_timeouts: Counter,
    pub sent_bytes: Counter,
    pub disconnects: Counter,
    producers: Arc<Mutex<Vec<Weak<ProducerGauges>>>>,
}

/// The last reported state of one librdkafka client.
#[derive(Debug, Default)]
pub struct ProducerGauges {
    last: Mutex<ProducerState>,
}

/// The state of a librdkafka client.
#[derive(Debug, Clone, Default)]
pub struct ProducerState {
    pub queued_messages: u64,
    pub queued_bytes: u64,
    /// By the broker's host and port: the mean of the last period in which the broker answered.
    pub round_trip_seconds: HashMap<String, f64>,
    /// The longest throttling by a broker's quota in the last period.
    pub throttle_seconds: f64,
}

impl ProducerGauges {
    pub fn update(&self, update: impl FnOnce(&mut ProducerState)) {
        update(&mut self.last.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl KafkaMetrics {
    fn producers(&self) -> MutexGuard<'_, Vec<Weak<ProducerGauges>>> {
        // No code panics while it holds this lock.
        self.producers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers the gauges of a client, until they are dropped.
    pub fn producer(&self) -> Arc<ProducerGauges> {
        let gauges = Arc::new(ProducerGauges::default());
        let mut producers = self.producers();
        producers.retain(|producer| producer.strong_count() > 0);
        producers.push(Arc::downgrade(&gauges));
        gauges
    }

    /// The number of clients and their combined state: the sum of sizes and the maximum of times.
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
