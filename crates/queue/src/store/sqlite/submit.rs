//! Submitting tasks, and steering them.

use super::{sql, update, writer::Tx};
use crate::{
    Steer, Steered, Submission, Submitted, TaskRow, policy,
    policy::task::differences,
    task::{Requester, TaskId},
};

/// Stores a task with one job per device, unless its request was stored before.
pub fn submit(tx: &mut Tx<'_>, submission: &Submission) -> rusqlite::Result<Submitted> {
    let task = &submission.task;
    if let Some(request_id) = &task.request_id
        && let Some(row) = tx.rows(&sql::task_of_request(request_id), sql::read_task)?.pop()
    {
        let fields = differences(task, &row, &tx.rows(&sql::devices(row.id), sql::read_device)?);
        return Ok(if fields.is_empty() {
            Submitted::Existing(Box::new(row))
        } else {
            Submitted::Conflict { task: row.id, fields }
        });
    }
    let id = tx.new_task_id();
    tx.run(&sql::insert_task(id, submission, tx.wall_ms))?;
    for (ordinal, device) in task.devices.iter().enumerate() {
        tx.run(&sql::insert_job(id, ordinal, *device, tx.now_ms))?;
    }
    if !submission.events.is_empty() {
        tx.log(id, submission.events.clone(), None)?;
    }
    Ok(Submitted::Created(id))
}

/// Changes an unfinished task.
pub fn steer(tx: &mut Tx<'_>, id: TaskId, steer: Steer, by: Option<Requester>) -> rusqlite::Result<Option<Steered>> {
    let Some(before) = tx.rows(&sql::task(id), sql::read_task)?.pop() else { return Ok(None) };
    let already_finished = before.state.is_final();
    let Some((task, event)) = policy::task::steer(&before, steer, by) else {
        return Ok(Some(Steered { task: before, already_finished }));
    };
    tx.run(&sql::steer_task(&task, tx.wall_ms))?;
    let mut events: Vec<_> = event.into_iter().collect();
    let mut final_state = None;
    if steer == Steer::Cancel {
        tx.run(&sql::cancel_queued_jobs(id))?;
        final_state = update::finish_task_if_done(tx, &task, &mut events)?;
    }
    let last_seq = if events.is_empty() { task.last_seq } else { tx.log(id, events, final_state)? };
    let task = TaskRow { state: final_state.unwrap_or(task.state), last_seq, ..task };
    Ok(Some(Steered { task, already_finished: false }))
}
