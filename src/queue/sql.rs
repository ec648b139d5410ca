//! Every statement of the queue, and how its rows are read. No transaction begins or ends here.

use chrono::{DateTime, SecondsFormat, Utc};
use sea_query::{
    Alias, Condition, DeleteStatement, Expr, ExprTrait, Func, InsertStatement, OnConflict, Order, Query, SelectStatement,
    SimpleExpr, UpdateStatement,
};
use sqlx::{Row, sqlite::SqliteRow};
use uuid::Uuid;

use super::{
    NewTask, TaskRow,
    schema::{Event, Job, Quarantine, Task},
};
use crate::task::{HeldRow, JobState, LogEvent, Position, Progress, TaskId, TaskState};

type Result<T> = std::result::Result<T, sqlx::Error>;

fn text(id: TaskId) -> String {
    id.to_string()
}

/// Numbers of ours stay far below 2^63.
fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn bad<E: Into<Box<dyn std::error::Error + Send + Sync>>>(error: E) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}

fn count(row: &SqliteRow, column: &str) -> Result<u64> {
    row.try_get::<i64, _>(column)?.try_into().map_err(bad)
}

fn uuid(row: &SqliteRow, column: &str) -> Result<Uuid> {
    Uuid::try_parse(row.try_get(column)?).map_err(bad)
}

fn moment(row: &SqliteRow, column: &str) -> Result<DateTime<Utc>> {
    Ok(DateTime::parse_from_rfc3339(row.try_get(column)?).map_err(bad)?.to_utc())
}

// --- submit ---

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

pub fn task_of_request(request_id: &str) -> SelectStatement {
    select_task().and_where(Expr::col(Task::RequestId).eq(request_id)).take()
}

// --- tasks ---

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

pub fn read_task(row: &SqliteRow) -> Result<TaskRow> {
    Ok(TaskRow {
        id: TaskId(uuid(row, "id")?),
        thing: uuid(row, "thing_id")?,
        topic: row.try_get("topic")?,
        from: moment(row, "range_from")?,
        to: moment(row, "range_to")?,
        state: row.try_get::<&str, _>("state")?.parse().map_err(bad)?,
        last_seq: count(row, "last_seq")?,
        created_at_ms: row.try_get("created_at")?,
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

pub fn read_log_length(row: &SqliteRow) -> Result<(TaskId, u64)> {
    Ok((TaskId(uuid(row, "id")?), count(row, "last_seq")?))
}

pub fn set_task_served(id: TaskId, turn: i64) -> UpdateStatement {
    Query::update()
        .table(Task::Table)
        .value(Task::State, TaskState::Running.as_str())
        .value(Task::Turn, turn)
        .and_where(Expr::col(Task::Id).eq(text(id)))
        .take()
}

pub fn set_task_finished(id: TaskId, state: TaskState, now_ms: i64) -> UpdateStatement {
    Query::update()
        .table(Task::Table)
        .value(Task::State, state.as_str())
        .value(Task::FinishedAt, now_ms)
        .and_where(Expr::col(Task::Id).eq(text(id)))
        .take()
}

// --- claims ---

/// The tasks that have something to claim, the one served longest ago first.
pub fn tasks_due(now_ms: i64, limit: u64) -> SelectStatement {
    let due = Query::select()
        .expr(Expr::val(1))
        .from(Job::Table)
        .and_where(Expr::col((Job::Table, Job::TaskId)).equals((Task::Table, Task::Id)))
        .and_where(Expr::col((Job::Table, Job::DueAt)).lte(now_ms))
        .take();
    Query::select()
        .column((Task::Table, Task::Id))
        .from(Task::Table)
        .and_where(Expr::col((Task::Table, Task::FinishedAt)).is_null())
        .and_where(Expr::exists(due))
        .order_by((Task::Table, Task::Turn), Order::Asc)
        .limit(limit)
        .take()
}

pub fn read_task_id(row: &SqliteRow) -> Result<TaskId> {
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

pub fn read_turn(row: &SqliteRow) -> Result<i64> {
    Ok(row.try_get::<Option<i64>, _>("turn")?.unwrap_or(0))
}

/// Leases up to `limit` due jobs of a task. One that was running lost its worker.
pub fn claim(task: TaskId, owner: &str, now_ms: i64, until_ms: i64, limit: u64) -> UpdateStatement {
    let due = Query::select()
        .column(Job::Id)
        .from(Job::Table)
        .and_where(Expr::col(Job::TaskId).eq(text(task)))
        .and_where(Expr::col(Job::DueAt).lte(now_ms))
        .order_by(Job::DueAt, Order::Asc)
        .order_by(Job::Ordinal, Order::Asc)
        .limit(limit)
        .take();
    let crashed: SimpleExpr = Expr::case(Expr::col(Job::State).eq(JobState::Running.as_str()), 1).finally(0).into();
    Query::update()
        .table(Job::Table)
        .value(Job::State, JobState::Running.as_str())
        .value(Job::Attempt, Expr::col(Job::Attempt).add(1))
        .value(Job::Owner, owner)
        .value(Job::DueAt, until_ms)
        .value(Job::Crashes, Expr::col(Job::Crashes).add(crashed))
        .and_where(Expr::col(Job::Id).in_subquery(due))
        .returning(Query::returning().columns([
            Job::Id,
            Job::Ordinal,
            Job::DeviceId,
            Job::DeviceName,
            Job::Attempt,
            Job::Outages,
            Job::Crashes,
            Job::Total,
            Job::Published,
            Job::Held,
            Job::CursorTime,
            Job::CursorKey,
        ]))
        .take()
}

/// A job as a claim returns it.
pub struct ClaimedRow {
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

pub fn read_claimed(row: &SqliteRow) -> Result<ClaimedRow> {
    let time: Option<i64> = row.try_get("cursor_time")?;
    let key: Option<String> = row.try_get("cursor_key")?;
    let total: Option<i64> = row.try_get("total")?;
    Ok(ClaimedRow {
        id: row.try_get("id")?,
        ordinal: row.try_get("ordinal")?,
        device: uuid(row, "device_id")?,
        device_name: row.try_get("device_name")?,
        attempt: row.try_get("attempt")?,
        outages: row.try_get("outages")?,
        crashes: row.try_get("crashes")?,
        total: total.map(u64::try_from).transpose().map_err(bad)?,
        progress: Progress {
            cursor: time.zip(key).map(|(time_us, key)| Position { time_us, key }),
            published: count(row, "published")?,
            held: count(row, "held")?,
        },
    })
}

// --- leases: every change to a running job goes through `fenced` ---

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

pub fn insert_held(task: TaskId, device: Uuid, rows: &[HeldRow], now_ms: i64) -> InsertStatement {
    let mut insert = Query::insert()
        .into_table(Quarantine::Table)
        .columns([
            Quarantine::TaskId,
            Quarantine::DeviceId,
            Quarantine::RowTime,
            Quarantine::RowKey,
            Quarantine::Reason,
            Quarantine::HeldAt,
        ])
        .on_conflict(OnConflict::new().do_nothing().to_owned())
        .take();
    for row in rows {
        insert.values_panic([
            text(task).into(),
            device.to_string().into(),
            row.position.time_us.into(),
            row.position.key.clone().into(),
            row.reason.clone().into(),
            now_ms.into(),
        ]);
    }
    insert
}

// --- the end of a task ---

/// One row if the task has a job that has not ended.
pub fn work_left(task: TaskId) -> SelectStatement {
    Query::select()
        .column(Job::Id)
        .from(Job::Table)
        .and_where(Expr::col(Job::TaskId).eq(text(task)))
        .and_where(Expr::col(Job::DueAt).is_not_null())
        .limit(1)
        .take()
}

pub fn sums(task: TaskId) -> SelectStatement {
    Query::select()
        .column(Job::State)
        .expr_as(Expr::col(Job::Id).count(), Alias::new("jobs"))
        .expr_as(Expr::col(Job::Published).sum(), Alias::new("published"))
        .expr_as(Expr::col(Job::Held).sum(), Alias::new("held"))
        .from(Job::Table)
        .and_where(Expr::col(Job::TaskId).eq(text(task)))
        .group_by_col(Job::State)
        .take()
}

/// State, and jobs, rows published and rows held back in it.
pub fn read_sums(row: &SqliteRow) -> Result<(JobState, [u64; 3])> {
    let state = row.try_get::<&str, _>("state")?.parse().map_err(bad)?;
    Ok((state, [count(row, "jobs")?, count(row, "published")?, count(row, "held")?]))
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

pub fn read_failure(row: &SqliteRow) -> Result<(String, String)> {
    Ok((row.try_get("device_id")?, row.try_get::<Option<String>, _>("reason")?.unwrap_or_default()))
}

// --- the log ---

pub fn advance_log(task: TaskId, lines: u64) -> UpdateStatement {
    Query::update()
        .table(Task::Table)
        .value(Task::LastSeq, Expr::col(Task::LastSeq).add(int(lines)))
        .and_where(Expr::col(Task::Id).eq(text(task)))
        .returning(Query::returning().column(Task::LastSeq))
        .take()
}

pub fn read_last_seq(row: &SqliteRow) -> Result<u64> {
    count(row, "last_seq")
}

pub fn insert_events(events: &[LogEvent]) -> InsertStatement {
    let mut insert = Query::insert()
        .into_table(Event::Table)
        .columns([Event::TaskId, Event::Seq, Event::At, Event::Ok, Event::Message, Event::Ends])
        .take();
    for event in events {
        insert.values_panic([
            text(event.task).into(),
            int(event.seq).into(),
            event.at_ms.into(),
            i32::from(event.ok).into(),
            event.message.clone().into(),
            event.ends.map(TaskState::as_str).into(),
        ]);
    }
    insert
}

pub fn events_after(task: TaskId, seq: u64, limit: u64) -> SelectStatement {
    Query::select()
        .columns([Event::Seq, Event::At, Event::Ok, Event::Message, Event::Ends])
        .from(Event::Table)
        .and_where(Expr::col(Event::TaskId).eq(text(task)))
        .and_where(Expr::col(Event::Seq).gt(int(seq)))
        .order_by(Event::Seq, Order::Asc)
        .limit(limit)
        .take()
}

pub fn read_event(task: TaskId, row: &SqliteRow) -> Result<LogEvent> {
    Ok(LogEvent {
        task,
        seq: count(row, "seq")?,
        at_ms: row.try_get("at")?,
        ok: row.try_get::<i64, _>("ok")? != 0,
        message: row.try_get("message")?,
        ends: row.try_get::<Option<&str>, _>("ends")?.map(str::parse).transpose().map_err(bad)?,
    })
}

// --- keeping house ---

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

pub fn read_open_jobs(row: &SqliteRow) -> Result<u64> {
    count(row, "jobs")
}

/// The held-back rows of a task, in the order of device, time and key.
pub fn held_rows(task: TaskId) -> SelectStatement {
    Query::select()
        .columns([Quarantine::DeviceId, Quarantine::RowTime, Quarantine::RowKey, Quarantine::Reason])
        .from(Quarantine::Table)
        .and_where(Expr::col(Quarantine::TaskId).eq(text(task)))
        .order_by(Quarantine::DeviceId, Order::Asc)
        .order_by(Quarantine::RowTime, Order::Asc)
        .order_by(Quarantine::RowKey, Order::Asc)
        .take()
}

pub fn read_held(row: &SqliteRow) -> Result<(Uuid, HeldRow)> {
    let position = Position { time_us: row.try_get("row_time")?, key: row.try_get("row_key")? };
    Ok((uuid(row, "device_id")?, HeldRow { position, reason: row.try_get("reason")? }))
}
