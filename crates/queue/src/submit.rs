//! Submitting and cancelling tasks.

use super::{Queue, QueueError, TaskRow, lease};
use crate::{
    store::sqlite::{sql, writer::Tx},
    task::{Event, NewTask, TaskId},
};

/// The result of a submission.
#[derive(Debug, Clone)]
pub enum Submitted {
    /// A new task was stored.
    Created(TaskId),
    /// A task with the same `request_id` and the same fields exists.
    Existing(TaskRow),
    /// A task with the same `request_id` and other values exists. `fields` are the differing
    /// fields, by their names in a request.
    Conflict { task: TaskId, fields: Vec<&'static str> },
}

/// The result of a cancellation.
#[derive(Debug, Clone)]
pub struct Cancelled {
    /// The task after the cancellation.
    pub task: TaskRow,
    /// The task was finished before; nothing was changed.
    pub already_finished: bool,
}

impl Queue {
    /// Stores a task with one job per device. The task is durable when this returns.
    ///
    /// # Errors
    /// The file cannot be written; nothing was stored.
    pub async fn submit(&self, task: NewTask) -> Result<Submitted, QueueError> {
        self.submit_with_log(task, Vec::new()).await
    }

    /// Like [`submit`](Self::submit). If the task is new, its log begins with `events`.
    ///
    /// # Errors
    /// The file cannot be written; nothing was stored.
    pub async fn submit_with_log(&self, task: NewTask, events: Vec<Event>) -> Result<Submitted, QueueError> {
        /// A task with this many devices is a large change.
        const LARGE_TASK_DEVICES: usize = 100;
        let is_large = task.devices.len() >= LARGE_TASK_DEVICES;
        let submit = move |tx: &mut Tx<'_>| submit(tx, &task, &events);
        let submitted =
            if is_large { self.inner.writer.write_large(submit).await? } else { self.inner.writer.write(submit).await? };
        self.inner.work.notify_one();
        Ok(submitted)
    }

    /// Cancels the queued jobs of a task and asks its running jobs to stop. The task finishes when
    /// the last job has stopped, so the counts of its final event are exact. Returns `None` if the
    /// task does not exist.
    ///
    /// # Errors
    /// The file cannot be written; nothing was changed.
    pub async fn cancel(&self, task: TaskId) -> Result<Option<Cancelled>, QueueError> {
        let cancelled = self.inner.writer.write(move |tx| cancel(tx, task)).await?;
        self.inner.cancel_requests.notify_one();
        Ok(cancelled)
    }
}

fn cancel(tx: &mut Tx<'_>, id: TaskId) -> rusqlite::Result<Option<Cancelled>> {
    let Some(task) = tx.rows(&sql::task(id), sql::read_task)?.pop() else { return Ok(None) };
    if task.state.is_final() {
        return Ok(Some(Cancelled { task, already_finished: true }));
    }
    if !task.cancel_requested {
        tx.run(&sql::request_cancel(id, tx.wall_ms))?;
    }
    tx.run(&sql::cancel_waiting_jobs(id))?;
    let mut events = Vec::new();
    let final_state = lease::finish_task_if_done(tx, &task, &mut events)?;
    let last_seq = if events.is_empty() { task.last_seq } else { tx.log(id, events, final_state)? };
    let task = TaskRow { state: final_state.unwrap_or(task.state), last_seq, cancel_requested: true, ..task };
    Ok(Some(Cancelled { task, already_finished: false }))
}

fn submit(tx: &mut Tx<'_>, task: &NewTask, events: &[Event]) -> rusqlite::Result<Submitted> {
    if let Some(request_id) = &task.request_id
        && let Some(row) = tx.rows(&sql::task_of_request(request_id), sql::read_task)?.pop()
    {
        let fields = differences(tx, task, &row)?;
        return Ok(if fields.is_empty() { Submitted::Existing(row) } else { Submitted::Conflict { task: row.id, fields } });
    }
    let id = TaskId::new();
    tx.run(&sql::insert_task(id, task, tx.wall_ms))?;
    for (ordinal, device) in task.devices.iter().enumerate() {
        tx.run(&sql::insert_job(id, ordinal, *device, tx.now_ms))?;
    }
    if !events.is_empty() {
        tx.log(id, events.to_vec(), None)?;
    }
    Ok(Submitted::Created(id))
}

/// The fields in which a request differs from the task of an earlier request.
fn differences(tx: &Tx<'_>, task: &NewTask, row: &TaskRow) -> rusqlite::Result<Vec<&'static str>> {
    let devices = tx.rows(&sql::devices(row.id), sql::read_device)?;
    let differs = [
        ("topic", task.topic != row.topic),
        ("thingId", task.thing != row.thing),
        ("devices", task.devices != devices),
        ("from", task.from != row.from),
        ("to", task.to != row.to),
    ];
    Ok(differs.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect())
}
