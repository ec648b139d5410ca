//! The configuration: plain types, their limits, and where each value comes from.
//!
//! `config.toml` at the root is compiled in as the default; [`load()`] merges the other layers
//! over it. This module uses no other module of the crate.

mod layers;
mod limits;
mod load;
mod option_names;
mod readings;
mod secret;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    time::Duration,
};

use chrono_tz::Tz;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};

pub use data_patch_validate::ValidationMode;
pub use limits::check_queue_url;
pub use load::{ConfigError, DEFAULTS, Overrides, load};
pub use option_names::did_you_mean;
pub use readings::{Readings, ReadingsUrl};
pub use secret::{Secret, SecretHeaders, SecretUrl};

/// All options. `config.toml` describes each of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub server: Server,
    pub queue: Queue,
    pub worker: Worker,
    pub iota: Iota,
    pub kafka: Kafka,
    pub validation: Validation,
    pub limits: Limits,
    pub telemetry: Telemetry,
    pub log: Log,
}

/// Where traces are sent.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// Empty: nowhere.
    pub endpoint: String,
    pub headers: SecretHeaders,
    pub sample_ratio: f64,
    pub service_name: String,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    #[serde(deserialize_with = "limit_or_none")]
    pub default_rate: Option<NonZeroU32>,
    #[serde(deserialize_with = "limit_or_none")]
    pub max_rate: Option<NonZeroU32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    pub listen: SocketAddr,
    #[serde(deserialize_with = "path_or_none")]
    pub token_file: Option<PathBuf>,
    #[serde(deserialize_with = "path_or_none")]
    pub tokens_file: Option<PathBuf>,
    #[serde(deserialize_with = "time_zone")]
    pub time_zone: Tz,
    pub unknown_fields: UnknownFields,
    pub max_message_bytes: usize,
    pub max_buffered_bytes: usize,
    pub max_connections: usize,
    pub max_unauthenticated_per_address: usize,
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    pub allowed_origins: Vec<String>,
    pub max_devices: usize,
    pub handshake_seconds: u64,
    pub auth_seconds: u64,
    pub ping_seconds: u64,
    pub idle_seconds: u64,
    pub shutdown_seconds: u64,
}

/// What to do with a message that has unknown fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownFields {
    /// Refuse the message.
    Refuse,
    /// Ignore the fields, and name them in the task's first log line.
    Warn,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    pub url: SecretUrl,
    pub read_connections: u32,
    pub dead_after_seconds: u32,
    pub retention_days: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    pub concurrency: usize,
    pub max_jobs_per_thing: usize,
    pub max_readers: u32,
    pub lease_seconds: u64,
    pub checkpoint_interval_ms: u64,
    pub progress_log_interval_ms: u64,
    pub stall_warning_seconds: u64,
    pub preempt_after_seconds: u64,
    pub max_crashes: u32,
    pub retry_initial_ms: u64,
    pub retry_max_ms: u64,
}

impl Worker {
    /// How long a lease is valid after it was claimed or renewed.
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Iota {
    pub url: SecretUrl,
    pub connections: u32,
    pub page_rows: u32,
    pub read_ahead_bytes: usize,
    pub max_blocking_seconds: u64,
    pub timeout_seconds: u64,
    pub query_timeout_seconds: u64,
    #[serde(deserialize_with = "time_zone")]
    pub time_zone: Tz,
    pub assume_unique_row_key: bool,
    pub device: DeviceTable,
    pub thing: ThingTable,
    pub raw: RawTable,
    pub readings: Readings,
}

/// The databases that `iota.url` can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    Postgres,
    Sqlite,
}

impl Iota {
    /// The database that the URL's scheme names.
    pub fn database(&self) -> Option<Database> {
        match self.url.reveal().split_once(':')? {
            ("postgres" | "postgresql", rest) if rest.starts_with("//") => Some(Database::Postgres),
            ("sqlite", _) => Some(Database::Sqlite),
            _ => None,
        }
    }
}

/// Names of the device table and of its columns.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceTable {
    pub table: String,
    pub id: String,
    pub name: String,
    pub thing: String,
}

/// Names of the table of things and of its columns.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThingTable {
    /// Empty: there is none.
    pub table: String,
    pub id: String,
    pub name: String,
}

/// Names of the table of raw readings and of its columns.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTable {
    pub table: String,
    pub id: String,
    pub device: String,
    pub time: String,
    pub doc: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    pub brokers: String,
    pub default_topic: String,
    pub topics: Vec<String>,
    pub in_flight_bytes: usize,
    pub lookup_timeout_seconds: u64,
    pub timestamp: Timestamp,
    pub allow_compacted: bool,
    pub properties: Properties,
}

impl Kafka {
    /// Whether to use a broker in this process, which stores nothing: `brokers = "embedded"`.
    pub fn is_embedded(&self) -> bool {
        self.brokers == "embedded"
    }
}

/// The timestamp of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Timestamp {
    /// The time when it is sent.
    Now,
    /// The time of the reading.
    Reading,
}

/// librdkafka's properties as the operator set them. `Debug` shows no values, since some are
/// passwords.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Properties(std::collections::BTreeMap<String, PropertyValue>);

impl Properties {
    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, String)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.to_string()))
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// librdkafka takes strings; the file may have numbers and booleans too.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum PropertyValue {
    Text(String),
    Number(i64),
    Bool(bool),
}

impl fmt::Display for PropertyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
            Self::Bool(value) => value.fmt(f),
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validation {
    pub mode: ValidationMode,
    pub max_quarantined: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub format: LogFormat,
    pub level: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// 0 means no limit.
fn limit_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroU32>, D::Error> {
    u32::deserialize(deserializer).map(NonZeroU32::new)
}

fn path_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let path = String::deserialize(deserializer)?;
    Ok((!path.is_empty()).then(|| PathBuf::from(path)))
}

fn time_zone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Tz, D::Error> {
    let name = String::deserialize(deserializer)?;
    name.parse()
        .map_err(|_| de::Error::custom(format!("{name:?} is not a time zone of the IANA database; \"Asia/Shanghai\" is one")))
}

fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let read = |text: String| {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map_err(|_| de::Error::custom(format!("{text:?} is not an address or network; \"10.0.0.0/8\" is one")))
    };
    Vec::<String>::deserialize(deserializer)?.into_iter().map(read).collect()
}
