//! Jobs: put in the queue, claimed, and changed by whoever has the lease.

use rusqlite::Row;
use sea_query::{Expr, ExprTrait, Order, Query};
use uuid::Uuid;

use super::{
    Result, Statement, state,
    statement::{Text, given, is, set, set_some, text_of},
    uuid,
};
use crate::{
    queue::schema::Job,
    task::{JobState, Position, Progress, TaskId},
};

pub fn insert_job(task: TaskId, ordinal: usize, device: Uuid, now_ms: i64) -> Statement<'static> {
    static TEXT: Text = Text::new(|| {
        let columns = [Job::TaskId, Job::Ordinal, Job::DeviceId, Job::State, Job::DueAt];
        text_of(Query::insert().into_table(Job::Table).columns(columns).values_panic(columns.map(|_| given())))
    });
    Statement::new(&TEXT, [task.into(), (ordinal as u64).into(), device.into(), JobState::Queued.into(), now_ms.into()])
}

/// Jobs of a task that may be leased, at most `limit`, the one due longest first.
pub fn due_jobs(task: TaskId, now_ms: i64, limit: u64) -> Statement<'static> {
    static TEXT: Text = Text::new(|| {
        text_of(
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
                .and_where(is(Job::TaskId))
                .and_where(Expr::col(Job::DueAt).lte(given()))
                .order_by(Job::DueAt, Order::Asc)
                .order_by(Job::Ordinal, Order::Asc)
                .limit(0),
        )
    });
    Statement::new(&TEXT, [task.into(), now_ms.into(), limit.into()])
}

/// Leases a job.
pub fn lease<'a>(job: &DueRow, owner: &'a str, until_ms: i64) -> Statement<'a> {
    static TEXT: Text = Text::new(|| {
        let columns = [Job::State, Job::Attempt, Job::Owner, Job::DueAt, Job::Crashes];
        text_of(Query::update().table(Job::Table).values(columns.map(set)).and_where(is(Job::Id)))
    });
    let state = JobState::Running;
    Statement::new(&TEXT, [state.into(), job.attempt.into(), owner.into(), until_ms.into(), job.crashes.into(), job.id.into()])
}

/// Ends the leases of a service that is dead.
pub fn end_leases(owner: &str, now_ms: i64) -> Statement<'_> {
    static TEXT: Text = Text::new(|| {
        text_of(
            Query::update()
                .table(Job::Table)
                .values([set(Job::DueAt)])
                .and_where(is(Job::Owner))
                .and_where(is(Job::State))
                .and_where(Expr::col(Job::DueAt).gt(given())),
        )
    });
    Statement::new(&TEXT, [now_ms.into(), owner.into(), JobState::Running.into(), now_ms.into()])
}

/// Ends the jobs of a task that have not ended.
pub fn cancel_jobs(task: TaskId) -> Statement<'static> {
    static TEXT: Text = Text::new(|| {
        text_of(
            Query::update()
                .table(Job::Table)
                .values([set(Job::State), set(Job::DueAt)])
                .and_where(is(Job::TaskId))
                .and_where(Expr::col(Job::DueAt).is_not_null()),
        )
    });
    Statement::new(&TEXT, [JobState::Cancelled.into(), None::<i64>.into(), task.into()])
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

/// What is written to a job that is leased; `None` leaves what is there.
#[derive(Debug, Default)]
pub struct JobWrite<'a> {
    pub name: Option<&'a str>,
    pub total: Option<u64>,
    pub progress: Option<&'a Progress>,
    /// Outages in a row. Who knows of them lives, so crashes in a row are over.
    pub outages: Option<u32>,
    pub reason: Option<&'a str>,
}

/// Changes a job, if `attempt` still holds the lease.
pub fn write_job<'a>(id: i64, attempt: i64, state: JobState, due_at: Option<i64>, write: &JobWrite<'a>) -> Statement<'a> {
    static TEXT: Text = Text::new(|| {
        let always = [Job::State, Job::DueAt];
        let some = [
            Job::DeviceName,
            Job::Total,
            Job::CursorTime,
            Job::CursorKey,
            Job::Published,
            Job::Held,
            Job::Outages,
            Job::Crashes,
            Job::Reason,
        ];
        text_of(
            Query::update()
                .table(Job::Table)
                .values(always.map(set))
                .values(some.map(set_some))
                .and_where(is(Job::Id))
                .and_where(is(Job::Attempt))
                .and_where(is(Job::State)),
        )
    });
    let cursor = write.progress.and_then(|progress| progress.cursor.as_ref());
    let values = [
        state.into(),
        due_at.into(),
        write.name.into(),
        write.total.into(),
        cursor.map(|cursor| cursor.time_us).into(),
        cursor.map(|cursor| cursor.key.as_str()).into(),
        write.progress.map(|progress| progress.published).into(),
        write.progress.map(|progress| progress.held).into(),
        write.outages.into(),
        write.outages.map(|_| 0_i64).into(),
        write.reason.into(),
        id.into(),
        attempt.into(),
        JobState::Running.into(),
    ];
    Statement::new(&TEXT, values)
}
