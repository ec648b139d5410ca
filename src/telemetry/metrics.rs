//! What `/metrics` tells.

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// How a job left its worker.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    pub outcome: &'static str,
}

/// One more in a gauge, as long as this lives, however it ends.
#[derive(Debug)]
pub struct Counted(Gauge);

impl Counted {
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Bounds of durations, in seconds: from a write to the disk to an outage.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// What the queue counts, cheap to clone; all clones count together.
#[derive(Debug, Clone)]
pub struct QueueMetrics {
    pub commit_seconds: Histogram,
    pub claim_seconds: Histogram,
    pub line_delay_seconds: Histogram,
    pub leases_lost: Counter,
}

impl Default for QueueMetrics {
    fn default() -> Self {
        let seconds = || Histogram::new(SECONDS);
        Self {
            commit_seconds: seconds(),
            claim_seconds: seconds(),
            line_delay_seconds: seconds(),
            leases_lost: Counter::default(),
        }
    }
}

/// Counters and gauges, cheap to clone; all clones count together.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub tasks_created: Counter,
    pub requests_refused: Counter,
    pub jobs: Family<Outcome, Counter>,
    pub rows_published: Counter,
    pub rows_held: Counter,
    pub connections: Gauge,
    pub watches: Gauge,
    pub jobs_running: Gauge,
}

impl Metrics {
    /// Counts a job that left its worker.
    pub fn job(&self, outcome: &'static str) {
        self.jobs.get_or_create(&Outcome { outcome }).inc();
    }

    /// Prometheus' text format. `due_jobs` is asked of the queue, `in_flight_bytes` of the producer, at this moment.
    pub fn render(&self, due_jobs: Option<u64>, in_flight_bytes: u64) -> String {
        let mut registry = Registry::with_prefix("data_patch");
        registry.register("tasks_created", "Tasks created", self.tasks_created.clone());
        registry.register("requests_refused", "Client messages refused", self.requests_refused.clone());
        registry.register("jobs_left_worker", "Jobs that left their worker, by outcome", self.jobs.clone());
        registry.register("rows_published", "Rows acknowledged by Kafka", self.rows_published.clone());
        registry.register("rows_held", "Rows held back", self.rows_held.clone());
        registry.register("connections", "WebSocket connections", self.connections.clone());
        registry.register("watches", "Tasks watched, summed over connections", self.watches.clone());
        registry.register("jobs_running", "Jobs leased by this process", self.jobs_running.clone());
        let gauge = |value: u64| {
            let gauge = Gauge::<i64>::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            gauge
        };
        registry.register("in_flight_bytes", "Bytes handed to Kafka and not acknowledged yet", gauge(in_flight_bytes));
        if let Some(jobs) = due_jobs {
            registry.register("jobs_open", "Jobs queued or running", gauge(jobs));
        }
        let mut text = String::new();
        // Writing to a string can't fail.
        let _ = encode(&mut text, &registry);
        text
    }
}
