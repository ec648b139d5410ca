//! Lists of tasks, and the tasks that overlap a request.

use std::collections::HashSet;

use rusqlite::Connection;

use super::{
    connection::{Readers, rows},
    sql::{self, TaskIndex, TaskScan},
};
use crate::{
    OverlapQuery, QueueError, TaskDetail, TaskFilter, TaskPage, TaskRow, TaskTotals,
    task::{TaskId, TaskState},
};

/// A page looks at so many tasks if an index alone does not find those that are meant: that takes
/// two or three milliseconds. Then it ends, with fewer tasks than asked for.
const TASKS_LOOKED_AT: u32 = 5_000;
/// The same where the index has what is looked at.
const REASONS_LOOKED_AT: u32 = 20_000;
/// The same for a list by device, which looks at the jobs of each task.
const TASKS_LOOKED_AT_FOR_DEVICE: u32 = 2_000;
/// The time in an id is that of `created_at`. Versions up to 0.2 took them one after the other, from
/// a clock that may have been set in between.
const ID_TIME_TOLERANCE_MS: i64 = 3_600_000;
/// Is after every id.
const AFTER_ALL_IDS: &str = "~";

/// The tasks before `before`, the newest first.
pub async fn tasks(readers: &Readers, filter: &TaskFilter, before: Option<TaskId>, limit: u32) -> Result<TaskPage, QueueError> {
    let filter = filter.clone();
    readers.call(move |connection| tasks_of(connection, &filter, before, limit)).await
}

fn tasks_of(connection: &Connection, filter: &TaskFilter, before: Option<TaskId>, limit: u32) -> rusqlite::Result<TaskPage> {
    let (mut found, mut oldest) = (Vec::new(), None);
    for mut scan in scans(filter, before) {
        let (index, ends_at) = index_of(connection, &scan)?;
        if let Some(end) = ends_at {
            scan.from = end.to_string();
            oldest = oldest.max(Some(end));
        }
        // One more shows whether there is a next page.
        found.extend(rows(connection, &scan.tasks(index, limit.saturating_add(1)), sql::read_task_with_totals)?);
    }
    // What is older than the end of one scan is left to the next page, which looks there in all.
    found.retain(|(task, _)| oldest.is_none_or(|oldest| task.id >= oldest));
    found.sort_unstable_by_key(|(task, _)| std::cmp::Reverse(task.id));
    // A task is found twice if its id and its reason match, or if its state changes in between.
    found.dedup_by_key(|(task, _)| task.id);
    let has_more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next = if has_more { found.last().map(|(task, _)| task.id) } else { oldest };
    let tasks = found.into_iter().map(|(task, totals)| with_totals(connection, task, totals));
    Ok(TaskPage { tasks: tasks.collect::<rusqlite::Result<_>>()?, next })
}

/// What has to be read for a filter. A task that matches is in at least one of the scans.
fn scans(filter: &TaskFilter, before: Option<TaskId>) -> Vec<TaskScan<'_>> {
    // With several states, each has its part of the index. One that is named twice is read once.
    let states: HashSet<Option<TaskState>> =
        if filter.states.is_empty() { HashSet::from([None]) } else { filter.states.iter().copied().map(Some).collect() };
    let (mut from, mut below) = (String::new(), before.map_or_else(|| AFTER_ALL_IDS.to_owned(), |before| before.to_string()));
    if let Some(created) = &filter.created_ms {
        from = first_id_at(created.start().saturating_sub(ID_TIME_TOLERANCE_MS));
        below = below.min(first_id_at(created.end().saturating_add(ID_TIME_TOLERANCE_MS)));
    }
    let mut scans = Vec::new();
    for state in states {
        let scan = TaskScan { filter, state, reason: None, from: from.clone(), below: below.clone() };
        let Some(text) = &filter.text else {
            scans.push(scan);
            continue;
        };
        let prefix = text.to_lowercase();
        if prefix.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
            let below = scan.below.clone().min(format!("{prefix}{AFTER_ALL_IDS}"));
            scans.push(TaskScan { from: scan.from.clone().max(prefix), below, ..scan.clone() });
        }
        scans.push(TaskScan { reason: Some(text), ..scan });
    }
    scans
}

/// The lowest id of a task that was created at a time, in milliseconds since 1970, as far as it is
/// known: a prefix of ids.
fn first_id_at(ms: i64) -> String {
    /// The most that the 48 bits of an id hold: in the year 10889.
    const MAX_MS: i64 = (1 << 48) - 1;
    let hex = format!("{:012x}", ms.clamp(0, MAX_MS));
    let (high, low) = hex.split_at_checked(8).unwrap_or((&hex, ""));
    format!("{high}-{low}")
}

/// Chooses the index that a scan reads, and where it ends if there is too much to read for one page.
fn index_of(connection: &Connection, scan: &TaskScan<'_>) -> rusqlite::Result<(TaskIndex, Option<TaskId>)> {
    let TaskScan { filter, state, reason, .. } = scan;
    let equalities = [
        (state.is_some(), TaskIndex::State),
        (filter.thing.is_some(), TaskIndex::Thing),
        (filter.topic.is_some(), TaskIndex::Topic),
    ];
    let mut indexes: Vec<_> = equalities.into_iter().filter(|(usable, _)| *usable).map(|(_, index)| index).collect();
    // Whether a task in the index is one that is meant.
    let is_exact = indexes.len() <= 1 && reason.is_none() && filter.device.is_none();
    if reason.is_some() {
        indexes.push(TaskIndex::Reason);
    }
    if indexes.is_empty() {
        indexes.push(TaskIndex::Id);
    }
    let first = indexes.first().copied().unwrap_or(TaskIndex::Id);
    if is_exact {
        return Ok((first, None));
    }
    let mut best: Option<(TaskIndex, TaskId)> = None;
    for index in indexes {
        let looked_at = match index {
            _ if filter.device.is_some() => TASKS_LOOKED_AT_FOR_DEVICE,
            TaskIndex::Reason => REASONS_LOOKED_AT,
            _ => TASKS_LOOKED_AT,
        };
        // The part of this index that is read ends with this task, or with the last one.
        let Some(end) = rows(connection, &scan.id_at_distance(index, looked_at), sql::read_task_id)?.pop() else {
            return Ok((index, None));
        };
        // The index that gets furthest back.
        if best.is_none_or(|(_, furthest)| end < furthest) {
            best = Some((index, end));
        }
    }
    Ok(best.map_or((first, None), |(index, end)| (index, Some(successor(end)))))
}

/// The next greater id.
fn successor(id: TaskId) -> TaskId {
    TaskId(uuid::Uuid::from_u128(id.0.as_u128().saturating_add(1)))
}

/// A task with its counts, if it exists.
pub async fn detail(readers: &Readers, id: TaskId) -> Result<Option<TaskDetail>, QueueError> {
    readers
        .call(move |connection| match rows(connection, &sql::task_with_totals(id), sql::read_task_with_totals)?.pop() {
            Some((task, totals)) => with_totals(connection, task, totals).map(Some),
            None => Ok(None),
        })
        .await
}

/// Adds the sums over the jobs of a task if none were stored when it finished.
fn with_totals(connection: &Connection, task: TaskRow, stored: Option<TaskTotals>) -> rusqlite::Result<TaskDetail> {
    let totals = match stored {
        Some(totals) => totals,
        None => rows(connection, &sql::task_totals(task.id), sql::read_task_totals)?.pop().unwrap_or_default(),
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

#[cfg(test)]
mod tests;
