//! Lists of tasks, jobs and quarantined rows, and their counts.

use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Queue, QueueError, TaskRow};
use crate::{
    store::Store,
    task::{Delivered, JobCounts, JobState, Position, QuarantinedRow, TaskId, TaskState},
};

/// Which tasks a list contains. The default contains all.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// In one of these states; if empty, in any.
    pub states: Vec<TaskState>,
    pub thing: Option<Uuid>,
    /// With this device.
    pub device: Option<Uuid>,
    pub topic: Option<String>,
    /// Created in these milliseconds since 1970.
    pub created_ms: Option<RangeInclusive<i64>>,
    /// Whose id begins with this text, or whose reason contains it.
    pub text: Option<String>,
}

/// A task and its counts.
#[derive(Debug, Clone)]
pub struct TaskDetail {
    pub task: TaskRow,
    pub totals: TaskTotals,
}

/// A part of a list of tasks, the newest first.
#[derive(Debug, Clone, Default)]
pub struct TaskPage {
    pub tasks: Vec<TaskDetail>,
    /// Where the next part begins: the tasks before this one. `None` at the end.
    pub next: Option<TaskId>,
}

/// The sums over the jobs of a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskTotals {
    #[serde(flatten)]
    pub jobs: JobCounts,
    /// Rows of the jobs that are counted.
    pub counted: u64,
    /// Jobs whose rows are counted.
    pub counted_jobs: u64,
    /// Rows acknowledged by Kafka.
    pub published: u64,
    pub quarantined: u64,
    /// Rows sent and not acknowledged when their jobs were cancelled.
    pub unanswered: u64,
    /// Jobs that succeeded and have no row in the range.
    pub empty: u64,
    /// Rows a second of the running jobs, at their last checkpoints.
    #[serde(default, skip_serializing)]
    pub rows_per_second: f64,
}

/// A job as lists show it.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRow {
    /// Its place in the request.
    pub ordinal: u64,
    pub device: Uuid,
    pub name: Option<String>,
    pub state: JobState,
    /// Rows in the range, if they are counted.
    pub total: Option<u64>,
    pub published: u64,
    pub quarantined: u64,
    /// At its last checkpoint, if it runs.
    pub rows_per_second: Option<f64>,
    /// What Kafka has acknowledged, at its last checkpoint.
    pub delivered: Delivered,
    /// How often it was leased.
    pub attempts: u64,
    /// Consecutive outages without a row published in between.
    pub outages: u32,
    /// When it may be claimed, if it is queued; in milliseconds since 1970.
    pub due_at_ms: Option<i64>,
    /// Why it failed.
    pub reason: Option<String>,
}

/// Where a part of a list of quarantined rows begins: after this row.
pub type QuarantineCursor = (Uuid, Position);

/// What [`Queue::overlaps`] looks for.
#[derive(Debug, Clone)]
pub struct OverlapQuery {
    pub thing: Uuid,
    pub topic: String,
    pub devices: Vec<Uuid>,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
}

impl Queue {
    /// At most `limit` tasks of a filter, created before the task `before`, the newest first. The
    /// page may have fewer although there are more, since only so many tasks are looked at.
    ///
    /// # Errors
    /// The queue cannot be read.
    pub async fn tasks(&self, filter: &TaskFilter, before: Option<TaskId>, limit: u32) -> Result<TaskPage, QueueError> {
        self.inner.store.tasks(filter, before, limit).await
    }

    /// A task with its counts, if it exists.
    ///
    /// # Errors
    /// The queue cannot be read.
    pub async fn task_detail(&self, id: TaskId) -> Result<Option<TaskDetail>, QueueError> {
        self.inner.store.task_detail(id).await
    }

    /// At most `limit` jobs of a task after the one of ordinal `after`, in the order of the
    /// request. If `states` is not empty, only those in one of them.
    ///
    /// # Errors
    /// The queue cannot be read.
    pub async fn jobs(
        &self,
        task: TaskId,
        states: &[JobState],
        after: Option<u64>,
        limit: u32,
    ) -> Result<Vec<JobRow>, QueueError> {
        self.inner.store.jobs(task, states, after, limit).await
    }

    /// At most `limit` quarantined rows of a task after `after`, each with its device, ordered by
    /// device, time and key.
    ///
    /// # Errors
    /// The queue cannot be read.
    pub async fn quarantine_page(
        &self,
        task: TaskId,
        after: Option<&QuarantineCursor>,
        limit: u32,
    ) -> Result<Vec<(Uuid, QuarantinedRow)>, QueueError> {
        self.inner.store.quarantine_page(task, after, limit).await
    }

    /// The latest tasks, at most `limit`, that have a device of the query and overlap its range.
    /// Looks at the latest tasks of the thing only, so that it costs little.
    ///
    /// # Errors
    /// The queue cannot be read.
    pub async fn overlaps(&self, query: OverlapQuery, limit: u32) -> Result<Vec<TaskRow>, QueueError> {
        self.inner.store.overlaps(query, limit).await
    }
}
