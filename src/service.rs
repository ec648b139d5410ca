//! The use cases, free of any transport: what a client may do with tasks. The WebSocket calls them,
//! and so will HTTP.

use std::{net::IpAddr, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    failpoint,
    protocol::{Attach, RequestError, Role, Submit},
    queue::{Cancelled, LogTail, Queue, QueueError, Submitted, TaskRow},
    task::{Event, TaskId},
    telemetry::Metrics,
};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The name of its token.
    pub token: Arc<str>,
    pub role: Role,
    /// The client's address, behind trusted proxies too.
    pub address: IpAddr,
}

impl Caller {
    fn require(&self, needed: Role, action: &'static str) -> Result<(), RequestError> {
        if self.role >= needed {
            return Ok(());
        }
        Err(RequestError::Forbidden { token: self.token.to_string(), role: self.role, action, needed })
    }
}

/// What clients may do; clones are the same service.
#[derive(Clone)]
pub struct TaskService {
    queue: Queue,
    metrics: Metrics,
    /// The service is stopping, and takes no new tasks.
    draining: CancellationToken,
}

/// What became of a submit.
pub enum SubmitOutcome {
    /// A new task, durable by now.
    Created(TaskId),
    /// The same request was sent before, with the same `requestId`: its task.
    Existing(TaskRow),
}

impl TaskService {
    pub fn new(queue: Queue, metrics: Metrics, draining: CancellationToken) -> Self {
        Self { queue, metrics, draining }
    }

    /// Stores a task. Its jobs may start at once.
    ///
    /// # Errors
    /// The caller is no operator, the service is stopping, the queue cannot be written, or the
    /// `requestId` belongs to another request. Nothing is stored.
    pub async fn submit(&self, caller: &Caller, submit: Submit) -> Result<SubmitOutcome, RequestError> {
        caller.require(Role::Operator, "submit tasks")?;
        if self.draining.is_cancelled() {
            return Err(RequestError::ShuttingDown);
        }
        let Submit { task, ignored } = submit;
        let events = if ignored.is_empty() { Vec::new() } else { vec![Event::fields_ignored(&ignored)] };
        let (thing, devices, from, to) = (task.thing, task.devices.len(), task.from, task.to);
        match self.queue.submit_with_log(task, events).await.map_err(unavailable)? {
            Submitted::Created(id) => {
                let Caller { token, address, .. } = caller;
                tracing::info!(task = %id, %thing, devices, %from, %to, token = &**token, %address, "a task was created");
                failpoint::hit("accepted");
                self.metrics.tasks_created.inc();
                Ok(SubmitOutcome::Created(id))
            }
            Submitted::Existing(row) => Ok(SubmitOutcome::Existing(row)),
            Submitted::Conflict { task, fields } => Err(RequestError::RequestIdConflict { task, fields }),
        }
    }

    /// A task whose log is to be followed after an entry.
    ///
    /// # Errors
    /// There is no such task, its log is shorter, or the queue cannot be read.
    pub async fn attach(&self, attach: &Attach) -> Result<TaskRow, RequestError> {
        let Attach { task, after } = *attach;
        let row = self.queue.task(task).await.map_err(unavailable)?.ok_or(RequestError::UnknownTask(task))?;
        if after > row.last_seq {
            return Err(RequestError::AfterTheEnd { task, after, last: row.last_seq });
        }
        Ok(row)
    }

    /// Cancels a task. Durable once this returns; harmless when repeated.
    ///
    /// # Errors
    /// The caller is no operator, there is no such task, or the queue cannot be written.
    pub async fn cancel(&self, caller: &Caller, task: TaskId) -> Result<Cancelled, RequestError> {
        caller.require(Role::Operator, "cancel tasks")?;
        let cancelled = self.queue.cancel(task).await.map_err(unavailable)?.ok_or(RequestError::UnknownTask(task))?;
        if !cancelled.already_finished {
            let Caller { token, address, .. } = caller;
            tracing::info!(%task, token = &**token, %address, "a task is cancelled");
        }
        Ok(cancelled)
    }

    /// The log of a task after an entry: first what is stored, then what happens.
    pub fn tail(&self, task: TaskId, after: u64) -> LogTail {
        self.queue.tail(task, after)
    }
}

fn unavailable(error: QueueError) -> RequestError {
    match error {
        QueueError::Closed => RequestError::ShuttingDown,
        error @ (QueueError::Unavailable(_) | QueueError::Damaged(_) | QueueError::Unknown(_)) => {
            tracing::error!(%error, "the queue cannot be used: a request is rejected");
            RequestError::QueueUnavailable(error.to_string())
        }
    }
}
