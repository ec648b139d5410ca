//! The text of `/metrics`: Prometheus' own format, or OpenMetrics where the scraper asks for it.

use std::{collections::HashSet, fmt::Write as _};

use data_patch_queue::QueueMetrics;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

use super::metrics::{KafkaMetrics, Metrics, StoreMetrics};

/// What the text is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus' text format 0.0.4, which everything reads.
    Text,
    OpenMetrics,
}

impl Exposition {
    /// By an `Accept` header: OpenMetrics only if it is named.
    pub fn accepted(accept: Option<&str>) -> Self {
        let names_it = |part: &str| {
            let mut words = part.split(';').map(str::trim);
            let is_named = words.next().is_some_and(|media| media.eq_ignore_ascii_case("application/openmetrics-text"));
            is_named && !words.any(|word| matches!(word, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        };
        if accept.unwrap_or_default().split(',').any(names_it) { Self::OpenMetrics } else { Self::Text }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What is measured when somebody asks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Snapshot {
    /// `None`: the queue does not answer.
    pub jobs_unfinished: Option<u64>,
    pub oldest_waiting_job_seconds: Option<f64>,
    pub queue_bytes: u64,
    pub in_flight_bytes: u64,
}

/// The metrics of all parts.
#[derive(Debug, Clone, Copy)]
pub struct AllMetrics<'m> {
    pub service: &'m Metrics,
    pub queue: &'m QueueMetrics,
    pub store: &'m StoreMetrics,
    pub kafka: &'m KafkaMetrics,
    pub now: Snapshot,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BrokerLabel {
    broker: String,
}

impl AllMetrics<'_> {
    pub fn render(&self, exposition: Exposition) -> String {
        let mut registry = Registry::with_prefix("data_patch");
        registry.register("build", "The running version", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        self.register_service(&mut registry);
        self.register_queue(&mut registry);
        registry.register("store_errors", "Errors of the IoTA store that ended an attempt, by cause", self.store.errors.clone());
        self.register_kafka(&mut registry);
        let mut text = String::new();
        // Writing to a string can't fail.
        let _ = encode(&mut text, &registry);
        if exposition == Exposition::OpenMetrics { text } else { plain(&text) }
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
            log_delay,
        } = self.service.clone();
        registry.register("tasks_created", "Tasks created", tasks_created);
        registry.register("requests_rejected", "Messages of clients that were rejected, by payload.code", requests_rejected);
        registry.register(
            "job_attempts",
            "Attempts on jobs (a job is one device of a task) that ended, by outcome",
            job_attempts,
        );
        registry.register("rows_published", "Rows acknowledged by Kafka", rows_published);
        registry.register("rows_quarantined", "Rows held back, since ET could not read them", rows_quarantined);
        registry.register("connections", "WebSocket connections", connections);
        registry.register("log_subscriptions", "Tasks watched, summed over connections", log_subscriptions);
        registry.register("jobs_running", "Jobs leased by this process", jobs_running);
        let help = "From the commit of a log line to its hand-over to a watching client's socket";
        registry.register_with_unit("log_delay", help, Unit::Seconds, log_delay.0);
    }

    fn register_queue(&self, registry: &mut Registry) {
        let QueueMetrics { errors, leases_lost, commit_seconds, claim_seconds } = self.queue.clone();
        registry.register("queue_errors", "Transactions of the queue that failed, by cause", errors);
        registry.register("leases_lost", "Leases that ended before their job's work did", leases_lost);
        registry.register_with_unit("queue_commit", "Duration of a transaction's COMMIT", Unit::Seconds, commit_seconds);
        registry.register_with_unit(
            "queue_claim",
            "From a worker's request for jobs to their leases",
            Unit::Seconds,
            claim_seconds,
        );
        let Snapshot { jobs_unfinished, oldest_waiting_job_seconds, queue_bytes, .. } = self.now;
        registry.register_with_unit("queue_size", "The queue file and its write-ahead log", Unit::Bytes, whole(queue_bytes));
        if let Some(jobs) = jobs_unfinished {
            registry.register("jobs_unfinished", "Jobs that wait or run, in the whole queue", whole(jobs));
        }
        if let Some(seconds) = oldest_waiting_job_seconds {
            let help = "How long the job that has waited longest has been due and not leased by any worker; 0 where none is due";
            registry.register_with_unit("oldest_waiting_job", help, Unit::Seconds, real(seconds));
        }
    }

    fn register_kafka(&self, registry: &mut Registry) {
        let (clients, state) = self.kafka.state();
        let metrics = self.kafka.clone();
        registry.register(
            "kafka_errors",
            "Errors of Kafka that ended an attempt or made it start again, by cause",
            metrics.errors,
        );
        let help = "From the hand-over of rows to librdkafka to the acknowledgement of the last of them";
        registry.register_with_unit("kafka_acknowledgement", help, Unit::Seconds, metrics.acknowledgement.0);
        let help = "Bytes that are read and not acknowledged yet";
        registry.register_with_unit("in_flight", help, Unit::Bytes, whole(self.now.in_flight_bytes));
        registry.register("kafka_client_requests", "librdkafka: requests sent", metrics.requests);
        registry.register("kafka_client_request_errors", "librdkafka: requests that could not be sent", metrics.request_errors);
        registry.register("kafka_client_request_retries", "librdkafka: requests sent again", metrics.request_retries);
        registry.register(
            "kafka_client_request_timeouts",
            "librdkafka: requests with no answer in time",
            metrics.request_timeouts,
        );
        registry.register_with_unit("kafka_client_sent", "librdkafka: bytes sent", Unit::Bytes, metrics.sent_bytes);
        registry.register("kafka_client_disconnects", "librdkafka: connections that ended", metrics.disconnects);
        registry.register("kafka_client_producers", "librdkafka: producers", whole(clients as u64));
        let queued = whole(state.queued_messages);
        registry.register("kafka_client_queued_messages", "librdkafka: messages in its queues and on the wire", queued);
        let help = "librdkafka: bytes of messages in its queues and on the wire";
        registry.register_with_unit("kafka_client_queued", help, Unit::Bytes, whole(state.queued_bytes));
        let help = "librdkafka: the longest that a broker's quota made it wait in the last period";
        registry.register_with_unit("kafka_client_throttle", help, Unit::Seconds, real(state.throttle_seconds));
        let round_trip = Family::<BrokerLabel, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
        for (broker, seconds) in state.round_trip_seconds {
            round_trip.get_or_create(&BrokerLabel { broker }).set(seconds);
        }
        let help = "librdkafka: mean time of a broker's answer in the last period, of the producer that waits longest";
        registry.register_with_unit("kafka_client_round_trip", help, Unit::Seconds, round_trip);
    }
}

fn whole(value: u64) -> Gauge {
    let gauge = Gauge::<i64>::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    gauge
}

fn real(value: f64) -> Gauge<f64, std::sync::atomic::AtomicU64> {
    let gauge = Gauge::default();
    gauge.set(value);
    gauge
}

/// Prometheus' text format 0.0.4 of an OpenMetrics text. The samples are the same; in this format the descriptions bear the
/// names of the samples (with `_total` and `_info`), there is no type `info`, no unit and no end mark.
fn plain(open_metrics: &str) -> String {
    let described = |line: &str, what: &str| {
        let (name, rest) = line.strip_prefix(what)?.split_once(' ')?;
        Some((name.to_owned(), rest.to_owned()))
    };
    let types: Vec<(String, String)> = open_metrics.lines().filter_map(|line| described(line, "# TYPE ")).collect();
    let of_type =
        |kind: &str| -> HashSet<&str> { types.iter().filter(|(_, its)| its == kind).map(|(name, _)| name.as_str()).collect() };
    let (counters, infos) = (of_type("counter"), of_type("info"));
    let full = |name: &str| match name {
        name if counters.contains(name) => format!("{name}_total"),
        name if infos.contains(name) => format!("{name}_info"),
        name => name.to_owned(),
    };
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        if let Some((name, help)) = described(line, "# HELP ") {
            let _ = writeln!(text, "# HELP {} {help}", full(&name));
        } else if let Some((name, kind)) = described(line, "# TYPE ") {
            let kind = if kind == "info" { "gauge" } else { &kind };
            let _ = writeln!(text, "# TYPE {} {kind}", full(&name));
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
    fn open_metrics_is_for_those_who_name_it() {
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
    fn the_plain_text_has_the_samples_of_open_metrics_and_no_word_of_it() {
        let open_metrics = "# HELP a Counts.\n# TYPE a counter\na_total 1\n# HELP b_seconds Lasts.\n# TYPE b_seconds gauge\n\
                            # UNIT b_seconds seconds\nb_seconds 0.5\n# HELP c Tells.\n# TYPE c info\nc_info{v=\"1\"} 1\n# EOF\n";
        let text = "# HELP a_total Counts.\n# TYPE a_total counter\na_total 1\n# HELP b_seconds Lasts.\n# TYPE b_seconds gauge\n\
                    b_seconds 0.5\n# HELP c_info Tells.\n# TYPE c_info gauge\nc_info{v=\"1\"} 1\n";
        assert_eq!(plain(open_metrics), text);
    }
}
