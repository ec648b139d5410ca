//! Lists of tasks, and the tasks that overlap a request.

use std::collections::HashSet;

use super::{
    connection::Readers,
    sql::{self, TaskRange},
};
use crate::{
    OverlapQuery, QueueError, TaskDetail, TaskFilter, TaskPage, TaskRow, TaskTotals,
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
    // With several states, each has its part of the index. One that is named twice is read once.
    let states: HashSet<Option<TaskState>> =
        if filter.states.is_empty() { HashSet::from([None]) } else { filter.states.iter().copied().map(Some).collect() };
    let mut rows = Vec::new();
    for state in states {
        let range = TaskRange { state, after: oldest, before };
        // One more shows whether there is a next page.
        rows.extend(readers.rows(sql::tasks(filter, range, limit.saturating_add(1)), sql::read_task_with_totals).await?);
    }
    rows.sort_unstable_by_key(|(task, _)| std::cmp::Reverse(task.id));
    // A task that changes its state in between is found twice.
    rows.dedup_by_key(|(task, _)| task.id);
    let has_more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    // `oldest` itself has not been looked at, so the next page begins with it.
    let next = if has_more { rows.last().map(|(task, _)| task.id) } else { oldest.map(successor) };
    let mut tasks = Vec::with_capacity(rows.len());
    for (task, totals) in rows {
        tasks.push(with_totals(readers, task, totals).await?);
    }
    Ok(TaskPage { tasks, next })
}

/// The next greater id.
fn successor(id: TaskId) -> TaskId {
    TaskId(uuid::Uuid::from_u128(id.0.as_u128().saturating_add(1)))
}

/// A task with its counts, if it exists.
pub async fn detail(readers: &Readers, id: TaskId) -> Result<Option<TaskDetail>, QueueError> {
    match readers.rows(sql::task_with_totals(id), sql::read_task_with_totals).await?.pop() {
        Some((task, totals)) => with_totals(readers, task, totals).await.map(Some),
        None => Ok(None),
    }
}

/// Adds the sums over the jobs of a task if none were stored when it finished.
async fn with_totals(readers: &Readers, task: TaskRow, stored: Option<TaskTotals>) -> Result<TaskDetail, QueueError> {
    let totals = match stored {
        Some(totals) => totals,
        None => readers.rows(sql::task_totals(task.id), sql::read_task_totals).await?.pop().unwrap_or_default(),
    };
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
