//! Submitting and cancelling tasks.

use super::{sql, update, writer::Tx};
use crate::{
    Cancelled, Submitted, TaskRow,
    policy::task::differences,
    task::{Event, NewTask, TaskId},
};

/// Stores a task with one job per device, unless its request was stored before.
pub fn submit(tx: &mut Tx<'_>, task: &NewTask, events: &[Event]) -> rusqlite::Result<Submitted> {
    if let Some(request_id) = &task.request_id
        && let Some(row) = tx.rows(&sql::task_of_request(request_id), sql::read_task)?.pop()
    {
        let fields = differences(task, &row, &tx.rows(&sql::devices(row.id), sql::read_device)?);
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

/// Ends the queued jobs of a task and marks it as being cancelled.
pub fn cancel(tx: &mut Tx<'_>, id: TaskId) -> rusqlite::Result<Option<Cancelled>> {
    let Some(task) = tx.rows(&sql::task(id), sql::read_task)?.pop() else { return Ok(None) };
    if task.state.is_final() {
        return Ok(Some(Cancelled { task, already_finished: true }));
    }
    if !task.cancel_requested {
        tx.run(&sql::request_cancel(id, tx.wall_ms))?;
    }
    tx.run(&sql::cancel_waiting_jobs(id))?;
    let mut events = Vec::new();
    let final_state = update::finish_task_if_done(tx, &task, &mut events)?;
    let last_seq = if events.is_empty() { task.last_seq } else { tx.log(id, events, final_state)? };
    let task = TaskRow { state: final_state.unwrap_or(task.state), last_seq, cancel_requested: true, ..task };
    Ok(Some(Cancelled { task, already_finished: false }))
}
