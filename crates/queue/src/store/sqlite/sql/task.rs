//! Tasks: created, served in turn, finished, removed.

use std::{borrow::Cow, num::NonZeroU32};

use rusqlite::Row;
use sea_query::{CaseStatement, Condition, Expr, ExprTrait, Func, Order, Query, SelectStatement, SubQueryStatement};
use uuid::Uuid;

use super::{
    Result, Statement, optional_uuid, state,
    statement::{Sql, Value, build_sql, by_index, eq_param, param, set},
    timestamp, uuid,
};
use crate::{
    Steering, Submission, TaskRow,
    store::sqlite::schema::{Job, Task, index},
    task::{JobState, Requester, TaskId, TaskState},
};

pub fn insert_task(id: TaskId, submission: &Submission, now_ms: i64) -> Statement<'_> {
    static TEXT: Sql = Sql::new(|| {
        let columns = [
            Task::Id,
            Task::RequestId,
            Task::ThingId,
            Task::Topic,
            Task::RangeFrom,
            Task::RangeTo,
            Task::State,
            Task::ServedSeq,
            Task::CreatedAt,
            Task::Reason,
            Task::Rate,
            Task::RetryOf,
            Task::Requester,
            Task::RequesterAddress,
        ];
        build_sql(Query::insert().into_table(Task::Table).columns(columns).values_panic(columns.map(|_| param())))
    });
    let Submission { task, requester, retry_of, .. } = submission;
    let values = [
        id.into(),
        task.request_id.as_deref().into(),
        task.thing.into(),
        task.topic.as_str().into(),
        task.from.into(),
        task.to.into(),
        TaskState::Queued.into(),
        // 0: a new task is served next.
        0_i64.into(),
        now_ms.into(),
        task.reason.as_deref().into(),
        task.rate.map(NonZeroU32::get).into(),
        (*retry_of).into(),
        requester.as_ref().map(|requester| requester.token.as_str()).into(),
        requester.as_ref().map(|requester| requester.address.as_str()).into(),
    ];
    Statement::new(&TEXT, values)
}

pub(super) fn select_task() -> SelectStatement {
    Query::select()
        .columns([
            Task::Id,
            Task::RequestId,
            Task::ThingId,
            Task::Topic,
            Task::RangeFrom,
            Task::RangeTo,
            Task::State,
            Task::LastSeq,
            Task::CreatedAt,
            Task::FinishedAt,
            Task::CancelRequestedAt,
            Task::PausedAt,
            Task::Rate,
            Task::Reason,
            Task::RetryOf,
            Task::Requester,
            Task::RequesterAddress,
        ])
        .from(Task::Table)
        .take()
}

pub fn task(id: TaskId) -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| build_sql(select_task().and_where(eq_param(Task::Id))));
    Statement::new(&TEXT, [id.into()])
}

pub fn task_of_request(request_id: &str) -> Statement<'_> {
    static TEXT: Sql = Sql::new(|| {
        by_index(&build_sql(select_task().and_where(eq_param(Task::RequestId))), r#"FROM "task""#, index::TASK_REQUEST)
    });
    Statement::new(&TEXT, [request_id.into()])
}

pub fn read_task(row: &Row<'_>) -> Result<TaskRow> {
    Ok(TaskRow {
        id: TaskId(uuid(row, "id")?),
        thing: uuid(row, "thing_id")?,
        topic: row.get("topic")?,
        from: timestamp(row, "range_from")?,
        to: timestamp(row, "range_to")?,
        state: state(row, "state")?,
        last_seq: row.get("last_seq")?,
        created_at_ms: row.get("created_at")?,
        cancel_requested: row.get::<_, Option<i64>>("cancel_requested_at")?.is_some(),
        is_paused: row.get::<_, Option<i64>>("paused_at")?.is_some(),
        rate: row.get::<_, Option<u32>>("rate")?.and_then(NonZeroU32::new),
        request_id: row.get("request_id")?,
        reason: row.get("reason")?,
        requester: match (row.get("requester")?, row.get("requester_address")?) {
            (Some(token), Some(address)) => Some(Requester { token, address }),
            _ => None,
        },
        retry_of: optional_uuid(row, "retry_of")?.map(TaskId),
        finished_at_ms: row.get("finished_at")?,
    })
}

/// Reads a task, or the id and the error if its row cannot be read.
pub fn read_task_or_id(row: &Row<'_>) -> Result<std::result::Result<TaskRow, (String, rusqlite::Error)>> {
    read_task(row).map_or_else(|error| Ok(Err((row.get("id")?, error))), |task| Ok(Ok(task)))
}

/// The last sequence numbers of the logs of `tasks`.
pub fn last_seqs(tasks: &[TaskId]) -> Statement<'static> {
    let is_listed = Expr::col(Task::Id).is_in(tasks.iter().map(|_| param()));
    let text = build_sql(Query::select().columns([Task::Id, Task::LastSeq]).from(Task::Table).and_where(is_listed));
    let text = by_index(&text, r#"FROM "task""#, index::TASK_ID);
    Statement { text: Cow::Owned(text), values: tasks.iter().map(|task| Value::from(*task)).collect() }
}

pub fn read_log_length(row: &Row<'_>) -> Result<(TaskId, u64)> {
    Ok((TaskId(uuid(row, "id")?), row.get("last_seq")?))
}

pub fn set_task_served(id: TaskId, served_seq: i64) -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        build_sql(
            Query::update().table(Task::Table).values([set(Task::State), set(Task::ServedSeq)]).and_where(eq_param(Task::Id)),
        )
    });
    Statement::new(&TEXT, [TaskState::Running.into(), served_seq.into(), id.into()])
}

/// The tasks with claimable jobs, the least recently served first, without those of
/// `without_topics` and `without_things`.
pub fn tasks_due(now_ms: i64, limit: u64, without_topics: &[&str], without_things: &[Uuid]) -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| build_sql(&select_tasks_due(0, 0)));
    if without_topics.is_empty() && without_things.is_empty() {
        return Statement::new(&TEXT, [now_ms.into(), limit.into()]);
    }
    // Built for each use: topics are excluded during outages, things while they have their most jobs.
    let text = build_sql(&select_tasks_due(without_topics.len(), without_things.len()));
    let topics = without_topics.iter().map(|topic| Value::from((*topic).to_owned()));
    let things = without_things.iter().map(|thing| Value::from(*thing));
    let values = std::iter::once(now_ms.into()).chain(topics).chain(things).chain([limit.into()]).collect();
    Statement { text: Cow::Owned(text), values }
}

/// For each task with work left: its thing, and how many of its jobs are leased.
pub fn in_progress_of_tasks(now_ms: i64) -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        let running = Query::select()
            .expr(Expr::cust("COUNT(*)"))
            .from(Job::Table)
            .and_where(Expr::col((Job::Table, Job::TaskId)).equals((Task::Table, Task::Id)))
            // The index has the time at which a lease ends, which comes after those of waiting jobs.
            .and_where(Expr::col((Job::Table, Job::DueAt)).gt(param()))
            .and_where(Expr::col((Job::Table, Job::State)).eq(param()))
            .take();
        let text = build_sql(
            Query::select()
                .column(Task::ThingId)
                .expr_as(SubQueryStatement::from(running), "jobs")
                .from(Task::Table)
                .and_where(Expr::col((Task::Table, Task::FinishedAt)).is_null()),
        );
        by_index(&by_index(&text, r#"FROM "job""#, index::JOB_DUE), r#"FROM "task""#, index::TASK_OPEN)
    });
    Statement::new(&TEXT, [now_ms.into(), JobState::Running.into()])
}

pub fn read_in_progress_of_task(row: &Row<'_>) -> Result<(Uuid, usize)> {
    Ok((uuid(row, "thing_id")?, row.get("jobs")?))
}

fn select_tasks_due(without_topics: usize, without_things: usize) -> SelectStatement {
    let due = Query::select()
        .expr(Expr::cust("1"))
        .from(Job::Table)
        .and_where(Expr::col((Job::Table, Job::TaskId)).equals((Task::Table, Task::Id)))
        .and_where(Expr::col((Job::Table, Job::DueAt)).lte(param()))
        .take();
    let mut select = select_task();
    select
        .and_where(Expr::col((Task::Table, Task::FinishedAt)).is_null())
        .and_where(Expr::col((Task::Table, Task::PausedAt)).is_null())
        .and_where(Expr::exists(due));
    if without_topics > 0 {
        select.and_where(Expr::col((Task::Table, Task::Topic)).is_not_in((0..without_topics).map(|_| param())));
    }
    if without_things > 0 {
        select.and_where(Expr::col((Task::Table, Task::ThingId)).is_not_in((0..without_things).map(|_| param())));
    }
    select.order_by((Task::Table, Task::ServedSeq), Order::Asc).limit(0).take()
}

/// Stores what a task was steered to. The times of a cancellation and of a pause stay those of the
/// first request.
pub fn steer_task(task: &TaskRow, wall_ms: i64) -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        let since = |column: Task| {
            let first = Func::coalesce([Expr::col(column), param()]);
            (column, CaseStatement::new().case(param().eq(Expr::cust("1")), first).into())
        };
        let values: [(Task, Expr); 3] = [since(Task::CancelRequestedAt), since(Task::PausedAt), set(Task::Rate)];
        build_sql(Query::update().table(Task::Table).values(values).and_where(eq_param(Task::Id)))
    });
    let values = [
        task.cancel_requested.into(),
        wall_ms.into(),
        task.is_paused.into(),
        wall_ms.into(),
        task.rate.map(NonZeroU32::get).into(),
        task.id.into(),
    ];
    Statement::new(&TEXT, values)
}

/// Returns a row if the task is being cancelled.
pub fn cancel_requested(task: TaskId) -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        build_sql(
            Query::select()
                .expr(Expr::cust("1"))
                .from(Task::Table)
                .and_where(eq_param(Task::Id))
                .and_where(Expr::col(Task::CancelRequestedAt).is_not_null()),
        )
    });
    Statement::new(&TEXT, [task.into()])
}

/// The unfinished tasks that are being cancelled, are paused, or have a rate.
pub fn steering() -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        let text = build_sql(
            Query::select()
                .columns([Task::Id, Task::CancelRequestedAt, Task::PausedAt, Task::Rate])
                .from(Task::Table)
                .and_where(Expr::col(Task::FinishedAt).is_null())
                .cond_where(
                    Condition::any()
                        .add(Expr::col(Task::CancelRequestedAt).is_not_null())
                        .add(Expr::col(Task::PausedAt).is_not_null())
                        .add(Expr::col(Task::Rate).is_not_null()),
                ),
        );
        by_index(&text, r#"FROM "task""#, index::TASK_STEERED)
    });
    Statement::new(&TEXT, [])
}

pub fn read_steering(row: &Row<'_>) -> Result<Steering> {
    let is_set = |column: &str| row.get::<_, Option<i64>>(column).map(|at| at.is_some());
    Ok(Steering {
        task: read_task_id(row)?,
        is_cancelled: is_set("cancel_requested_at")?,
        is_paused: is_set("paused_at")?,
        rate: row.get::<_, Option<u32>>("rate")?.and_then(NonZeroU32::new),
        instances: NonZeroU32::MIN,
    })
}

/// Fails a task whose row cannot be read, by the text of its id.
pub fn fail_unreadable_task(id: String, wall_ms: i64) -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        let columns = [Task::State, Task::FinishedAt];
        build_sql(Query::update().table(Task::Table).values(columns.map(set)).and_where(eq_param(Task::Id)))
    });
    Statement::new(&TEXT, [TaskState::Failed.into(), wall_ms.into(), id.into()])
}

pub fn read_task_id(row: &Row<'_>) -> Result<TaskId> {
    uuid(row, "id").map(TaskId)
}

/// The highest `served_seq` of an unfinished task.
pub fn max_served_seq() -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        build_sql(
            Query::select()
                .expr_as(Func::max(Expr::col(Task::ServedSeq)), "served_seq")
                .from(Task::Table)
                .and_where(Expr::col(Task::FinishedAt).is_null()),
        )
    });
    Statement::new(&TEXT, [])
}

pub fn read_max_served_seq(row: &Row<'_>) -> Result<i64> {
    Ok(row.get::<_, Option<i64>>("served_seq")?.unwrap_or(0))
}

/// Returns a row if the task has unfinished jobs. Cheaper than
/// [`task_totals`](super::task_totals), which reads all
/// jobs of the task.
pub fn has_open_jobs(task: TaskId) -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        build_sql(
            Query::select()
                .expr(Expr::cust("1"))
                .from(Job::Table)
                .and_where(eq_param(Job::TaskId))
                .and_where(Expr::col(Job::DueAt).is_not_null())
                .limit(1),
        )
    });
    // The limit is a placeholder of the text as well.
    Statement::new(&TEXT, [task.into(), 1_i64.into()])
}

/// Removes at most `limit` tasks that finished before `before_ms`. Cascades remove their jobs, log
/// entries and quarantined rows.
pub fn prune(before_ms: i64, limit: u64) -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        let finished =
            Query::select().column(Task::Id).from(Task::Table).and_where(Expr::col(Task::FinishedAt).lt(param())).limit(0).take();
        let text = build_sql(Query::delete().from_table(Task::Table).and_where(Expr::col(Task::Id).in_subquery(finished)));
        let text = by_index(&text, r#"SELECT "id" FROM "task""#, index::TASK_FINISHED);
        by_index(&text, r#"DELETE FROM "task""#, index::TASK_ID)
    });
    Statement::new(&TEXT, [before_ms.into(), limit.into()])
}

/// The number of unfinished jobs, and the earliest `due_at` of those that are not paused.
pub fn backlog() -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        let paused = Query::select()
            .column(Task::Id)
            .from(Task::Table)
            .and_where(Expr::col(Task::FinishedAt).is_null())
            .and_where(Expr::col(Task::PausedAt).is_not_null())
            .take();
        let waits = Expr::col(Job::TaskId).not_in_subquery(paused);
        let due = CaseStatement::new().case(waits, Expr::col(Job::DueAt));
        let select = Query::select()
            .expr_as(Expr::col(Job::Id).count(), "jobs")
            .expr_as(Expr::expr(due).min(), "first_due_at")
            .from(Job::Table)
            .and_where(Expr::col(Job::DueAt).is_not_null())
            .take();
        let text = by_index(&build_sql(&select), r#"FROM "job""#, index::JOB_DUE);
        by_index(&text, r#"FROM "task""#, index::TASK_STEERED)
    });
    Statement::new(&TEXT, [])
}

pub fn read_backlog(row: &Row<'_>) -> Result<(u64, Option<i64>)> {
    Ok((row.get("jobs")?, row.get("first_due_at")?))
}
