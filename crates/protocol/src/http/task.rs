//! Tasks, their devices and their log.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::task::{Event, JobState, Requester, TaskId, TaskState};

/// A request to publish the readings of some devices: the WebSocket's request without its token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct SubmitRequest {
    /// Always `iota`.
    #[cfg_attr(feature = "openapi", schema(pattern = "^iota$", example = "iota"))]
    pub src: String,
    /// The thing that the devices are mounted on.
    pub thing_id: Uuid,
    /// At least one. Duplicates are dropped.
    #[cfg_attr(feature = "openapi", schema(min_items = 1))]
    pub devices: Vec<Uuid>,
    /// Start of the range, inclusive: RFC 3339, or `yyyy-MM-dd HH:mm:ss` in the service's zone.
    #[cfg_attr(feature = "openapi", schema(example = "2019-01-11T21:03:00.000+0800"))]
    pub from: String,
    /// End of the range, inclusive.
    #[cfg_attr(feature = "openapi", schema(example = "2019-01-15T14:30:00.000+0800"))]
    pub to: String,
    /// The Kafka topic; without it the default one.
    #[cfg_attr(
        feature = "openapi",
        schema(min_length = 1, max_length = 249, pattern = "^[a-zA-Z0-9._-]+$", example = "savoir_data")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The same value again creates nothing and answers with the task that it created. In HTTP the
    /// header `Idempotency-Key` is the same.
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 128))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Why the readings are published again; at most 500 characters.
    #[cfg_attr(feature = "openapi", schema(max_length = 500))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Most rows a second, for the whole task.
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct TaskView {
    pub task_id: TaskId,
    pub state: TaskState,
    /// Its jobs wait until it is resumed.
    pub paused: bool,
    /// It is being cancelled: jobs that still run are stopping.
    pub cancel_requested: bool,
    pub thing_id: Uuid,
    pub topic: String,
    /// Start of the range, inclusive.
    pub from: DateTime<Utc>,
    /// End of the range, inclusive.
    pub to: DateTime<Utc>,
    pub request_id: Option<String>,
    pub reason: Option<String>,
    /// Most rows a second, for the whole task; `null`: no limit.
    pub rate: Option<u32>,
    pub requested_by: Option<Requester>,
    /// The task whose devices this one tries again.
    pub retry_of: Option<TaskId>,
    pub created_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
    /// The `seq` of the last entry of its log.
    pub last_seq: u64,
    pub devices: DeviceStates,
    pub rows: RowCounts,
    /// Rows a second at the moment; `null` unless a job of it runs.
    pub rows_per_second: Option<f64>,
    /// When it will be finished at the present speed; `null` if that is unknown.
    pub estimated_end: Option<DateTime<Utc>>,
}

/// The devices of a task by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeviceStates {
    pub total: u64,
    pub queued: u64,
    pub running: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub cancelled: u64,
}

/// The rows of a task or of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct RowCounts {
    /// Rows in the range, of the devices that are counted.
    pub counted: u64,
    /// Devices whose rows are counted.
    pub counted_devices: u64,
    /// Rows acknowledged by Kafka.
    pub published: u64,
    /// Rows not published, because ET cannot read them.
    pub quarantined: u64,
    /// Rows sent and never acknowledged, of cancelled devices. Only these may still arrive.
    pub unanswered: u64,
}

/// A device of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct JobView {
    pub device_id: Uuid,
    /// Known once its rows are counted.
    pub name: Option<String>,
    pub state: JobState,
    /// Rows in the range; `null` until they are counted.
    pub counted: Option<u64>,
    pub published: u64,
    pub quarantined: u64,
    /// Rows a second at the moment; `null` unless it runs.
    pub rows_per_second: Option<f64>,
    /// When it will be finished at the present speed; `null` if that is unknown.
    pub estimated_end: Option<DateTime<Utc>>,
    /// How often a worker has begun with it.
    pub attempts: u64,
    /// Why it failed.
    pub reason: Option<String>,
    /// Why it waits, if the source or Kafka is unavailable.
    pub waiting: Option<Waiting>,
}

/// A device that is retried after a backoff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// Consecutive outages without a row published in between.
    pub outages: u32,
    /// When it is tried again.
    pub next_attempt_at: DateTime<Utc>,
}

/// An entry of a task's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct EventView {
    /// 1, 2, 3 … in each task.
    pub seq: u64,
    pub time: DateTime<Utc>,
    /// Whether it reports a failure.
    pub is_error: bool,
    /// The entry as text: in Chinese if `Accept-Language` prefers it, otherwise in English.
    pub text: String,
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub event: Event,
    /// The final state of the task, on its last entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<TaskState>,
}

/// A row that was not published, because ET cannot read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct QuarantineView {
    pub device_id: Uuid,
    /// The time of the row, as it is stored.
    pub time: String,
    /// The row's key.
    pub key: String,
    pub reason: String,
}

/// Which devices a new task tries again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryRequest {
    #[serde(default)]
    pub devices: RetryDevices,
}

/// Devices of a finished task.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RetryDevices {
    /// Those that failed or were cancelled.
    #[default]
    Failed,
    All,
    #[serde(untagged)]
    List(Vec<Uuid>),
}

// Written by hand: the derive does not know a variant without a tag.
#[cfg(feature = "openapi")]
impl utoipa::PartialSchema for RetryDevices {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::{Array, KnownFormat, ObjectBuilder, OneOfBuilder, SchemaFormat, Type};
        let word = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["failed", "all"]));
        let uuid = SchemaFormat::KnownFormat(KnownFormat::Uuid);
        let device = ObjectBuilder::new().schema_type(Type::String).format(Some(uuid));
        OneOfBuilder::new()
            .description(Some("Those that failed or were cancelled, all, or some devices of a finished task."))
            .item(word)
            .item(Array::new(device))
            .into()
    }
}

#[cfg(feature = "openapi")]
impl utoipa::ToSchema for RetryDevices {
    fn name() -> std::borrow::Cow<'static, str> {
        "RetryDevices".into()
    }
}

/// Changes the rate of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateRequest {
    /// Most rows a second, for the whole task; `null`: no limit.
    #[serde(deserialize_with = "Option::deserialize")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, required = true))]
    pub rate: Option<u32>,
}
