//! Things and devices to choose from, and the service itself.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Role;

/// A bridge, tunnel or dam.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ThingView {
    pub thing_id: Uuid,
    /// `null` if no table of things is configured.
    pub name: Option<String>,
    /// The number of its devices.
    pub devices: u64,
}

/// A device that is mounted on a thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeviceView {
    pub device_id: Uuid,
    pub name: Option<String>,
}

/// The service that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    pub version: String,
    /// The id of this running service.
    pub instance: String,
    pub started_at: DateTime<Utc>,
    pub uptime_seconds: u64,
    /// The kind of database that the queue is in: `sqlite` or `postgres`.
    pub queue: String,
    /// The instances on the queue: those that are alive, or have jobs.
    #[serde(default)]
    pub instances: Vec<InstanceView>,
    pub token: TokenView,
    pub limits: Limits,
}

/// A service on the queue, and what it works on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct InstanceView {
    pub instance: String,
    /// `null`, as the next ones, where the queue does not know it: of other services on a file.
    pub host: Option<String>,
    pub pid: Option<u32>,
    pub version: Option<String>,
    pub started_at: Option<DateTime<Utc>>,
    /// Milliseconds since it last said that it is alive; it does so every second.
    pub silent_ms: Option<u64>,
    /// It hands its jobs back, and takes no others.
    pub draining: bool,
    /// Its running jobs.
    pub jobs: u64,
    /// The tasks that these belong to.
    pub tasks: u64,
}

/// The token of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct TokenView {
    pub name: String,
    pub role: Role,
}

/// What requests must respect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Devices of one request.
    pub max_devices: u64,
    /// Bytes of a request's body.
    pub max_body_bytes: u64,
    /// The topic of a request that names none.
    pub default_topic: String,
    /// The topics that requests may name; empty: any.
    pub topics: Vec<String>,
    /// The zone of times without an offset.
    pub time_zone: String,
    /// Days until a finished task is removed.
    pub retention_days: u32,
    /// The rate of a task that names none; `null`: no limit.
    pub default_rate: Option<u32>,
    /// The highest rate that a task may have; `null`: no limit.
    pub max_rate: Option<u32>,
}
