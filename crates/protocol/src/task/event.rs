//! The events of a task's log, as data. Their text is made where it is shown ([`Event::text`]).

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

#[cfg(test)]
use super::Position;
use super::{JobCounts, QuarantinedRow, Requester, TaskId};

/// The most rows or devices that an event names. It gives only the number of the others.
pub const MAX_NAMED: usize = 10;

/// Something that happened to a task or to one of its devices.
///
/// In JSON an event is an object with `kind` and the fields of that kind. This form is stored, and
/// sent to clients.
///
/// ```
/// # use data_patch_protocol::task::Event;
/// let device = uuid::uuid!("b34299aa-625e-4404-a580-fde1d7cbc3e8");
/// let event = Event::Published { device, published: 178, total: 178 };
/// assert_eq!(
///     serde_json::to_string(&event).unwrap(),
///     r#"{"kind":"published","device":"b34299aa-625e-4404-a580-fde1d7cbc3e8","published":178,"total":178}"#
/// );
/// assert_eq!(event.to_string(), "iota data published(178 / 178). device: b34299aa-625e-4404-a580-fde1d7cbc3e8");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[cfg_attr(test, derive(strum::EnumCount))]
pub enum Event {
    /// The task was created. Recorded for tasks that say more than a client of the contract does:
    /// a named token, a reason, a rate, the task that they try again.
    Submitted {
        by: Requester,
        devices: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rate: Option<NonZeroU32>,
        /// The rate of the task that it tries again, which is higher than what is allowed now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lowered_from: Option<NonZeroU32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_of: Option<TaskId>,
    },
    /// Other tasks publish, or have published, some of the same rows to the same topic: their
    /// readers get these twice. Only the latest tasks are named.
    Overlaps { tasks: Vec<TaskId>, more: u64 },
    /// Unknown fields of the request were ignored (`server.unknown_fields = "warn"`).
    FieldsIgnored { fields: Vec<String>, more: u64 },
    /// The rows of a device were counted.
    Counted { device: Uuid, name: Option<String>, total: u64 },
    /// `published` rows of a device are acknowledged by Kafka.
    Published { device: Uuid, published: u64, total: u64 },
    /// The number of rows that were read differs from the count: the source was written to in
    /// between.
    CountMismatch { device: Uuid, counted: u64, read: u64 },
    /// A property of the source that matters to users of the rows.
    Note { device: Uuid, note: String },
    /// Rows were not published, because ET cannot read them. Only the first ones are named.
    Quarantined { device: Uuid, rows: u64, first: Vec<QuarantinedRow> },
    /// The source or Kafka is unavailable; the device is retried after a backoff.
    Waiting { device: Uuid, published: u64, reason: String, retry_ms: u64 },
    /// Kafka acknowledges no rows and reports no error.
    Stalled { device: Uuid, published: u64, silent_seconds: u64 },
    /// The lease of a device's previous worker expired, and another worker continues.
    TakenOver { device: Uuid, published: u64 },
    /// The task was cancelled while the device was being published.
    Cancelled {
        device: Uuid,
        published: u64,
        /// The most rows that were sent without an acknowledgement. Only these may still arrive.
        unanswered: u64,
        /// The worker died before it could stop: more rows than `published` may be in the topic.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        worker_died: bool,
    },
    /// The task is being cancelled: its running devices stop.
    CancelRequested { by: Requester },
    /// The task is paused: its devices stop, and go on where they are once it is resumed.
    Paused { by: Requester },
    /// The task goes on.
    Resumed { by: Requester },
    /// The most rows a second of the whole task have changed; `null`: no limit.
    RateChanged { by: Requester, rate: Option<NonZeroU32> },
    /// The device could not be published. `device` is missing if its row in the queue cannot be
    /// read.
    Failed { device: Option<Uuid>, name: Option<String>, reason: String },
    /// The task is finished. Always the last event.
    Finished(Summary),
    /// An entry of an older version, of which only the text is known.
    Text { text: String, is_error: bool },
}

/// The totals of a finished task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    #[serde(flatten)]
    pub devices: DeviceCounts,
    /// Rows acknowledged by Kafka.
    pub published: u64,
    /// Rows not published, because ET cannot read them.
    pub quarantined: u64,
    /// The most rows that were sent without an acknowledgement when their device was cancelled.
    pub unanswered: u64,
    /// Devices that succeeded without a row in the range.
    pub empty_devices: u64,
    /// From the creation of the task to its end, in milliseconds.
    pub took_ms: u64,
    /// The first failed devices, at most [`MAX_NAMED`].
    pub failures: Vec<Failure>,
}

/// The number of a task's devices by final state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceCounts {
    pub succeeded_devices: u64,
    pub failed_devices: u64,
    pub cancelled_devices: u64,
}

impl DeviceCounts {
    /// All devices of the task.
    pub fn total(&self) -> u64 {
        self.succeeded_devices + self.failed_devices + self.cancelled_devices
    }
}

impl From<JobCounts> for DeviceCounts {
    fn from(jobs: JobCounts) -> Self {
        Self { succeeded_devices: jobs.succeeded, failed_devices: jobs.failed, cancelled_devices: jobs.cancelled }
    }
}

/// A device that could not be published, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The device's id, as it is stored.
    pub device: String,
    pub reason: String,
}

impl Event {
    /// An [`Event::Quarantined`] that names at most [`MAX_NAMED`] of the rows.
    pub fn quarantined(device: Uuid, rows: &[QuarantinedRow]) -> Self {
        Self::Quarantined { device, rows: rows.len() as u64, first: rows.iter().take(MAX_NAMED).cloned().collect() }
    }

    /// An [`Event::FieldsIgnored`] that names at most [`MAX_NAMED`] of the fields.
    pub fn fields_ignored(fields: &[String]) -> Self {
        Self::FieldsIgnored {
            fields: fields.iter().take(MAX_NAMED).cloned().collect(),
            more: fields.len().saturating_sub(MAX_NAMED) as u64,
        }
    }

    /// Whether the event reports a failure. It is then sent with `"res":"error"`.
    pub fn is_error(&self) -> bool {
        match self {
            Self::Failed { .. } => true,
            Self::Finished(summary) => summary.devices.failed_devices > 0,
            Self::Text { is_error, .. } => *is_error,
            _ => false,
        }
    }

    /// The value of `kind` in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Submitted { .. } => "submitted",
            Self::Overlaps { .. } => "overlaps",
            Self::CancelRequested { .. } => "cancel_requested",
            Self::Paused { .. } => "paused",
            Self::Resumed { .. } => "resumed",
            Self::RateChanged { .. } => "rate_changed",
            Self::FieldsIgnored { .. } => "fields_ignored",
            Self::Counted { .. } => "counted",
            Self::Published { .. } => "published",
            Self::CountMismatch { .. } => "count_mismatch",
            Self::Note { .. } => "note",
            Self::Quarantined { .. } => "quarantined",
            Self::Waiting { .. } => "waiting",
            Self::Stalled { .. } => "stalled",
            Self::TakenOver { .. } => "taken_over",
            Self::Cancelled { .. } => "cancelled",
            Self::Failed { .. } => "failed",
            Self::Finished(_) => "finished",
            Self::Text { .. } => "text",
        }
    }
}

#[cfg(test)]
mod one_of_each;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use strum::EnumCount;

    use super::{one_of_each::one_of_each, *};

    #[test]
    fn no_event_is_left_out() {
        let kinds: BTreeSet<_> = one_of_each().iter().map(Event::kind).collect();
        assert_eq!(kinds.len(), Event::COUNT, "an event is missing in one_of_each: {kinds:?}");
    }

    #[test]
    fn events_survive_json_and_are_named_by_their_kind() {
        for event in one_of_each() {
            let json = serde_json::to_string(&event).unwrap();
            assert!(json.starts_with(&format!("{{\"kind\":\"{}\"", event.kind())), "{json}");
            assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event, "{json}");
        }
    }
}
