//! Lists of jobs and quarantined rows, and the tasks that overlap a request.

use std::borrow::Cow;

use rusqlite::Row;
use sea_query::{Expr, ExprTrait, Order, Query};
use uuid::Uuid;

use super::{
    Result, Statement, delivered, select_task, state,
    statement::{Sql, Value, build_sql, by_index, eq_param, param},
    uuid,
};
use crate::{
    JobRow, OverlapQuery, QuarantineCursor,
    store::sqlite::schema::{Job, Quarantine, Task, index},
    task::{JobState, TaskId},
};

/// The jobs of a task after an ordinal, in the order of the request.
pub fn jobs(task: TaskId, states: &[JobState], after: Option<u64>, limit: u32) -> Statement<'static> {
    let mut select = Query::select()
        .columns([
            Job::Ordinal,
            Job::DeviceId,
            Job::DeviceName,
            Job::State,
            Job::Total,
            Job::Published,
            Job::Quarantined,
            Job::RowsPerSecond,
            Job::Delivered,
            Job::Attempt,
            Job::Outages,
            Job::DueAt,
            Job::Reason,
        ])
        .from(Job::Table)
        .and_where(eq_param(Job::TaskId))
        .and_where(Expr::col(Job::Ordinal).gt(param()))
        .take();
    let mut values: Vec<Value<'static>> = vec![task.into(), after.map_or(-1, u64::cast_signed).into()];
    if !states.is_empty() {
        select.and_where(Expr::col(Job::State).is_in(states.iter().map(|_| param())));
        values.extend(states.iter().map(|state| Value::from(*state)));
    }
    values.push(limit.into());
    let text = build_sql(&select.order_by(Job::Ordinal, Order::Asc).limit(0).take());
    Statement { text: Cow::Owned(by_index(&text, r#"FROM "job""#, index::JOB_TASK)), values }
}

/// `to_wall_ms` converts a time of the steady clock to the wall clock.
pub fn read_job(row: &Row<'_>, to_wall_ms: i64) -> Result<JobRow> {
    let state: JobState = state(row, "state")?;
    let due_at: Option<i64> = row.get("due_at")?;
    Ok(JobRow {
        ordinal: row.get("ordinal")?,
        device: uuid(row, "device_id")?,
        name: row.get("device_name")?,
        state,
        total: row.get("total")?,
        published: row.get("published")?,
        quarantined: row.get("quarantined")?,
        rows_per_second: row.get::<_, Option<f64>>("rows_per_second")?.filter(|_| state == JobState::Running),
        delivered: delivered(row.get("delivered")?)?,
        attempts: row.get("attempt")?,
        outages: row.get("outages")?,
        due_at_ms: due_at.filter(|_| state == JobState::Queued).map(|due_at| due_at + to_wall_ms),
        reason: row.get("reason")?,
    })
}

/// The owners of leases, each with the task of one of its jobs.
pub fn owners() -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        let text = build_sql(
            Query::select()
                .columns([Job::Owner, Job::TaskId])
                .from(Job::Table)
                .and_where(eq_param(Job::State))
                .and_where(Expr::col(Job::DueAt).is_not_null())
                .and_where(Expr::col(Job::Owner).is_not_null()),
        );
        by_index(&text, r#"FROM "job""#, index::JOB_DUE)
    });
    Statement::new(&TEXT, [JobState::Running.into()])
}

pub fn read_owner(row: &Row<'_>) -> Result<(String, String)> {
    Ok((row.get("owner")?, row.get("task_id")?))
}

/// The quarantined rows of a task after one of them, ordered by device, time and key.
pub fn quarantine_page(task: TaskId, after: Option<&QuarantineCursor>, limit: u32) -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        let place = "(\"device_id\", \"row_time\", \"row_key\") > (?, ?, ?)";
        build_sql(
            Query::select()
                .columns([Quarantine::DeviceId, Quarantine::RowTime, Quarantine::RowKey, Quarantine::Reason])
                .from(Quarantine::Table)
                .and_where(eq_param(Quarantine::TaskId))
                .and_where(Expr::cust_with_exprs(place, [param(), param(), param()]))
                .order_by(Quarantine::DeviceId, Order::Asc)
                .order_by(Quarantine::RowTime, Order::Asc)
                .order_by(Quarantine::RowKey, Order::Asc)
                .limit(0),
        )
    });
    // The empty text is before every device.
    let (device, time, key) = after.map_or((String::new(), 0, String::new()), |(device, position)| {
        (device.to_string(), position.time_us, position.key.to_string())
    });
    Statement::new(&TEXT, [task.into(), device.into(), time.into(), key.into(), limit.into()])
}

/// The latest tasks of a thing and topic that overlap a range and have one of the devices, a JSON
/// array.
pub fn overlapping_tasks(query: &OverlapQuery, devices: String, after: Option<TaskId>, limit: u32) -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        let has_device = Query::select()
            .expr(Expr::cust("1"))
            .from(Job::Table)
            .and_where(Expr::col((Job::Table, Job::TaskId)).equals((Task::Table, Task::Id)))
            .and_where(Expr::cust_with_exprs("\"device_id\" IN (SELECT value FROM json_each(?))", [param()]))
            .take();
        let select = select_task()
            .and_where(eq_param(Task::ThingId))
            .and_where(Expr::col(Task::Id).gt(param()))
            .and_where(eq_param(Task::Topic))
            // Stored times have one format, so they compare as texts.
            .and_where(Expr::col(Task::RangeFrom).lte(param()))
            .and_where(Expr::col(Task::RangeTo).gte(param()))
            .and_where(Expr::exists(has_device))
            .order_by((Task::Table, Task::Id), Order::Desc)
            .limit(0)
            .take();
        let text = by_index(&build_sql(&select), r#"FROM "task""#, index::TASK_THING);
        by_index(&text, r#"FROM "job""#, index::JOB_TASK)
    });
    let after = after.map_or_else(String::new, |after| after.to_string());
    let values = [
        query.thing.into(),
        after.into(),
        query.topic.clone().into(),
        query.to.into(),
        query.from.into(),
        devices.into(),
        limit.into(),
    ];
    Statement::new(&TEXT, values)
}

/// The id of the task of a thing that has `count` later ones.
pub fn task_of_thing_at(thing: Uuid, count: u32) -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        let select = Query::select()
            .column(Task::Id)
            .from(Task::Table)
            .and_where(eq_param(Task::ThingId))
            .order_by(Task::Id, Order::Desc)
            .limit(0)
            .offset(0)
            .take();
        by_index(&build_sql(&select), r#"FROM "task""#, index::TASK_THING)
    });
    Statement::new(&TEXT, [thing.into(), 1_u32.into(), count.into()])
}
