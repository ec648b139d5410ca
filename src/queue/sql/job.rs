//! Jobs: put in the queue, claimed, and changed by whoever has the lease.

use rusqlite::Row;
use sea_query::{Condition, Expr, ExprTrait, InsertStatement, Order, Query, SelectStatement, UpdateStatement};
use uuid::Uuid;

use super::{Result, int, state, text, uuid};
use crate::{
    queue::schema::Job,
    task::{JobState, Position, Progress, TaskId},
};

/// Jobs of a task, `first` being the ordinal of the first of `devices`.
pub fn insert_jobs(task: TaskId, first: usize, devices: &[Uuid], now_ms: i64) -> InsertStatement {
    let mut insert =
        Query::insert().into_table(Job::Table).columns([Job::TaskId, Job::Ordinal, Job::DeviceId, Job::State, Job::DueAt]).take();
    for (ordinal, device) in (first..).zip(devices) {
        insert.values_panic([
            text(task).into(),
            int(ordinal as u64).into(),
            device.to_string().into(),
            JobState::Queued.as_str().into(),
            now_ms.into(),
        ]);
    }
    insert
}

/// Jobs of a task that may be leased, at most `limit`, the one due longest first.
pub fn due_jobs(task: TaskId, now_ms: i64, limit: u64) -> SelectStatement {
    Query::select()
        .columns([
            Job::Id,
            Job::Ordinal,
            Job::DeviceId,
            Job::DeviceName,
            Job::State,
            Job::Attempt,
            Job::Outages,
            Job::Crashes,
            Job::Total,
            Job::Published,
            Job::Held,
            Job::CursorTime,
            Job::CursorKey,
        ])
        .from(Job::Table)
        .and_where(Expr::col(Job::TaskId).eq(text(task)))
        .and_where(Expr::col(Job::DueAt).lte(now_ms))
        .order_by(Job::DueAt, Order::Asc)
        .order_by(Job::Ordinal, Order::Asc)
        .limit(limit)
        .take()
}

/// Leases a job.
pub fn lease(job: &DueRow, owner: &str, until_ms: i64) -> UpdateStatement {
    Query::update()
        .table(Job::Table)
        .value(Job::State, JobState::Running.as_str())
        .value(Job::Attempt, job.attempt)
        .value(Job::Owner, owner)
        .value(Job::DueAt, until_ms)
        .value(Job::Crashes, job.crashes)
        .and_where(Expr::col(Job::Id).eq(job.id))
        .take()
}

/// Ends the leases of a service that is dead.
pub fn end_leases(owner: &str, now_ms: i64) -> UpdateStatement {
    Query::update()
        .table(Job::Table)
        .value(Job::DueAt, now_ms)
        .and_where(Expr::col(Job::Owner).eq(owner))
        .and_where(Expr::col(Job::State).eq(JobState::Running.as_str()))
        .and_where(Expr::col(Job::DueAt).gt(now_ms))
        .take()
}

/// Ends the jobs of a task that have not ended.
pub fn cancel_jobs(task: TaskId) -> UpdateStatement {
    Query::update()
        .table(Job::Table)
        .value(Job::State, JobState::Cancelled.as_str())
        .value(Job::DueAt, Option::<i64>::None)
        .and_where(Expr::col(Job::TaskId).eq(text(task)))
        .and_where(Expr::col(Job::DueAt).is_not_null())
        .take()
}

/// A job as it is once it is leased.
pub struct DueRow {
    pub id: i64,
    pub ordinal: i64,
    pub device: Uuid,
    pub device_name: Option<String>,
    pub attempt: i64,
    pub outages: u32,
    pub crashes: u32,
    pub total: Option<u64>,
    pub progress: Progress,
}

pub fn read_due(row: &Row<'_>) -> Result<DueRow> {
    let time: Option<i64> = row.get("cursor_time")?;
    let key: Option<String> = row.get("cursor_key")?;
    // One that is running has lost its worker.
    let lost = state::<JobState>(row, "state")? == JobState::Running;
    Ok(DueRow {
        id: row.get("id")?,
        ordinal: row.get("ordinal")?,
        device: uuid(row, "device_id")?,
        device_name: row.get("device_name")?,
        attempt: row.get::<_, i64>("attempt")? + 1,
        outages: row.get("outages")?,
        crashes: row.get::<_, u32>("crashes")? + u32::from(lost),
        total: row.get("total")?,
        progress: Progress {
            cursor: time.zip(key).map(|(time_us, key)| Position { time_us, key }),
            published: row.get("published")?,
            held: row.get("held")?,
        },
    })
}

/// A change to a job that is made only while `attempt` still holds the lease.
pub fn fenced(job: i64, attempt: i64) -> UpdateStatement {
    Query::update()
        .table(Job::Table)
        .cond_where(
            Condition::all()
                .add(Expr::col(Job::Id).eq(job))
                .add(Expr::col(Job::Attempt).eq(attempt))
                .add(Expr::col(Job::State).eq(JobState::Running.as_str())),
        )
        .take()
}

/// Sets cursor and counts.
pub fn set_progress(update: &mut UpdateStatement, progress: &Progress) {
    if let Some(cursor) = &progress.cursor {
        update.value(Job::CursorTime, cursor.time_us).value(Job::CursorKey, cursor.key.clone());
    }
    update.value(Job::Published, int(progress.published)).value(Job::Held, int(progress.held));
}

/// Sets the outages in a row. Crashes in a row are over: the worker lives.
pub fn set_outages(update: &mut UpdateStatement, outages: u32) {
    update.value(Job::Outages, outages).value(Job::Crashes, 0);
}

pub fn set_state(update: &mut UpdateStatement, state: JobState, due_at: Option<i64>) {
    update.value(Job::State, state.as_str()).value(Job::DueAt, due_at);
}

pub fn set_counted(update: &mut UpdateStatement, name: Option<&str>, total: u64) {
    update.value(Job::DeviceName, name).value(Job::Total, int(total));
}

pub fn set_lease(update: &mut UpdateStatement, until_ms: i64) {
    update.value(Job::DueAt, until_ms);
}

pub fn set_reason(update: &mut UpdateStatement, reason: &str) {
    update.value(Job::Reason, reason);
}
