//! Updates of a job by the holder of its lease, and the end of a task.

use super::{sql, writer::Tx};
use crate::{
    Job, TaskRow, failpoint,
    lease::JobUpdate,
    policy::{
        job::{Transition, events, transition, yields_to_cancellation},
        task::finish,
    },
    task::{Event, MAX_NAMED, TaskState},
};

/// Applies an update if the attempt still has the lease, and returns whether it had. Finishes the
/// task if this was its last job. `until_ms` is the new end of the lease.
pub fn apply(tx: &mut Tx<'_>, job: &Job, update: &JobUpdate, until_ms: i64) -> rusqlite::Result<bool> {
    let is_cancelling = yields_to_cancellation(update) && !tx.rows(&sql::cancel_requested(job.task.id), |_| Ok(()))?.is_empty();
    let Transition { state, due_at, columns } = transition(job, update, is_cancelling, tx.now_ms, until_ms)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    if tx.run(&sql::write_job(job.id, job.attempt, state, due_at, &columns)?)? == 0 {
        return Ok(false);
    }
    let mut events = events(job, update);
    if update.change.is_none() && update.progress.is_some() {
        failpoint::hit("heartbeat");
    }
    for row in &update.quarantined {
        tx.run(&sql::insert_quarantined(job.task.id, job.device, row, tx.wall_ms))?;
    }
    let mut final_state = None;
    if state.is_final() {
        final_state = finish_task_if_done(tx, &job.task, &mut events)?;
    }
    if !events.is_empty() {
        tx.log(job.task.id, events, final_state)?;
    }
    Ok(true)
}

/// If all jobs of the task are finished, appends the final event to `events` and returns the final
/// state of the task; the caller logs the events. Returns `None` if the task has open jobs.
pub fn finish_task_if_done(tx: &Tx<'_>, task: &TaskRow, events: &mut Vec<Event>) -> rusqlite::Result<Option<TaskState>> {
    if !tx.rows(&sql::has_open_jobs(task.id), |_| Ok(()))?.is_empty() {
        return Ok(None);
    }
    let Some(totals) = tx.rows(&sql::task_totals(task.id), sql::read_task_totals)?.pop() else { return Ok(None) };
    let failures = match totals.jobs.failed {
        0 => Vec::new(),
        _ => tx.rows(&sql::failures(task.id, MAX_NAMED as u64), sql::read_failure)?,
    };
    failpoint::hit("last-event");
    tx.run(&sql::store_totals(task.id, &totals)?)?;
    let (event, state) = finish(task, totals, failures, tx.wall_ms);
    events.push(event);
    Ok(Some(state))
}
