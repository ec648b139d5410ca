//! What a copy of a queue asks of a store: all rows of all tables in one order, in a form that no
//! kind of store has for itself.
//!
//! Ids of jobs are left out: the store gives them anew, in the same order. Due times are relative to
//! the time at which the copy began, since each store has a clock of its own.

use std::pin::Pin;

use serde::Serialize;
use uuid::Uuid;

use crate::{QueueError, task::JobState};

/// The tables, in an order in which they can be filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    Tasks,
    Jobs,
    LogEntries,
    Quarantined,
}

impl Table {
    pub const ALL: [Self; 4] = [Self::Tasks, Self::Jobs, Self::LogEntries, Self::Quarantined];
}

/// A row of a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Record {
    Task(Box<TaskRecord>),
    Job(Box<JobRecord>),
    LogEntry(LogEntryRecord),
    Quarantined(QuarantinedRecord),
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct TaskRecord {
    pub id: Uuid,
    pub request_id: Option<String>,
    pub thing_id: Uuid,
    pub topic: String,
    /// RFC 3339 with nine decimals, as is the end.
    pub range_from: String,
    pub range_to: String,
    pub state: String,
    pub served_seq: i64,
    pub last_seq: i64,
    pub created_at: i64,
    pub finished_at: Option<i64>,
    pub cancel_requested_at: Option<i64>,
    pub paused_at: Option<i64>,
    pub rate: Option<i64>,
    pub reason: Option<String>,
    pub retry_of: Option<Uuid>,
    pub requester: Option<String>,
    pub requester_address: Option<String>,
    pub totals: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct JobRecord {
    pub task_id: Uuid,
    pub ordinal: i64,
    pub device_id: Uuid,
    pub device_name: Option<String>,
    pub state: JobState,
    pub attempt: i64,
    pub owner: Option<String>,
    /// When it is due, in milliseconds after the copy began. Of no meaning while it is running.
    pub due_in_ms: Option<i64>,
    pub outages: i64,
    pub crashes: i64,
    pub suspected: i64,
    pub waiting: bool,
    pub total: Option<i64>,
    pub published: i64,
    pub quarantined: i64,
    pub cursor_time: Option<i64>,
    pub cursor_key: Option<String>,
    pub cursor_layout: Option<String>,
    pub unanswered: i64,
    pub rows_per_second: Option<f64>,
    pub delivered: Option<String>,
    pub reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct LogEntryRecord {
    pub task_id: Uuid,
    pub seq: i64,
    pub at: i64,
    pub ok: bool,
    pub kind: String,
    /// As it is stored: an event of a newer version is copied without being understood.
    pub body: String,
    pub final_state: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct QuarantinedRecord {
    pub task_id: Uuid,
    pub device_id: Uuid,
    pub row_time: i64,
    pub row_key: String,
    pub reason: String,
    pub quarantined_at: i64,
}

/// The place of a row in its table: by task, then by device, then by number (the ordinal of a job,
/// `seq`, the time of a quarantined row), then by key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub task: Uuid,
    pub device: Uuid,
    pub number: i64,
    pub key: String,
}

impl Place {
    /// Is before every row.
    pub const fn start() -> Self {
        Self { task: Uuid::nil(), device: Uuid::nil(), number: i64::MIN, key: String::new() }
    }
}

impl Record {
    pub fn place(&self) -> Place {
        match self {
            Self::Task(row) => Place { task: row.id, ..Place::start() },
            Self::Job(row) => Place { task: row.task_id, number: row.ordinal, ..Place::start() },
            Self::LogEntry(row) => Place { task: row.task_id, number: row.seq, ..Place::start() },
            Self::Quarantined(row) => {
                Place { task: row.task_id, device: row.device_id, number: row.row_time, key: row.row_key.clone() }
            }
        }
    }

    /// Returns a running job to the queue, to be claimed at once and without blame. Returns whether
    /// this is one.
    pub fn end_lease(&mut self) -> bool {
        let Self::Job(job) = self else { return false };
        let is_running = job.state == JobState::Running;
        if is_running {
            (job.state, job.due_in_ms, job.waiting) = (JobState::Queued, Some(0), false);
        }
        is_running
    }

    /// The texts that only people read.
    pub fn texts_for_people(&mut self) -> [Option<&mut String>; 2] {
        match self {
            Self::Task(row) => [row.reason.as_mut(), None],
            Self::Job(row) => [row.device_name.as_mut(), row.reason.as_mut()],
            Self::LogEntry(_) => [None, None],
            Self::Quarantined(row) => [Some(&mut row.reason), None],
        }
    }

    /// The texts that programs read, and that have to stay to the letter.
    pub fn texts_for_programs(&self) -> Vec<&str> {
        let texts = match self {
            Self::Task(row) => {
                let texts = [&row.request_id, &row.requester, &row.requester_address, &row.totals];
                texts.map(Option::as_deref).into_iter().chain([Some(&*row.topic)]).collect::<Vec<_>>()
            }
            Self::Job(row) => [&row.owner, &row.cursor_key, &row.cursor_layout, &row.delivered].map(Option::as_deref).into(),
            Self::LogEntry(row) => vec![Some(&*row.kind), Some(&*row.body), row.final_state.as_deref()],
            Self::Quarantined(row) => vec![Some(&*row.row_key)],
        };
        texts.into_iter().flatten().collect()
    }
}

/// What a queue is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Source,
    Target,
}

/// The future of an operation.
pub(crate) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, QueueError>> + Send + 'a>>;

/// One side of a copy: a store in a transaction, in which nobody else changes the queue. Without a
/// commit, nothing was changed.
pub(crate) trait CopyEnd: Send {
    /// The queue, to be shown: without a password.
    fn name(&self) -> &str;

    /// Whether texts may contain NUL.
    fn stores_nul(&self) -> bool;

    fn count(&mut self, table: Table) -> Answer<'_, u64>;

    /// At most `limit` rows after a place, in order. Sees what was written.
    fn read(&mut self, table: Table, after: Place, limit: u32) -> Answer<'_, Vec<Record>>;

    /// Inserts rows of one table.
    fn write(&mut self, rows: Vec<Record>) -> Answer<'_, ()>;

    fn commit(self: Box<Self>) -> Answer<'static, ()>;
}
