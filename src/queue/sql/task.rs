//! Tasks: taken in, served in turns, ended, removed.

use chrono::{DateTime, SecondsFormat, Utc};
use sea_query::{Alias, DeleteStatement, Expr, ExprTrait, Func, InsertStatement, Order, Query, SelectStatement, UpdateStatement};

use rusqlite::Row;

use super::{Result, moment, state, text, uuid};
use crate::{
    queue::{
        TaskRow,
        schema::{Job, Task},
    },
    task::{JobState, NewTask, TaskId, TaskState},
};

pub fn insert_task(id: TaskId, task: &NewTask, now_ms: i64) -> InsertStatement {
    let moment = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Nanos, true);
    Query::insert()
        .into_table(Task::Table)
        .columns([
            Task::Id,
            Task::RequestId,
            Task::ThingId,
            Task::Topic,
            Task::RangeFrom,
            Task::RangeTo,
            Task::State,
            Task::Turn,
            Task::CreatedAt,
        ])
        .values_panic([
            text(id).into(),
            task.request_id.clone().into(),
            task.thing.to_string().into(),
            task.topic.clone().into(),
            moment(task.from).into(),
            moment(task.to).into(),
            TaskState::Queued.as_str().into(),
            // Turn 0: a new task is served next.
            0.into(),
            now_ms.into(),
        ])
        .take()
}

pub fn task_of_request(request_id: &str) -> SelectStatement {
    select_task().and_where(Expr::col(Task::RequestId).eq(request_id)).take()
}

fn select_task() -> SelectStatement {
    Query::select()
        .columns([
            Task::Id,
            Task::ThingId,
            Task::Topic,
            Task::RangeFrom,
            Task::RangeTo,
            Task::State,
            Task::LastSeq,
            Task::CreatedAt,
        ])
        .from(Task::Table)
        .take()
}

pub fn task(id: TaskId) -> SelectStatement {
    select_task().and_where(Expr::col(Task::Id).eq(text(id))).take()
}

pub fn read_task(row: &Row<'_>) -> Result<TaskRow> {
    Ok(TaskRow {
        id: TaskId(uuid(row, "id")?),
        thing: uuid(row, "thing_id")?,
        topic: row.get("topic")?,
        from: moment(row, "range_from")?,
        to: moment(row, "range_to")?,
        state: state(row, "state")?,
        last_seq: row.get("last_seq")?,
        created_at_ms: row.get("created_at")?,
    })
}

/// The lengths of the logs of some tasks.
pub fn last_seqs(tasks: &[TaskId]) -> SelectStatement {
    Query::select()
        .columns([Task::Id, Task::LastSeq])
        .from(Task::Table)
        .and_where(Expr::col(Task::Id).is_in(tasks.iter().copied().map(text)))
        .take()
}

pub fn read_log_length(row: &Row<'_>) -> Result<(TaskId, u64)> {
    Ok((TaskId(uuid(row, "id")?), row.get("last_seq")?))
}

pub fn set_task_served(id: TaskId, turn: i64) -> UpdateStatement {
    Query::update()
        .table(Task::Table)
        .value(Task::State, TaskState::Running.as_str())
        .value(Task::Turn, turn)
        .and_where(Expr::col(Task::Id).eq(text(id)))
        .take()
}

/// The tasks that have something to claim, the one served longest ago first.
pub fn tasks_due(now_ms: i64, limit: u64) -> SelectStatement {
    let due = Query::select()
        .expr(Expr::val(1))
        .from(Job::Table)
        .and_where(Expr::col((Job::Table, Job::TaskId)).equals((Task::Table, Task::Id)))
        .and_where(Expr::col((Job::Table, Job::DueAt)).lte(now_ms))
        .take();
    select_task()
        .and_where(Expr::col((Task::Table, Task::FinishedAt)).is_null())
        .and_where(Expr::exists(due))
        .order_by((Task::Table, Task::Turn), Order::Asc)
        .limit(limit)
        .take()
}

pub fn read_task_id(row: &Row<'_>) -> Result<TaskId> {
    uuid(row, "id").map(TaskId)
}

/// The highest turn of an open task.
pub fn last_turn() -> SelectStatement {
    Query::select()
        .expr_as(Func::max(Expr::col(Task::Turn)), Alias::new("turn"))
        .from(Task::Table)
        .and_where(Expr::col(Task::FinishedAt).is_null())
        .take()
}

pub fn read_turn(row: &Row<'_>) -> Result<i64> {
    Ok(row.get::<_, Option<i64>>("turn")?.unwrap_or(0))
}

/// What became of the jobs of a task; nothing while one of them has not ended.
pub fn sums_when_ended(task: TaskId) -> SelectStatement {
    let open = Query::select()
        .expr(Expr::val(1))
        .from_as(Job::Table, "open")
        .and_where(Expr::col(("open", Job::TaskId)).equals((Task::Table, Task::Id)))
        .and_where(Expr::col(("open", Job::DueAt)).is_not_null())
        .take();
    Query::select()
        .column((Job::Table, Job::State))
        .expr_as(Expr::col((Job::Table, Job::Id)).count(), Alias::new("jobs"))
        .expr_as(Expr::col((Job::Table, Job::Published)).sum(), Alias::new("published"))
        .expr_as(Expr::col((Job::Table, Job::Held)).sum(), Alias::new("held"))
        .from(Task::Table)
        // SQLite keeps this order: open jobs are looked for once, before any of the others is read.
        .cross_join(Job::Table)
        .and_where(Expr::col((Job::Table, Job::TaskId)).equals((Task::Table, Task::Id)))
        .and_where(Expr::col((Task::Table, Task::Id)).eq(text(task)))
        .and_where(Expr::exists(open).not())
        .group_by_col((Job::Table, Job::State))
        .take()
}

/// State, and jobs, rows published and rows held back in it.
pub fn read_sums(row: &Row<'_>) -> Result<(JobState, [u64; 3])> {
    let state = state(row, "state")?;
    Ok((state, [row.get("jobs")?, row.get("published")?, row.get("held")?]))
}

pub fn failures(task: TaskId, limit: u64) -> SelectStatement {
    Query::select()
        .columns([Job::DeviceId, Job::Reason])
        .from(Job::Table)
        .and_where(Expr::col(Job::TaskId).eq(text(task)))
        .and_where(Expr::col(Job::State).eq(JobState::Failed.as_str()))
        .order_by(Job::Ordinal, Order::Asc)
        .limit(limit)
        .take()
}

pub fn read_failure(row: &Row<'_>) -> Result<(String, String)> {
    Ok((row.get("device_id")?, row.get::<_, Option<String>>("reason")?.unwrap_or_default()))
}

/// Removes a few tasks that ended before a moment, with all that hangs on them.
pub fn prune(before_ms: i64, limit: u64) -> DeleteStatement {
    let old = Query::select()
        .column(Task::Id)
        .from(Task::Table)
        .and_where(Expr::col(Task::FinishedAt).lt(before_ms))
        .limit(limit)
        .take();
    Query::delete().from_table(Task::Table).and_where(Expr::col(Task::Id).in_subquery(old)).take()
}

/// How many jobs have not ended.
pub fn open_jobs() -> SelectStatement {
    Query::select()
        .expr_as(Expr::col(Job::Id).count(), Alias::new("jobs"))
        .from(Job::Table)
        .and_where(Expr::col(Job::DueAt).is_not_null())
        .take()
}

pub fn read_open_jobs(row: &Row<'_>) -> Result<u64> {
    row.get("jobs")
}
