//! The tables and columns of `migrations/sqlite/`.

use sea_query::Iden;

#[derive(Clone, Copy, Iden)]
pub enum Task {
    Table,
    Id,
    RequestId,
    ThingId,
    Topic,
    RangeFrom,
    RangeTo,
    State,
    ServedSeq,
    LastSeq,
    CreatedAt,
    FinishedAt,
    CancelRequestedAt,
    Reason,
    Rate,
    PausedAt,
    RetryOf,
    Requester,
    RequesterAddress,
    Totals,
}

#[derive(Clone, Copy, Iden)]
pub enum Job {
    Table,
    Id,
    TaskId,
    Ordinal,
    DeviceId,
    DeviceName,
    State,
    Attempt,
    Owner,
    DueAt,
    Outages,
    Crashes,
    Total,
    Published,
    Quarantined,
    CursorTime,
    CursorKey,
    CursorLayout,
    Reason,
    Suspected,
    Waiting,
    Unanswered,
    RowsPerSecond,
    Delivered,
}

#[derive(Clone, Copy, Iden)]
pub enum Event {
    Table,
    TaskId,
    Seq,
    At,
    Ok,
    Kind,
    Body,
    FinalState,
}

#[derive(Clone, Copy, Iden)]
pub enum Quarantine {
    Table,
    TaskId,
    DeviceId,
    RowTime,
    RowKey,
    Reason,
    QuarantinedAt,
}

/// Indexes that statements name in `INDEXED BY`. SQLite chooses the names of the indexes of a
/// primary key or `UNIQUE` constraint.
pub mod index {
    /// `task (id)`
    pub const TASK_ID: &str = "sqlite_autoindex_task_1";
    pub const TASK_REQUEST: &str = "task_request";
    pub const TASK_FINISHED: &str = "task_finished";
    pub const TASK_STEERED: &str = "task_steered";
    /// `task (state, id)`
    pub const TASK_STATE: &str = "task_state";
    /// `task (thing_id, id)`
    pub const TASK_THING: &str = "task_thing";
    /// `task (topic, id)`
    pub const TASK_TOPIC: &str = "task_topic";
    /// `task (id, reason)`, of the tasks that have a reason
    pub const TASK_REASON: &str = "task_reason";
    /// `job (task_id, ordinal)`
    pub const JOB_TASK: &str = "sqlite_autoindex_job_1";
    pub const JOB_DUE: &str = "job_due";
    pub const TASK_OPEN: &str = "task_open";
    pub const JOB_SUSPECT: &str = "job_suspect";
}
