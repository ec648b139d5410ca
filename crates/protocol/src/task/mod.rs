//! The domain types: tasks, jobs, their states, and the events of a task's log. Pure.

mod delivered;
mod event;
mod position;
mod state;
mod text;

use std::{fmt, num::NonZeroU32};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::{NoContext, Timestamp, Uuid};

pub use delivered::{Checksum, Delivered, PartitionOffsets, RowHasher, RowId};
pub use event::{DeviceCounts, Event, Failure, MAX_NAMED, Summary};
pub use position::{Position, RowKey};
pub use state::{IllegalChange, JobChange, JobCounts, JobState, TaskState, UnknownState};
pub use text::Language;

/// The id of a task, a UUID of version 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct TaskId(pub Uuid);

impl TaskId {
    /// A new id. Later ids sort after earlier ones, which keeps the queue's index compact.
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// A new id of a task that is created at this time, in milliseconds since 1970: lists find the
    /// tasks of a time by their ids. Sorts after `last`, if that is of the same millisecond.
    ///
    /// ```
    /// use data_patch_protocol::task::TaskId;
    ///
    /// let first = TaskId::created_at(1_547_211_780_000, TaskId::default());
    /// let second = TaskId::created_at(1_547_211_780_000, first);
    /// assert!(first < second && second < TaskId::created_at(1_547_211_780_001, second));
    /// ```
    pub fn created_at(ms: i64, last: Self) -> Self {
        /// The highest bit after UUID's variant is left 0, so that the bits below it can be counted
        /// up without a carry into the variant.
        const NO_CARRY: u128 = 1 << 61;
        let ms = u64::try_from(ms).unwrap_or(0);
        let time = Timestamp::from_unix(NoContext, ms / 1_000, (ms % 1_000) as u32 * 1_000_000);
        let (random, last) = (Uuid::new_v7(time).as_u128() & !NO_CARRY, last.0.as_u128());
        let is_same_ms = random >> 80 == last >> 80;
        // A step of random size: an id does not tell the next one.
        let id = if is_same_ms && random <= last { last + 1 + (random & 0xffff_ffff) } else { random };
        Self(Uuid::from_u128(id))
    }
}

impl Default for TaskId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A valid request for a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTask {
    /// The thing that the devices are mounted on.
    pub thing: Uuid,
    /// In the order of the request, without duplicates.
    pub devices: Vec<Uuid>,
    /// The Kafka topic.
    pub topic: String,
    /// Start of the time range, inclusive.
    pub from: DateTime<Utc>,
    /// End of the time range, inclusive.
    pub to: DateTime<Utc>,
    /// The client's idempotency key.
    pub request_id: Option<String>,
    /// Why the readings are published again.
    pub reason: Option<String>,
    /// The most rows a second, for the whole task.
    pub rate: Option<NonZeroU32>,
}

/// Who submitted a task or steered it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Requester {
    /// The name of the token; `default` for the token of the start parameter.
    pub token: String,
    /// The address of the client.
    pub address: String,
}

/// A stored entry of a task's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub task: TaskId,
    /// The sequence number: 1, 2, 3 … in each task.
    pub seq: u64,
    /// When it was written, in milliseconds since 1970.
    pub at_ms: i64,
    pub event: Event,
    /// The final state of the task; only on the last entry.
    pub final_state: Option<TaskState>,
}

/// A row that was read and not published, because validation rejected it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedRow {
    pub position: Position,
    pub reason: String,
}

/// The progress of a job. All values refer to the rows up to its position.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// The last row such that it and all rows before it are acknowledged or quarantined.
    pub position: Option<Position>,
    /// Rows acknowledged by Kafka.
    pub published: u64,
    /// Rows quarantined.
    pub quarantined: u64,
    /// Where the published rows are, and their checksum.
    pub delivered: Delivered,
}

impl Progress {
    /// Rows acknowledged or quarantined.
    pub fn rows(&self) -> u64 {
        self.published + self.quarantined
    }
}
