//! The messages of the HTTP API, both ways. JSON in camelCase; times are RFC 3339 in UTC.
//!
//! `docs/api.md` describes the endpoints. With the feature `openapi` the types describe themselves
//! as schemas.

mod catalog;
mod preview;
mod receipt;
mod task;

use serde::{Deserialize, Serialize};

pub use crate::Role;
pub use catalog::{DeviceView, InstanceView, Limits, ServiceView, ThingView, TokenView};
pub use preview::{Bucket, BucketUnit, DevicePreview, Overlap, PreviewLine, PreviewRequest, PreviewSummary};
pub use receipt::{
    DeviceReceipt, DeviceVerdict, PartitionRange, Receipt, RowPosition, Verdict, VerifyError, VerifyLine, VerifyProgress,
    VerifySummary,
};
pub use task::{
    DeviceStates, EventView, JobView, QuarantineView, RateRequest, RetryDevices, RetryRequest, RowCounts, SubmitRequest,
    TaskView, Waiting,
};

/// The path prefix of all endpoints.
pub const PREFIX: &str = "/data-patch/api/v1";

/// The default number of items of a page.
pub const DEFAULT_LIMIT: u32 = 50;
/// The largest number of items of a page.
pub const MAX_LIMIT: u32 = 500;

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    pub items: Vec<T>,
    /// The `cursor` of the next page; `null` on the last one.
    pub next: Option<String>,
}

/// An error, as RFC 9457 defines it (`application/problem+json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Identifies the kind of problem: `about:blank`, whose meaning is that of the status.
    pub r#type: String,
    /// The phrase of the HTTP status.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong, and what would be right.
    pub detail: String,
    /// The error code for programs, the same as in the WebSocket's `payload.code`.
    pub code: String,
    /// The field or parameter that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}
