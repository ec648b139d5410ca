//! Lists of tasks, and the tasks that overlap a request.

use super::{
    connection::Readers,
    sql::{self, TaskRange},
};
use crate::{
    OverlapQuery, QueueError, TaskDetail, TaskFilter, TaskPage, TaskRow,
    task::{TaskId, TaskState},
};

/// A list by device looks at this many tasks for one page, since no index finds the tasks of a
/// device.
const TASKS_LOOKED_AT: u32 = 2_000;

/// The tasks before `before`, the newest first.
pub async fn tasks(readers: &Readers, filter: &TaskFilter, before: Option<TaskId>, limit: u32) -> Result<TaskPage, QueueError> {
    let oldest = match filter.device {
        Some(_) => readers.rows(sql::task_at_distance(before, TASKS_LOOKED_AT), sql::read_task_id).await?.pop(),
        None => None,
    };
    // With several states, each has its part of the index.
    let states: Vec<Option<TaskState>> =
        if filter.states.is_empty() { vec![None] } else { filter.states.iter().copied().map(Some).collect() };
    let mut rows: Vec<TaskRow> = Vec::new();
    for state in states {
        let range = TaskRange { state, after: oldest, before };
        // One more shows whether there is a next page.
        rows.extend(readers.rows(sql::tasks(filter, range, limit.saturating_add(1)), sql::read_task).await?);
    }
    rows.sort_unstable_by_key(|task| std::cmp::Reverse(task.id));
    rows.dedup_by_key(|task| task.id);
    let has_more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    // `oldest` itself has not been looked at, so the next page begins with it.
    let next = if has_more { rows.last().map(|task| task.id) } else { oldest.map(successor) };
    let mut tasks = Vec::with_capacity(rows.len());
    for task in rows {
        tasks.push(detail(readers, task).await?);
    }
    Ok(TaskPage { tasks, next })
}

/// The next greater id.
fn successor(id: TaskId) -> TaskId {
    TaskId(uuid::Uuid::from_u128(id.0.as_u128().saturating_add(1)))
}

/// Adds the counts of a task: the stored ones if it is finished, otherwise the sums over its jobs.
pub async fn detail(readers: &Readers, task: TaskRow) -> Result<TaskDetail, QueueError> {
    if task.state.is_final()
        && let Some(totals) = readers.rows(sql::stored_totals(task.id), sql::read_stored_totals).await?.pop().flatten()
    {
        return Ok(TaskDetail { task, totals });
    }
    let totals = readers.rows(sql::task_totals(task.id), sql::read_task_totals).await?.pop().unwrap_or_default();
    Ok(TaskDetail { task, totals })
}

/// The latest tasks that have a device of the query and overlap its range.
pub async fn overlaps(readers: &Readers, query: OverlapQuery, limit: u32) -> Result<Vec<TaskRow>, QueueError> {
    /// The latest tasks of the thing that are looked at.
    const MAX_TASKS: u32 = 200;
    let oldest = readers.rows(sql::task_of_thing_at(query.thing, MAX_TASKS), sql::read_task_id).await?.pop();
    let devices: Vec<_> = query.devices.iter().map(ToString::to_string).collect();
    // Strings can always be encoded.
    let devices = serde_json::to_string(&devices).unwrap_or_default();
    readers.rows(sql::overlapping_tasks(&query, devices, oldest, limit), sql::read_task).await
}
