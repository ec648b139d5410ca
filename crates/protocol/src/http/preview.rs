//! What a request would publish.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::task::{TaskId, TaskState};

/// A request for a preview has the fields of a submission.
pub type PreviewRequest = super::SubmitRequest;

/// A line of the answer (NDJSON): one for each device as it is known, then the summary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum PreviewLine {
    Device(DevicePreview),
    Summary(PreviewSummary),
}

/// What would be published of a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct DevicePreview {
    pub device_id: Uuid,
    pub name: Option<String>,
    /// Rows in the range.
    pub rows: u64,
    /// The number of rows is an estimate, because counting would take too long.
    pub is_estimate: bool,
    pub first: Option<DateTime<Utc>>,
    pub last: Option<DateTime<Utc>>,
    /// Estimated bytes of the documents, from a sample.
    pub bytes: u64,
    /// Rows by time; buckets without a row are left out.
    pub buckets: Vec<Bucket>,
    /// Rows that were validated, and how many of them would be quarantined.
    pub sampled: u64,
    pub sample_quarantined: u64,
    /// How long publishing it takes by itself: at the rate asked for, otherwise at the speed of recent
    /// tasks.
    pub estimated_seconds: Option<f64>,
    /// Why the device would fail, or its preview is incomplete.
    pub problem: Option<String>,
}

/// The number of rows in a part of the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Bucket {
    pub start: DateTime<Utc>,
    pub rows: u64,
}

/// The length of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum BucketUnit {
    Minute,
    Hour,
    Day,
}

/// The totals of a preview.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct PreviewSummary {
    pub devices: u64,
    /// Devices that do not exist under the thing, or could not be read.
    pub problem_devices: u64,
    pub rows: u64,
    pub is_estimate: bool,
    pub bytes: u64,
    pub bucket_unit: BucketUnit,
    /// How many units a bucket has.
    pub bucket_units: u32,
    pub sampled: u64,
    pub sample_quarantined: u64,
    /// How long publishing takes: at the rate asked for, otherwise at the speed of recent tasks.
    pub estimated_seconds: Option<f64>,
    /// Tasks of the retention period with a device of this request and an overlapping range.
    pub overlaps: Vec<Overlap>,
}

/// A task that publishes, or has published, some of the same rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Overlap {
    pub task_id: TaskId,
    pub state: TaskState,
    pub topic: String,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub reason: Option<String>,
    /// The devices that both have, at most ten.
    pub devices: Vec<Uuid>,
    /// How many devices both have.
    pub device_count: u64,
}
