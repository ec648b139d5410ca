//! The names of `migrations/`.

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
    Turn,
    LastSeq,
    CreatedAt,
    FinishedAt,
    CancelRequestedAt,
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
    Held,
    CursorTime,
    CursorKey,
    Reason,
    Suspected,
    Waiting,
    Unanswered,
}

#[derive(Clone, Copy, Iden)]
pub enum Event {
    Table,
    TaskId,
    Seq,
    At,
    Ok,
    Message,
    Ends,
}

#[derive(Clone, Copy, Iden)]
pub enum Quarantine {
    Table,
    TaskId,
    DeviceId,
    RowTime,
    RowKey,
    Reason,
    HeldAt,
}
