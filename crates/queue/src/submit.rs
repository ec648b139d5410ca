//! Submitting tasks.

use super::{Queue, QueueError, TaskRow};
use crate::{
    store::Store,
    task::{Event, NewTask, Requester, TaskId},
};

/// A task to be stored.
#[derive(Debug, Clone)]
pub struct Submission {
    pub task: NewTask,
    /// Who asks for it.
    pub requester: Option<Requester>,
    /// The task whose devices it tries again.
    pub retry_of: Option<TaskId>,
    /// The beginning of its log.
    pub events: Vec<Event>,
}

impl From<NewTask> for Submission {
    fn from(task: NewTask) -> Self {
        Self { task, requester: None, retry_of: None, events: Vec::new() }
    }
}

/// The result of a submission.
#[derive(Debug, Clone)]
pub enum Submitted {
    /// A new task was stored.
    Created(TaskId),
    /// A task with the same `request_id` and the same fields exists.
    Existing(Box<TaskRow>),
    /// A task with the same `request_id` and other values exists. `fields` are the differing
    /// fields, by their names in a request.
    Conflict { task: TaskId, fields: Vec<&'static str> },
}

impl Queue {
    /// Stores a task with one job per device. The task is durable when this returns.
    ///
    /// # Errors
    /// The queue cannot be written; nothing was stored.
    pub async fn submit(&self, submission: impl Into<Submission>) -> Result<Submitted, QueueError> {
        let submitted = self.inner.store.submit(submission.into()).await?;
        self.inner.work.notify_one();
        Ok(submitted)
    }
}
