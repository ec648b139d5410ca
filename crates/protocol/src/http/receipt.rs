//! What a task has published, and whether the topic still has it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::TaskView;

/// What a task has published: finally once it is finished, so far before that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    pub task: TaskView,
    /// The task is finished: nothing more is added.
    pub is_final: bool,
    pub devices: Vec<DeviceReceipt>,
}

/// What a task has published of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeviceReceipt {
    pub device_id: Uuid,
    pub name: Option<String>,
    pub state: crate::task::JobState,
    /// Rows in the range; `null` until they are counted.
    pub counted: Option<u64>,
    /// Rows acknowledged by Kafka, each counted once.
    pub published: u64,
    pub quarantined: u64,
    /// Messages in the topic beyond one for each row: rows that were sent again, as far as they are
    /// known.
    pub repeated: u64,
    /// `false` if a worker was lost: what it had sent after its last checkpoint was sent again by
    /// the next one, and nobody has counted it. A verification does.
    pub repeated_is_exact: bool,
    pub first_row: Option<RowPosition>,
    pub last_row: Option<RowPosition>,
    pub partitions: Vec<PartitionRange>,
    /// Rows whose offset the broker did not tell; they may lie outside the offsets of
    /// `partitions`.
    pub unlocated: u64,
    /// The sum modulo 2^128 of XXH3-128 over `row id ‖ 0 ‖ document` of each published row, in 32
    /// hexadecimal digits. The row id is the value of the header `data-patch-row`. `null` if rows
    /// were published by a version that did not compute it.
    pub checksum: Option<String>,
}

/// A row: the time of the reading, and the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct RowPosition {
    pub time: String,
    pub key: String,
}

/// The offsets of a device's messages in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct PartitionRange {
    pub partition: i32,
    pub first_offset: i64,
    /// Inclusive.
    pub last_offset: i64,
}

/// A line of the answer (NDJSON) of a verification: progress, then the verdict of each device, then
/// the summary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum VerifyLine {
    Progress(VerifyProgress),
    Device(DeviceVerdict),
    Summary(VerifySummary),
    /// The verification ended here, without a result.
    Error(VerifyError),
}

/// Why a verification has no result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct VerifyError {
    pub detail: String,
}

/// How far the topic is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct VerifyProgress {
    /// Messages that are read, of all that lie between the offsets.
    pub read: u64,
    pub total: u64,
}

/// What the topic has of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeviceVerdict {
    pub device_id: Uuid,
    pub name: Option<String>,
    pub verdict: Verdict,
    /// Rows that the receipt names.
    pub published: u64,
    /// Different rows of this task in the topic.
    pub found: u64,
    /// Further copies of rows in the topic.
    pub repeated: u64,
    /// Rows that the topic does not have, at most ten of them by their `data-patch-row`.
    pub missing: Vec<String>,
    pub missing_count: u64,
    /// Rows whose document differs from the source's, at most ten.
    pub altered: Vec<String>,
    pub altered_count: u64,
    /// Rows that the task did not publish, at most ten.
    pub unexpected: Vec<String>,
    pub unexpected_count: u64,
    /// What the numbers do not say: why nothing is known, or why rows are not named.
    pub reason: Option<String>,
}

/// The result of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The topic has exactly the rows of the receipt.
    Complete,
    /// Rows are missing, altered or unexpected.
    Differs,
    /// The topic does not have these offsets any more (retention, compaction), or was made anew.
    Unknown,
}

/// The result for a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct VerifySummary {
    pub verdict: Verdict,
    pub devices: u64,
    pub complete_devices: u64,
    pub differing_devices: u64,
    pub unknown_devices: u64,
    pub published: u64,
    pub found: u64,
    pub repeated: u64,
    pub checked_at: DateTime<Utc>,
    pub took_ms: u64,
}
