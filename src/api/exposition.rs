//! The text of `/metrics`: the Prometheus text format, or OpenMetrics if the scraper asks for it.

use std::{collections::HashSet, fmt::Write as _};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

use crate::{
    queue::QueueMetrics,
    telemetry::{
        DependencyLabel, KafkaMetrics, Metrics, OUTCOMES, OutcomeLabel, SourceMetrics, float_gauge, integer_gauge, process,
    },
};

/// The format of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// The Prometheus text format 0.0.4, which every scraper supports.
    Text,
    OpenMetrics,
}

impl Exposition {
    /// The format for an `Accept` header: OpenMetrics only if the header names it.
    pub fn accepted(accept: Option<&str>) -> Self {
        let is_open_metrics = |range: &str| {
            let mut parameters = range.split(';').map(str::trim);
            let is_named = parameters.next().is_some_and(|media| media.eq_ignore_ascii_case("application/openmetrics-text"));
            is_named && !parameters.any(|parameter| matches!(parameter, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        };
        if accept.unwrap_or_default().split(',').any(is_open_metrics) { Self::OpenMetrics } else { Self::Text }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Values that are measured at each scrape.
#[derive(Debug, Clone, Copy, Default)]
pub struct Snapshot {
    /// `None` if the queue does not answer.
    pub jobs_unfinished: Option<u64>,
    pub oldest_waiting_job_seconds: Option<f64>,
    pub queue_bytes: u64,
    pub in_flight_bytes: u64,
    /// The dependencies and whether each works; `None` if that is not known yet.
    pub dependencies: [(&'static str, Option<bool>); 3],
}

/// The metrics of all components.
#[derive(Debug, Clone, Copy)]
pub struct AllMetrics<'m> {
    pub service: &'m Metrics,
    pub queue: &'m QueueMetrics,
    pub source: &'m SourceMetrics,
    pub kafka: &'m KafkaMetrics,
    pub now: Snapshot,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BrokerLabel {
    broker: String,
}

impl AllMetrics<'_> {
    pub fn render(&self, exposition: Exposition) -> String {
        let mut all = Registry::default();
        let registry = all.sub_registry_with_prefix("data_patch");
        registry.register("build", "The running version", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        self.register_service(registry);
        self.register_queue(registry);
        registry.register(
            "source_errors",
            "Errors of the IoTA source that ended an attempt, by cause",
            self.source.errors.clone(),
        );
        self.register_kafka(registry);
        process::register(&mut all);
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &all);
        if exposition == Exposition::OpenMetrics { text } else { prometheus_text(&text) }
    }

    fn register_service(&self, registry: &mut Registry) {
        let Metrics {
            tasks_created,
            requests_rejected,
            job_attempts,
            rows_published,
            rows_quarantined,
            connections,
            log_subscriptions,
            jobs_running,
            circuit_breakers_open,
            log_delay,
            traces,
        } = self.service.clone();
        registry.register("tasks_created", "Tasks created", tasks_created);
        registry.register("requests_rejected", "Messages of clients that were rejected, by payload.code", requests_rejected);
        for outcome in OUTCOMES {
            // Adds the series if there is none yet.
            drop(job_attempts.get_or_create(&OutcomeLabel { outcome }));
        }
        registry.register(
            "job_attempts",
            "Attempts on jobs (a job is one device of a task) that ended, by outcome",
            job_attempts,
        );
        registry.register("rows_published", "Rows acknowledged by Kafka", rows_published);
        registry.register("rows_quarantined", "Rows quarantined, because ET cannot read them", rows_quarantined);
        registry.register("trace_spans_exported", "Spans of traces that were sent", traces.exported);
        let help = "Spans of traces that were not sent: too many were waiting, or the receiver failed";
        registry.register("trace_spans_dropped", help, traces.dropped);
        registry.register("connections", "WebSocket connections", connections);
        registry.register("log_subscriptions", "Subscriptions to task logs, summed over connections", log_subscriptions);
        registry.register("jobs_running", "Jobs leased by this process", jobs_running);
        let help = "Circuit breakers that are open, by the kind of dependency: while one is, one job at a time tries it";
        registry.register("circuit_breakers_open", help, circuit_breakers_open);
        let dependency_up = Family::<DependencyLabel, Gauge>::default();
        for (dependency, is_up) in self.now.dependencies {
            if let Some(is_up) = is_up {
                dependency_up.get_or_create(&DependencyLabel { dependency }).set(is_up.into());
            }
        }
        registry.register("dependency_up", "1 if the dependency works, as in /readyz, 0 if not", dependency_up);
        let help = "From the commit of a log entry to its hand-over to a subscribed client's socket";
        registry.register_with_unit("log_delay", help, Unit::Seconds, log_delay.into_histogram());
    }

    fn register_queue(&self, registry: &mut Registry) {
        let QueueMetrics { errors, leases_lost, commit_seconds, claim_seconds } = self.queue.clone();
        registry.register("queue_errors", "Transactions of the queue that failed, by cause", errors);
        registry.register("leases_lost", "Leases that were lost before their job's work ended", leases_lost);
        registry.register_with_unit("queue_commit", "Duration of a transaction's COMMIT", Unit::Seconds, commit_seconds);
        registry.register_with_unit(
            "queue_claim",
            "From a worker's request for jobs to their leases",
            Unit::Seconds,
            claim_seconds,
        );
        let Snapshot { jobs_unfinished, oldest_waiting_job_seconds, queue_bytes, .. } = self.now;
        registry.register_with_unit(
            "queue_size",
            "The queue file and its write-ahead log",
            Unit::Bytes,
            integer_gauge(queue_bytes),
        );
        if let Some(jobs) = jobs_unfinished {
            registry.register("jobs_unfinished", "Jobs that wait or run, in the whole queue", integer_gauge(jobs));
        }
        if let Some(seconds) = oldest_waiting_job_seconds {
            let help = "How long the oldest due job has been waiting for a worker; 0 if no job is due";
            registry.register_with_unit("oldest_waiting_job", help, Unit::Seconds, float_gauge(seconds));
        }
    }

    fn register_kafka(&self, registry: &mut Registry) {
        let (clients, state) = self.kafka.state();
        let metrics = self.kafka.clone();
        registry.register("kafka_errors", "Errors of Kafka that ended or restarted an attempt, by cause", metrics.errors);
        let help = "From the hand-over of rows to librdkafka to the acknowledgement of the last of them";
        registry.register_with_unit("kafka_acknowledgement", help, Unit::Seconds, metrics.acknowledgement.into_histogram());
        let help = "Bytes that are read and not acknowledged yet";
        registry.register_with_unit("in_flight", help, Unit::Bytes, integer_gauge(self.now.in_flight_bytes));
        registry.register("kafka_client_requests", "librdkafka: requests sent", metrics.requests);
        registry.register("kafka_client_request_errors", "librdkafka: requests that could not be sent", metrics.request_errors);
        registry.register("kafka_client_request_retries", "librdkafka: requests retried", metrics.request_retries);
        registry.register("kafka_client_request_timeouts", "librdkafka: requests that timed out", metrics.request_timeouts);
        registry.register_with_unit("kafka_client_sent", "librdkafka: bytes sent", Unit::Bytes, metrics.sent_bytes);
        registry.register("kafka_client_disconnects", "librdkafka: connections lost", metrics.disconnects);
        registry.register("kafka_client_producers", "librdkafka: producers", integer_gauge(clients as u64));
        let queued = integer_gauge(state.queued_messages);
        registry.register("kafka_client_queued_messages", "librdkafka: messages queued and in flight", queued);
        let help = "librdkafka: bytes of messages queued and in flight";
        registry.register_with_unit("kafka_client_queued", help, Unit::Bytes, integer_gauge(state.queued_bytes));
        let help = "librdkafka: the longest throttling by a broker's quota in the last period";
        registry.register_with_unit("kafka_client_throttle", help, Unit::Seconds, float_gauge(state.throttle_seconds));
        let round_trip = Family::<BrokerLabel, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
        for (broker, seconds) in state.round_trip_seconds {
            round_trip.get_or_create(&BrokerLabel { broker }).set(seconds);
        }
        let help = "librdkafka: mean round trip to a broker in the last period, of the producer with the longest";
        registry.register_with_unit("kafka_client_round_trip", help, Unit::Seconds, round_trip);
    }
}

/// Converts an OpenMetrics text to the Prometheus text format 0.0.4. The samples are the same. In
/// this format HELP and TYPE have the names of the samples (with `_total` and `_info`), and there
/// is no type `info`, no UNIT and no end mark.
fn prometheus_text(open_metrics: &str) -> String {
    let parse_metadata = |line: &str, what: &str| {
        let (name, rest) = line.strip_prefix(what)?.split_once(' ')?;
        Some((name.to_owned(), rest.to_owned()))
    };
    let types: Vec<(String, String)> = open_metrics.lines().filter_map(|line| parse_metadata(line, "# TYPE ")).collect();
    let of_type =
        |kind: &str| -> HashSet<&str> { types.iter().filter(|(_, its)| its == kind).map(|(name, _)| name.as_str()).collect() };
    let (counters, infos) = (of_type("counter"), of_type("info"));
    let sample_name = |name: &str| match name {
        name if counters.contains(name) => format!("{name}_total"),
        name if infos.contains(name) => format!("{name}_info"),
        name => name.to_owned(),
    };
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        if let Some((name, help)) = parse_metadata(line, "# HELP ") {
            let _ = writeln!(text, "# HELP {} {help}", sample_name(&name));
        } else if let Some((name, kind)) = parse_metadata(line, "# TYPE ") {
            let kind = if kind == "info" { "gauge" } else { &kind };
            let _ = writeln!(text, "# TYPE {} {kind}", sample_name(&name));
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_used_only_if_accept_names_it() {
        for (accept, exposition) in [
            (None, Exposition::Text),
            (Some("*/*"), Exposition::Text),
            (Some("text/plain;version=0.0.4"), Exposition::Text),
            (Some("application/openmetrics-text; version=1.0.0,text/plain;q=0.5"), Exposition::OpenMetrics),
            (Some("text/plain, Application/OpenMetrics-Text;q=0.1"), Exposition::OpenMetrics),
            (Some("application/openmetrics-text;q=0, */*"), Exposition::Text),
        ] {
            assert_eq!(Exposition::accepted(accept), exposition, "{accept:?}");
        }
    }

    #[test]
    fn the_text_format_has_the_samples_of_open_metrics_and_its_own_metadata() {
        let open_metrics = "# HELP a Counts.\n# TYPE a counter\na_total 1\n# HELP b_seconds Lasts.\n# TYPE b_seconds gauge\n\
                            # UNIT b_seconds seconds\nb_seconds 0.5\n# HELP c Tells.\n# TYPE c info\nc_info{v=\"1\"} 1\n# EOF\n";
        let text = "# HELP a_total Counts.\n# TYPE a_total counter\na_total 1\n# HELP b_seconds Lasts.\n# TYPE b_seconds gauge\n\
                    b_seconds 0.5\n# HELP c_info Tells.\n# TYPE c_info gauge\nc_info{v=\"1\"} 1\n";
        assert_eq!(prometheus_text(open_metrics), text);
    }
}
