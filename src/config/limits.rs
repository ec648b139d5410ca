//! Limits of single values, and conditions between several.

use hyper::{
    Uri,
    header::{HeaderName, HeaderValue},
};
use tracing_subscriber::EnvFilter;

use super::{Config, Readings, ReadingsUrl, SecretUrl, Telemetry};

/// A value that is of the right type and still refused.
#[derive(Debug)]
pub struct Violation {
    pub key: String,
    pub problem: String,
    /// Another option that decides whether this value is good.
    pub depends_on: Option<&'static str>,
}

/// Checks the limits of all options.
///
/// # Errors
/// The first option that violates its limits.
pub fn check(config: &Config) -> Result<(), Violation> {
    let Config { server, queue, worker, iota, kafka, validation, .. } = config;
    let day = 86_400;
    check_range("server.max_message_bytes", server.max_message_bytes as u64, 1_024, 1 << 30)?;
    check_range("server.max_connections", server.max_connections as u64, 1, 1_000_000)?;
    check_range("server.max_unauthenticated_per_address", server.max_unauthenticated_per_address as u64, 1, 1_000_000)?;
    check_range("server.max_buffered_bytes", server.max_buffered_bytes as u64, 1_024, 1 << 40)?;
    check_range("server.handshake_seconds", server.handshake_seconds, 1, 600)?;
    check_range("server.auth_seconds", server.auth_seconds, 1, day)?;
    check_range("server.max_devices", server.max_devices as u64, 1, 1_000_000)?;
    check_range("server.ping_seconds", server.ping_seconds, 1, day)?;
    check_range("server.idle_seconds", server.idle_seconds, 1, day * 365)?;
    check_range("server.shutdown_seconds", server.shutdown_seconds, 1, 3_600)?;
    check_range("queue.read_connections", u64::from(queue.read_connections), 1, 64)?;
    check_range("queue.dead_after_seconds", u64::from(queue.dead_after_seconds), 2, 300)?;
    check_range("queue.retention_days", u64::from(queue.retention_days), 1, 36_500)?;
    check_range("worker.concurrency", worker.concurrency as u64, 1, 1_024)?;
    check_range("worker.max_jobs_per_thing", worker.max_jobs_per_thing as u64, 0, 1_000_000)?;
    check_range("worker.max_readers", u64::from(worker.max_readers), 0, 1_000_000)?;
    check_range("worker.lease_seconds", worker.lease_seconds, 2, day)?;
    check_range("worker.checkpoint_interval_ms", worker.checkpoint_interval_ms, 10, 3_600_000)?;
    check_range("worker.progress_log_interval_ms", worker.progress_log_interval_ms, 10, 3_600_000)?;
    check_range("worker.stall_warning_seconds", worker.stall_warning_seconds, 1, day)?;
    check_range("worker.preempt_after_seconds", worker.preempt_after_seconds, 1, day)?;
    check_range("worker.max_crashes", u64::from(worker.max_crashes), 1, 1_000)?;
    check_range("worker.retry_initial_ms", worker.retry_initial_ms, 1, 3_600_000)?;
    check_range("worker.retry_max_ms", worker.retry_max_ms, 1, day * 1_000)?;
    check_range("iota.connections", u64::from(iota.connections), 2, 256)?;
    check_range("iota.page_rows", u64::from(iota.page_rows), 1, 10_000_000)?;
    check_range("iota.read_ahead_bytes", iota.read_ahead_bytes as u64, 1 << 20, 1 << 31)?;
    check_range("iota.max_blocking_seconds", iota.max_blocking_seconds, 1, 3_600)?;
    check_range("iota.timeout_seconds", iota.timeout_seconds, 1, 3_600)?;
    check_range("iota.query_timeout_seconds", iota.query_timeout_seconds, 1, day)?;
    check_range("kafka.in_flight_bytes", kafka.in_flight_bytes as u64, 65_536, 1 << 31)?;
    check_range("kafka.lookup_timeout_seconds", kafka.lookup_timeout_seconds, 1, 600)?;
    check_range("validation.max_quarantined", validation.max_quarantined, 1, 100_000_000)?;
    check_strings(config)?;
    check_telemetry(&config.telemetry)?;
    check_readings(&iota.readings)?;
    if worker.checkpoint_interval_ms * 3 > worker.lease_seconds * 1_000 {
        let problem = "must be at most a third of worker.lease_seconds, or healthy jobs would lose their leases";
        return Err(conflict("worker.checkpoint_interval_ms", problem, "worker.lease_seconds"));
    }
    if server.max_buffered_bytes / 2 < server.max_message_bytes {
        let problem = "must be at least twice server.max_message_bytes";
        return Err(conflict("server.max_buffered_bytes", problem, "server.max_message_bytes"));
    }
    if !kafka.topics.is_empty() && !kafka.topics.contains(&kafka.default_topic) {
        let problem = "is not in kafka.topics, the topics that requests may name; add it there";
        return Err(conflict("kafka.default_topic", problem, "kafka.topics"));
    }
    for (name, _) in kafka.properties.iter() {
        if FIXED_PROPERTIES.contains(&name) {
            let problem = "cannot be changed: the guarantees of no loss and of order depend on it";
            return Err(invalid(&format!("kafka.properties.{name}"), problem));
        }
    }
    Ok(())
}

/// Checks that a URL can be that of a queue.
///
/// # Errors
/// What is wrong with it.
pub fn check_queue_url(url: &SecretUrl) -> Result<(), &'static str> {
    if ["sqlite:", "postgres://", "postgresql://"].iter().any(|scheme| url.reveal().starts_with(scheme)) {
        return Ok(());
    }
    Err("must begin with sqlite: (\"sqlite://data/queue.db\") or postgres:// (\"postgres://user@host/database\")")
}

fn check_strings(config: &Config) -> Result<(), Violation> {
    check_queue_url(&config.queue.url).map_err(|problem| invalid("queue.url", problem))?;
    if config.iota.database().is_none() {
        return Err(invalid("iota.url", "must begin with postgres:// or sqlite:"));
    }
    if config.kafka.brokers.trim().is_empty() {
        let problem = "is empty; give host:port, or \"embedded\" for a broker in this process";
        return Err(invalid("kafka.brokers", problem));
    }
    if let Err(error) = EnvFilter::try_new(&config.log.level) {
        let problem = format!("{:?} is not a level or filter ({error}); \"info\" is one", config.log.level);
        return Err(invalid("log.level", &problem));
    }
    Ok(())
}

fn check_readings(readings: &Readings) -> Result<(), Violation> {
    check_range("iota.readings.settle_seconds", u64::from(readings.settle_seconds), 0, 3_600)?;
    if !readings.is_configured() {
        return Ok(());
    }
    let url = ReadingsUrl::parse(&readings.url).map_err(|problem| invalid("iota.readings.url", problem))?;
    for (key, name) in [("iota.readings.device", &readings.device), ("iota.readings.time", &readings.time)] {
        if name.is_empty() {
            return Err(invalid(key, "is empty; it names a field of the documents"));
        }
    }
    if !readings.has_one_credential_at_most(&url) {
        let problem = "is one of several credentials; give one of: user and password in the url, username and password, api_key, bearer_token";
        return Err(conflict("iota.readings.url", problem, "iota.readings.username"));
    }
    Ok(())
}

fn check_telemetry(telemetry: &Telemetry) -> Result<(), Violation> {
    let Telemetry { endpoint, headers, sample_ratio, service_name } = telemetry;
    if !(0.0..=1.0).contains(sample_ratio) {
        return Err(invalid("telemetry.sample_ratio", "must be from 0 to 1"));
    }
    if service_name.trim().is_empty() {
        return Err(invalid("telemetry.service_name", "is empty; \"data-patch\" is the default"));
    }
    // Not shown: a value may be a token.
    if headers
        .pairs()
        .any(|(name, value)| HeaderName::try_from(name).is_err() || value.is_empty() || HeaderValue::try_from(value).is_err())
    {
        return Err(invalid("telemetry.headers", "must be like \"name=value,name=value\""));
    }
    if endpoint.is_empty() {
        return Ok(());
    }
    if !cfg!(feature = "otlp") {
        return Err(invalid("telemetry.endpoint", "needs a build with `--features otlp`"));
    }
    let url: Option<Uri> = endpoint.parse().ok();
    let is_base =
        |url: &Uri| matches!(url.scheme_str(), Some("http" | "https")) && url.authority().is_some() && url.query().is_none();
    if !url.is_some_and(|url| is_base(&url)) {
        return Err(invalid("telemetry.endpoint", "must be a URL like \"http://collector:4318\""));
    }
    // It is logged.
    if endpoint.contains('@') {
        return Err(invalid("telemetry.endpoint", "has a password, which would be shown; put it into telemetry.headers"));
    }
    Ok(())
}

/// Properties of librdkafka that the guarantees depend on, or that have an option of their own.
const FIXED_PROPERTIES: [&str; 17] = [
    "delivery.report.only.error",
    "queue.buffering.max.messages",
    "queue.buffering.max.kbytes",
    "acks",
    "request.required.acks",
    "enable.idempotence",
    "enable.gapless.guarantee",
    "batch.size",
    "partitioner",
    "bootstrap.servers",
    "metadata.broker.list",
    "message.timeout.ms",
    "delivery.timeout.ms",
    "allow.auto.create.topics",
    "message.max.bytes",
    "transactional.id",
    "test.mock.num.brokers",
];

fn check_range(key: &str, value: u64, least: u64, most: u64) -> Result<(), Violation> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(invalid(key, &format!("is {value}; it must be between {least} and {most}")))
}

fn invalid(key: &str, problem: &str) -> Violation {
    Violation { key: key.to_owned(), problem: problem.to_owned(), depends_on: None }
}

fn conflict(key: &str, problem: &str, depends_on: &'static str) -> Violation {
    Violation { depends_on: Some(depends_on), ..invalid(key, problem) }
}
