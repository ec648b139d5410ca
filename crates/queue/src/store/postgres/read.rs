//! What is read outside transactions: tasks, logs, lists.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{PgConnection, Postgres, QueryBuilder, Result, Row, query, query_scalar};
use uuid::Uuid;

use super::{
    rows::{self, stored, stored_time, task_columns},
    transaction::totals_of,
};
use crate::{
    Backlog, JobRow, OverlapQuery, QuarantineCursor, Steering, TaskDetail, TaskFilter, TaskPage, TaskRow, TaskTotals,
    task::{JobState, LogEntry, QuarantinedRow, TaskId, TaskState},
};

pub async fn task(connection: &mut PgConnection, id: TaskId) -> Result<Option<TaskRow>> {
    let sql = concat!("SELECT ", task_columns!(), " FROM task WHERE id = $1");
    query(sql).bind(id.0).fetch_optional(connection).await?.as_ref().map(rows::task).transpose()
}

pub async fn log_after(connection: &mut PgConnection, task: TaskId, seq: u64, limit: u64) -> Result<Vec<LogEntry>> {
    let sql = "SELECT seq, at, ok, body, final_state FROM event WHERE task_id = $1 AND seq > $2 ORDER BY seq LIMIT $3";
    let entries = query(sql).bind(task.0).bind(stored(seq)).bind(stored(limit)).fetch_all(connection).await?;
    entries.iter().map(|row| rows::log_entry(task, row)).collect()
}

pub async fn last_seqs(connection: &mut PgConnection, tasks: &[TaskId]) -> Result<Vec<(TaskId, u64)>> {
    let ids: Vec<Uuid> = tasks.iter().map(|task| task.0).collect();
    let rows = query("SELECT id, last_seq FROM task WHERE id = ANY ($1)").bind(ids).fetch_all(connection).await?;
    rows.iter().map(|row| Ok((rows::task_id(row)?, rows::number(row, "last_seq")?))).collect()
}

pub async fn steering(connection: &mut PgConnection) -> Result<Vec<Steering>> {
    let sql = "SELECT id, cancel_requested_at, paused_at, rate, CASE WHEN rate IS NOT NULL THEN (
                   SELECT count(DISTINCT owner) FROM job WHERE task_id = task.id AND state = 'running') END AS instances FROM task
               WHERE finished_at IS NULL AND (cancel_requested_at IS NOT NULL OR paused_at IS NOT NULL OR rate IS NOT NULL)";
    query(sql).fetch_all(connection).await?.iter().map(rows::steering).collect()
}

/// The number of unfinished jobs, and how long the oldest due one that is not paused has been waiting.
pub async fn backlog(connection: &mut PgConnection, now_ms: i64) -> Result<Backlog> {
    let sql = "SELECT (SELECT count(*) FROM job WHERE due_at IS NOT NULL)
                    + (SELECT count(*) FROM job WHERE state = 'running' AND lease_until IS NOT NULL) AS jobs,
                  LEAST(
                      (SELECT min(due_at) FROM job WHERE due_at IS NOT NULL AND task_id NOT IN (
                          SELECT id FROM task WHERE finished_at IS NULL AND paused_at IS NOT NULL)),
                      (SELECT min(lease_until) FROM job WHERE state = 'running')
                  ) AS first_due";
    let row = query(sql).fetch_one(connection).await?;
    let waited_ms = row.try_get::<Option<i64>, _>("first_due")?.map_or(0, |due| now_ms.saturating_sub(due));
    Ok(Backlog { jobs: rows::number(&row, "jobs")?, oldest_due: Duration::from_millis(waited_ms.try_into().unwrap_or(0)) })
}

pub async fn jobs(
    connection: &mut PgConnection,
    task: TaskId,
    states: &[JobState],
    after: Option<u64>,
    limit: u32,
) -> Result<Vec<JobRow>> {
    let sql = "SELECT ordinal, device_id, device_name, state, total, published, quarantined, rows_per_second, delivered, attempt,
                   outages, due_at, reason
               FROM job WHERE task_id = $1 AND ordinal > $2 AND (cardinality($3::text[]) = 0 OR state = ANY ($3)) ORDER BY ordinal LIMIT $4";
    let states: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
    let after = after.map_or(-1, stored);
    let jobs = query(sql).bind(task.0).bind(after).bind(states).bind(i64::from(limit)).fetch_all(connection).await?;
    jobs.iter().map(rows::job).collect()
}

pub async fn quarantine_page(
    connection: &mut PgConnection,
    task: TaskId,
    after: Option<&QuarantineCursor>,
    limit: Option<u32>,
) -> Result<Vec<(Uuid, QuarantinedRow)>> {
    let sql = "SELECT device_id, row_time, row_key, reason FROM quarantine
               WHERE task_id = $1 AND ($2::uuid IS NULL OR (device_id, row_time, row_key) > ($2, $3, $4))
               ORDER BY device_id, row_time, row_key LIMIT $5";
    let rows = query(sql)
        .bind(task.0)
        .bind(after.map(|(device, _)| *device))
        .bind(after.map(|(_, position)| position.time_us))
        .bind(after.map(|(_, position)| position.key.to_string()))
        .bind(limit.map(i64::from))
        .fetch_all(connection)
        .await?;
    rows.iter().map(rows::quarantined).collect()
}

/// The latest tasks that have a device of the query and overlap its range.
pub async fn overlaps(connection: &mut PgConnection, wanted: &OverlapQuery, limit: u32) -> Result<Vec<TaskRow>> {
    /// The latest tasks of the thing that are looked at.
    const MAX_TASKS: i64 = 200;
    let sql = concat!(
        "SELECT ",
        task_columns!(),
        " FROM (SELECT * FROM task WHERE thing_id = $1 ORDER BY id DESC LIMIT $2) AS task
         WHERE topic = $3 AND range_from <= $4 AND range_to >= $5
           AND EXISTS (SELECT FROM job WHERE job.task_id = task.id AND device_id = ANY ($6))
         ORDER BY id DESC LIMIT $7"
    );
    let tasks = query(sql)
        .bind(wanted.thing)
        .bind(MAX_TASKS)
        .bind(&wanted.topic)
        .bind(stored_time(wanted.to))
        .bind(stored_time(wanted.from))
        .bind(&wanted.devices)
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await?;
    tasks.iter().map(rows::task).collect()
}

pub async fn detail(connection: &mut PgConnection, id: TaskId) -> Result<Option<TaskDetail>> {
    let sql = concat!("SELECT ", task_columns!(), ", task.totals FROM task WHERE id = $1");
    let Some(row) = query(sql).bind(id.0).fetch_optional(&mut *connection).await? else { return Ok(None) };
    let (task, stored) = rows::task_with_totals(&row)?;
    Ok(with_totals(connection, vec![(task, stored)]).await?.pop())
}

/// Tasks of a filter, the newest first. A page ends early, with the place of the next one, when so
/// many tasks were looked at.
pub async fn tasks(connection: &mut PgConnection, filter: &TaskFilter, before: Option<TaskId>, limit: u32) -> Result<TaskPage> {
    const TASKS_LOOKED_AT: u32 = 5_000;
    let is_selective = filter.text.is_some() || filter.device.is_some() || filter.states.len() > 1;
    let mut end = None;
    if is_selective
        || [filter.thing.is_some(), filter.topic.is_some(), !filter.states.is_empty()].iter().filter(|on| **on).count() > 1
    {
        let sql = "SELECT id FROM task WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC OFFSET $2 LIMIT 1";
        let ends = query_scalar::<_, Uuid>(sql).bind(before.map(|before| before.0)).bind(i64::from(TASKS_LOOKED_AT));
        end = ends.fetch_optional(&mut *connection).await?;
    }
    let mut query = QueryBuilder::<Postgres>::new(concat!("SELECT ", task_columns!(), ", task.totals FROM task WHERE TRUE"));
    restrict(&mut query, filter, before);
    if let Some(end) = end {
        query.push(" AND id > ").push_bind(end);
    }
    // One more shows whether there is a next page.
    query.push(" ORDER BY id DESC LIMIT ").push_bind(i64::from(limit) + 1);
    let found = query.build().fetch_all(&mut *connection).await?;
    let mut found = found.iter().map(rows::task_with_totals).collect::<Result<Vec<_>>>()?;
    let has_more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next = if has_more { found.last().map(|(task, _)| task.id) } else { end.map(|end| TaskId(after(end))) };
    Ok(TaskPage { tasks: with_totals(connection, found).await?, next })
}

/// The next greater id.
fn after(id: Uuid) -> Uuid {
    Uuid::from_u128(id.as_u128().saturating_add(1))
}

fn restrict(query: &mut QueryBuilder<Postgres>, filter: &TaskFilter, before: Option<TaskId>) {
    let TaskFilter { states, thing, device, topic, created_ms, text } = filter;
    if let Some(before) = before {
        query.push(" AND id < ").push_bind(before.0);
    }
    match states.as_slice() {
        [] => {}
        [state] => drop(query.push(" AND state = ").push_bind(state.as_str())),
        states => {
            let states: Vec<&str> = states.iter().copied().map(TaskState::as_str).collect();
            query.push(" AND state = ANY (").push_bind(states).push(")");
        }
    }
    if let Some(thing) = thing {
        query.push(" AND thing_id = ").push_bind(*thing);
    }
    if let Some(topic) = topic {
        query.push(" AND topic = ").push_bind(topic.clone());
    }
    if let Some(created) = created_ms {
        query.push(" AND created_at BETWEEN ").push_bind(*created.start()).push(" AND ").push_bind(*created.end());
    }
    if let Some(device) = device {
        query.push(" AND EXISTS (SELECT FROM job WHERE job.task_id = task.id AND job.device_id = ").push_bind(*device).push(")");
    }
    if let Some(text) = text {
        query.push(" AND (starts_with(id::text, ").push_bind(text.to_lowercase());
        query.push(") OR strpos(reason, ").push_bind(text.clone()).push(") > 0)");
    }
}

/// Adds the sums over the jobs of the tasks that have none stored.
async fn with_totals(connection: &mut PgConnection, tasks: Vec<(TaskRow, Option<TaskTotals>)>) -> Result<Vec<TaskDetail>> {
    let open: Vec<Uuid> = tasks.iter().filter(|(_, totals)| totals.is_none()).map(|(task, _)| task.id.0).collect();
    let counted = if open.is_empty() { BTreeMap::new() } else { totals_of(connection, &open).await? };
    let detail = |(task, totals): (TaskRow, Option<TaskTotals>)| TaskDetail {
        totals: totals.or_else(|| counted.get(&task.id).copied()).unwrap_or_default(),
        task,
    };
    Ok(tasks.into_iter().map(detail).collect())
}
