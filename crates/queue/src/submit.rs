//! Submitting and cancelling tasks.

use super::{Queue, QueueError, TaskRow};
use crate::{
    store::Store,
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
        let submitted = self.inner.store.submit(task, events).await?;
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
        let cancelled = self.inner.store.cancel(task).await?;
        self.inner.cancel_requests.notify_one();
        Ok(cancelled)
    }
}
