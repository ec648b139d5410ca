//! Puts the sources together and checks the whole.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use super::{Config, sources};

/// The default of every option: the commented file at the root of the project.
pub const DEFAULTS: &str = include_str!("../../config.toml");

/// What stops the start, with the key and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("configuration file {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{origin} is not valid TOML: {problem}")]
    Syntax { origin: String, problem: String },
    #[error(
        "environment variable {0} names no option; options are DATA_PATCH_<SECTION>_<KEY> as in config.toml, for example DATA_PATCH_IOTA_URL"
    )]
    UnknownVariable(String),
    #[error("{origin}: {key}: {problem}")]
    Value { origin: String, key: String, problem: String },
    #[error("no token: start with --token, set DATA_PATCH_TOKEN, or name a file in [server] token_file")]
    NoToken,
}

/// What flags say; above all other sources.
#[derive(Debug, Default)]
pub struct Overrides(Table);

impl Overrides {
    /// Sets the option at `path`.
    pub fn set(&mut self, path: &[&str], value: impl Into<Value>) -> &mut Self {
        sources::set(&mut self.0, path, value.into());
        self
    }
}

/// Reads the configuration: defaults, then `file`, then `variables`, then `overrides`.
///
/// # Errors
/// A file that can't be read, an unknown key, a value of the wrong type or out of its limits: each names the key.
pub fn load(
    file: Option<&Path>,
    variables: impl Iterator<Item = (String, String)>,
    overrides: Overrides,
) -> Result<Config, ConfigError> {
    let defaults = parse("the built-in config.toml", DEFAULTS)?;
    let mut merged = defaults.clone();
    let mut origin = "the configuration".to_owned();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        origin = format!("configuration file {}", path.display());
        sources::merge(&mut merged, parse(&origin, &text)?);
    }
    sources::apply_env(&mut merged, &defaults, variables)?;
    sources::merge(&mut merged, overrides.0);

    let config: Config = serde_path_to_error::deserialize(Value::Table(merged)).map_err(|error| ConfigError::Value {
        origin,
        key: error.path().to_string(),
        problem: error.inner().to_string().trim().to_owned(),
    })?;
    check(&config)?;
    Ok(config)
}

fn parse(origin: &str, text: &str) -> Result<Table, ConfigError> {
    Table::deserialize(toml::Deserializer::parse(text).map_err(|error| syntax(origin, text, &error))?)
        .map_err(|error| syntax(origin, text, &error))
}

fn syntax(origin: &str, text: &str, error: &toml::de::Error) -> ConfigError {
    // Without the line itself: it may be the one with the password.
    let line = error.span().map_or(0, |span| text.get(..span.start).unwrap_or_default().lines().count().max(1));
    let problem = format!("line {line}: {}", error.message());
    ConfigError::Syntax { origin: origin.to_owned(), problem }
}

/// Limits of single values, and what must fit together.
fn check(config: &Config) -> Result<(), ConfigError> {
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
    check_range("queue.retention_days", u64::from(queue.retention_days), 1, 36_500)?;
    check_range("worker.concurrency", worker.concurrency as u64, 1, 1_024)?;
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
    if worker.checkpoint_interval_ms * 3 > worker.lease_seconds * 1_000 {
        return Err(invalid(
            "worker.checkpoint_interval_ms",
            "must be at most a third of worker.lease_seconds, or leases would be lost while the work goes well",
        ));
    }
    if server.max_buffered_bytes / 2 < server.max_message_bytes {
        return Err(invalid("server.max_buffered_bytes", "must be at least twice server.max_message_bytes"));
    }
    if !queue.url.reveal().starts_with("sqlite:") {
        return Err(invalid("queue.url", "must begin with sqlite: (\"sqlite://data/queue.db\")"));
    }
    let store = iota.url.reveal();
    if !["postgres://", "postgresql://", "sqlite:"].iter().any(|scheme| store.starts_with(scheme)) {
        return Err(invalid("iota.url", "must begin with postgres:// or sqlite:"));
    }
    if kafka.brokers.trim().is_empty() {
        return Err(invalid("kafka.brokers", "is empty; give host:port, or \"embedded\" for a broker in the process"));
    }
    if !kafka.topics.is_empty() && !kafka.topics.contains(&kafka.default_topic) {
        return Err(invalid("kafka.default_topic", "is not in kafka.topics, the topics that requests may name; add it there"));
    }
    for (name, _) in kafka.properties.iter() {
        if FIXED_PROPERTIES.contains(&name) {
            return Err(invalid(
                &format!("kafka.properties.{name}"),
                "can't be changed: nothing lost and nothing out of order rest on it",
            ));
        }
    }
    Ok(())
}

/// librdkafka's properties that the promises rest on, or that have an option of their own.
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

fn check_range(key: &str, value: u64, least: u64, most: u64) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(invalid(key, &format!("is {value}; it must be between {least} and {most}")))
}

fn invalid(key: &str, problem: &str) -> ConfigError {
    ConfigError::Value { origin: "the configuration".to_owned(), key: key.to_owned(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        load(None, variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())), Overrides::default())
    }

    fn from_file(text: &str) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        load(Some(file.path()), std::iter::empty(), Overrides::default())
    }

    #[test]
    fn the_built_in_file_is_complete_and_valid() {
        assert_eq!(with(&[]).unwrap().server.listen.port(), 18010);
    }

    #[test]
    fn variables_stand_above_the_file_and_flags_above_them() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[worker]\nconcurrency = 2\nlease_seconds = 20\n").unwrap();
        let variables = [
            ("DATA_PATCH_WORKER_CONCURRENCY", "3"),
            ("DATA_PATCH_IOTA_RAW_TABLE", "old.raw"),
            ("DATA_PATCH_KAFKA_TOPICS", "anxinyun_data, b"),
        ];
        let mut flags = Overrides::default();
        flags.set(&["worker", "concurrency"], 4);
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = load(Some(file.path()), variables, flags).unwrap();
        assert_eq!((config.worker.concurrency, config.worker.lease_seconds), (4, 20));
        assert_eq!(config.iota.raw.table, "old.raw");
        assert_eq!(config.kafka.topics, ["anxinyun_data", "b"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("[worker]\nconcurency = 2", "worker.concurency"),
            ("[worker]\nconcurrency = \"two\"", "worker.concurrency"),
            ("[worker]\nconcurrency = 0", "worker.concurrency"),
            ("[worker]\nlease_seconds = 2\ncheckpoint_interval_ms = 700", "worker.checkpoint_interval_ms"),
            ("[validation]\nmode = \"strict\"", "validation.mode"),
            ("[server]\nlisten = \"here\"", "server.listen"),
            ("[server]\ntime_zone = \"Mars\"", "server.time_zone"),
            ("[server]\nunknown_fields = \"ignore\"", "server.unknown_fields"),
            ("[server]\ntrusted_proxies = [\"10.0.0.0/40\"]", "server.trusted_proxies"),
            ("[server]\nmax_buffered_bytes = 2000000", "server.max_buffered_bytes"),
            ("[server]\ntoken = \"123456\"", "token"),
            ("[queue]\nurl = \"postgres://x\"", "queue.url"),
            ("[iota]\nurl = \"mysql://x\"", "iota.url"),
            ("[kafka.properties]\nacks = \"1\"", "kafka.properties.acks"),
            ("[kafka]\ntopics = [\"a\"]", "kafka.default_topic"),
            ("[nothing]\na = 1", "nothing"),
            ("[worker", "not valid TOML"),
        ] {
            let error = from_file(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
        for (name, value) in [
            ("DATA_PATCH_WORKER_CONCURENCY", "1"),
            ("DATA_PATCH_WORKER_CONCURRENCY", "many"),
            ("DATA_PATCH_IOTA_ASSUME_UNIQUE_ROW_KEY", "yes"),
        ] {
            let error = with(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
