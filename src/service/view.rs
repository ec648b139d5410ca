//! What clients are shown of tasks, jobs and logs.

#![allow(clippy::cast_precision_loss, reason = "counts of rows are far below 2^52")]

use chrono::{DateTime, TimeDelta, Utc};

use super::{TaskService, unavailable};
use crate::{
    protocol::{
        RequestError,
        http::{DeviceStates, EventView, JobView, Page, QuarantineView, RowCounts, TaskView, Waiting},
        time::show_micros,
    },
    queue::{JobRow, QuarantineCursor, TaskDetail, TaskFilter, TaskRow, TaskTotals},
    task::{JobCounts, JobState, Language, LogEntry, TaskId},
};

impl TaskService {
    /// Tasks of a filter, the newest first, before the task `before`.
    ///
    /// # Errors
    /// The queue cannot be read.
    pub async fn list(&self, filter: &TaskFilter, before: Option<TaskId>, limit: u32) -> Result<Page<TaskView>, RequestError> {
        let page = self.queue.tasks(filter, before, limit).await.map_err(unavailable)?;
        let now = Utc::now();
        Ok(Page {
            items: page.tasks.into_iter().map(|detail| task_view(detail, now)).collect(),
            next: page.next.map(|next| next.to_string()),
        })
    }

    /// One task with its counts.
    ///
    /// # Errors
    /// There is no such task, or the queue cannot be read.
    pub async fn show(&self, id: TaskId) -> Result<TaskView, RequestError> {
        let detail = self.queue.task_detail(id).await.map_err(unavailable)?.ok_or(RequestError::UnknownTask(id))?;
        Ok(task_view(detail, Utc::now()))
    }

    /// The devices of a task, in the order of the request, after the one with ordinal `after`.
    ///
    /// # Errors
    /// There is no such task, or the queue cannot be read.
    pub async fn jobs(
        &self,
        id: TaskId,
        states: &[JobState],
        after: Option<u64>,
        limit: u32,
    ) -> Result<Page<JobView>, RequestError> {
        self.task_row(id).await?;
        let jobs = self.queue.jobs(id, states, after, limit.saturating_add(1)).await.map_err(unavailable)?;
        let (jobs, next) = part(jobs, limit, |job| job.ordinal.to_string());
        let now = Utc::now();
        Ok(Page { items: jobs.into_iter().map(|job| job_view(job, now)).collect(), next })
    }

    /// Entries of a task's log after `after`.
    ///
    /// # Errors
    /// There is no such task, or the queue cannot be read.
    pub async fn events(&self, id: TaskId, after: u64, limit: u32, language: Language) -> Result<Page<EventView>, RequestError> {
        let row = self.task_row(id).await?;
        let entries = self.queue.log_after(id, after, u64::from(limit)).await.map_err(unavailable)?;
        let last = entries.last().map_or(after, |entry| entry.seq);
        let next = (last < row.last_seq).then(|| last.to_string());
        Ok(Page { items: entries.iter().map(|entry| event_view(entry, language)).collect(), next })
    }

    /// Quarantined rows of a task after one of them.
    ///
    /// # Errors
    /// There is no such task, or the queue cannot be read.
    pub async fn quarantine(
        &self,
        id: TaskId,
        after: Option<&QuarantineCursor>,
        limit: u32,
    ) -> Result<(Vec<QuarantineView>, Option<QuarantineCursor>), RequestError> {
        self.task_row(id).await?;
        let rows = self.queue.quarantine_page(id, after, limit.saturating_add(1)).await.map_err(unavailable)?;
        let (rows, next) = part(rows, limit, |(device, row)| (*device, row.position.clone()));
        let view = |(device, row): (uuid::Uuid, crate::task::QuarantinedRow)| QuarantineView {
            device_id: device,
            time: show_micros(row.position.time_us),
            key: row.position.key.to_string(),
            reason: row.reason,
        };
        Ok((rows.into_iter().map(view).collect(), next))
    }
}

/// The first `limit` of the items, and the cursor of the last of them if there are more: one more
/// than `limit` was read to find out.
pub(super) fn part<T, C>(mut items: Vec<T>, limit: u32, cursor: impl Fn(&T) -> C) -> (Vec<T>, Option<C>) {
    let has_more = items.len() > limit as usize;
    items.truncate(limit as usize);
    let next = items.last().filter(|_| has_more).map(cursor);
    (items, next)
}

fn time(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or_default()
}

fn task_view(TaskDetail { task, totals }: TaskDetail, now: DateTime<Utc>) -> TaskView {
    let TaskRow { id, thing, topic, from, to, state, last_seq, .. } = task;
    let JobCounts { queued, running, succeeded, failed, cancelled } = totals.jobs;
    let total = queued + running + succeeded + failed + cancelled;
    let TaskTotals { counted, counted_jobs, published, quarantined, unanswered, .. } = totals;
    let speed = (running > 0).then_some(totals.rows_per_second);
    // Devices that are not counted yet are taken to be as large as the others are on average.
    let estimated_rows = (counted_jobs > 0).then(|| counted as f64 / counted_jobs as f64 * total as f64);
    let remaining = estimated_rows.map(|rows| rows - (published + quarantined) as f64);
    TaskView {
        task_id: id,
        state,
        paused: task.is_paused,
        cancel_requested: task.cancel_requested,
        thing_id: thing,
        topic,
        from,
        to,
        request_id: task.request_id,
        reason: task.reason,
        rate: task.rate.map(std::num::NonZeroU32::get),
        requested_by: task.requester,
        retry_of: task.retry_of,
        created_at: time(task.created_at_ms),
        finished_at: task.finished_at_ms.map(time),
        last_seq,
        devices: DeviceStates { total, queued, running, succeeded, failed, cancelled },
        rows: RowCounts { counted, counted_devices: counted_jobs, published, quarantined, unanswered },
        rows_per_second: speed,
        estimated_end: remaining.and_then(|remaining| end_at(now, remaining, speed?)),
    }
}

/// When the remaining rows are published at this speed.
fn end_at(now: DateTime<Utc>, remaining: f64, rows_per_second: f64) -> Option<DateTime<Utc>> {
    if rows_per_second < 0.01 || remaining < 0.0 {
        return None;
    }
    // Rounded to a second: it is an estimate. A duration that is too long saturates.
    let seconds = (remaining / rows_per_second).min(1e9) as i64;
    now.checked_add_signed(TimeDelta::try_seconds(seconds)?)
}

fn job_view(job: JobRow, now: DateTime<Utc>) -> JobView {
    let JobRow { device, name, state, total, published, quarantined, rows_per_second, attempts, outages, .. } = job;
    let remaining = total.map(|total| total.saturating_sub(published + quarantined) as f64);
    let waiting = job.due_at_ms.filter(|_| outages > 0).map(|due_at| Waiting { outages, next_attempt_at: time(due_at) });
    JobView {
        device_id: device,
        name,
        state,
        counted: total,
        published,
        quarantined,
        rows_per_second,
        estimated_end: remaining.and_then(|remaining| end_at(now, remaining, rows_per_second?)),
        attempts,
        reason: job.reason,
        waiting,
    }
}

/// A log entry with its text.
pub fn event_view(entry: &LogEntry, language: Language) -> EventView {
    EventView {
        seq: entry.seq,
        time: time(entry.at_ms),
        is_error: entry.event.is_error(),
        text: entry.event.text(language),
        event: entry.event.clone(),
        state: entry.final_state,
    }
}
