//! The words of the domain: tasks, jobs, their states, and what happens to them. Pure.

mod event;
mod state;
mod text;

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use event::{DeviceCounts, Event, Failure, MAX_NAMED, Summary};
pub use state::{IllegalChange, JobChange, JobCounts, JobState, TaskState, UnknownState};
pub use text::Language;

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct TaskId(pub Uuid);

impl TaskId {
    /// A new one; ids made later sort later, which keeps the queue's index small and warm.
    pub fn new() -> Self {
        Self(Uuid::now_v7())
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

/// A request that holds to the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTask {
    pub thing: Uuid,
    /// In the order given, each once.
    pub devices: Vec<Uuid>,
    pub topic: String,
    /// Both ends are included.
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    pub request_id: Option<String>,
}

/// An entry of a task's log, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub task: TaskId,
    /// 1, 2, 3 … in each task.
    pub seq: u64,
    /// When it was written, in milliseconds since 1970.
    pub at_ms: i64,
    pub event: Event,
    /// On the last entry only: how the task ended.
    pub final_state: Option<TaskState>,
}

/// A row that was read and not published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedRow {
    pub position: Position,
    pub reason: String,
}

/// Where a row stands in the order in which a device is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Position {
    /// Microseconds since 1970, as the source counts them.
    pub time_us: i64,
    /// The row key as text.
    pub key: String,
}

/// How far a job has got. All of it is about the rows up to the cursor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// The last row that Kafka acknowledged, or that was held back, with none before it outstanding.
    pub cursor: Option<Position>,
    /// Rows acknowledged.
    pub published: u64,
    /// Rows held back.
    pub quarantined: u64,
}

impl Progress {
    /// Rows that are done with.
    pub fn rows(&self) -> u64 {
        self.published + self.quarantined
    }
}
