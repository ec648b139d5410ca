//! The use cases, free of any transport: what a client may do with tasks. The WebSocket and the HTTP
//! API call the same ones.

mod catalog;
mod instances;
mod preview;
mod receipt;
mod traces;
mod verify;
mod view;

use std::{collections::HashSet, net::IpAddr, num::NonZeroU32, sync::Arc, time::SystemTime};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use catalog::{Catalog, CatalogCursor, CatalogFilter};
pub use preview::{Division, Preview, Previews};
pub use traces::trace_finished;
pub use verify::Verification;
pub use view::event_view;

use crate::{
    failpoint,
    protocol::{
        Attach, RequestError, RequestPolicy, Role, Submit, ensure_allowed_topic, http::RetryDevices, lowered_rate, rate_within,
    },
    queue::{LogTail, OverlapQuery, Queue, QueueError, Steer, Steered, Submission, Submitted, TaskRow},
    sink::kafka::Kafka,
    source::Source,
    task::{Event, JobState, MAX_NAMED, NewTask, Requester, TaskId},
    telemetry::{Metrics, Traces},
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
    fn requester(&self) -> Requester {
        Requester { token: self.token.to_string(), address: self.address.to_string() }
    }

    fn require(&self, needed: Role, action: &'static str) -> Result<(), RequestError> {
        if self.role >= needed {
            return Ok(());
        }
        Err(RequestError::Forbidden { token: self.token.to_string(), role: self.role, action, needed })
    }
}

/// The name of the token of the start parameter.
pub const DEFAULT_TOKEN: &str = "default";

/// What clients may do; clones are the same service.
#[derive(Clone)]
pub struct TaskService {
    queue: Queue,
    policy: RequestPolicy,
    metrics: Metrics,
    /// The service is stopping, and takes no new tasks.
    draining: CancellationToken,
    source: Source,
    kafka: Kafka,
    verifications: Arc<Semaphore>,
    traces: Traces,
}

/// What became of a submit.
pub enum SubmitOutcome {
    /// A new task, durable by now.
    Created(TaskId),
    /// The same request was sent before, with the same `requestId`: its task.
    Existing(Box<TaskRow>),
}

/// What a task tries again.
#[derive(Clone, Copy)]
struct Retry {
    of: TaskId,
    /// Its rate, if the new task has a lower one.
    lowered_from: Option<NonZeroU32>,
}

impl TaskService {
    pub fn new(
        queue: Queue,
        source: Source,
        kafka: Kafka,
        policy: RequestPolicy,
        metrics: Metrics,
        draining: CancellationToken,
    ) -> Self {
        let verifications = Arc::new(Semaphore::new(verify::MAX_VERIFICATIONS));
        Self { queue, policy, metrics, draining, source, kafka, verifications, traces: Traces::default() }
    }

    /// Records submissions.
    #[must_use]
    pub fn with_traces(mut self, traces: Traces) -> Self {
        self.traces = traces;
        self
    }

    /// What requests are checked against.
    pub fn policy(&self) -> &RequestPolicy {
        &self.policy
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
        self.store(caller, task, None, events).await
    }

    /// Stores a task. Its log begins with who asked for it, unless that is a client of the contract
    /// without anything to say; then with the tasks that it overlaps, then with `events`.
    async fn store(
        &self,
        caller: &Caller,
        task: NewTask,
        retry: Option<Retry>,
        events: Vec<Event>,
    ) -> Result<SubmitOutcome, RequestError> {
        let begun = SystemTime::now();
        let retry_of = retry.map(|retry| retry.of);
        let topic = self.traces.is_on().then(|| task.topic.clone());
        let (thing, devices, from, to) = (task.thing, task.devices.len(), task.from, task.to);
        let says_more = &*caller.token != DEFAULT_TOKEN || task.reason.is_some() || task.rate.is_some() || retry_of.is_some();
        let submitted = says_more.then(|| Event::Submitted {
            by: caller.requester(),
            devices: devices as u64,
            reason: task.reason.clone(),
            rate: task.rate,
            lowered_from: retry.and_then(|retry| retry.lowered_from),
            retry_of,
        });
        let overlaps = self.overlaps(&task, retry_of).await?;
        let events = submitted.into_iter().chain(overlaps).chain(events).collect();
        let submission = Submission { task, requester: Some(caller.requester()), retry_of, events };
        match self.queue.submit(submission).await.map_err(unavailable)? {
            Submitted::Created(id) => {
                let Caller { token, address, .. } = caller;
                tracing::info!(task = %id, %thing, devices, %from, %to, token = &**token, %address, "a task was created");
                failpoint::hit("accepted");
                self.metrics.tasks_created.inc();
                let span = self.traces.start_at(id.0, "submit", begun);
                traces::describe(&span, thing, topic.unwrap_or_default(), &caller.token);
                span.set("data_patch.devices", devices as u64);
                span.end(None);
                Ok(SubmitOutcome::Created(id))
            }
            Submitted::Existing(row) => Ok(SubmitOutcome::Existing(row)),
            Submitted::Conflict { task, fields } => Err(RequestError::RequestIdConflict { task, fields }),
        }
    }

    /// The event that names the tasks with some of the same rows, if there are any. The task that
    /// is tried again is left out.
    async fn overlaps(&self, task: &NewTask, retry_of: Option<TaskId>) -> Result<Option<Event>, RequestError> {
        let NewTask { thing, devices, topic, from, to, .. } = task;
        let query = OverlapQuery { thing: *thing, topic: topic.clone(), devices: devices.clone(), from: *from, to: *to };
        let overlapping = self.queue.overlaps(query, MAX_NAMED as u32 + 1).await.map_err(unavailable)?;
        let same_request = |row: &TaskRow| task.request_id.is_some() && row.request_id == task.request_id;
        let mut tasks: Vec<_> =
            overlapping.iter().filter(|task| Some(task.id) != retry_of && !same_request(task)).map(|task| task.id).collect();
        let more = tasks.len().saturating_sub(MAX_NAMED) as u64;
        tasks.truncate(MAX_NAMED);
        Ok(if tasks.is_empty() { None } else { Some(Event::Overlaps { tasks, more }) })
    }

    /// A task whose log is to be followed after an entry.
    ///
    /// # Errors
    /// There is no such task, its log is shorter, or the queue cannot be read.
    pub async fn attach(&self, attach: &Attach) -> Result<TaskRow, RequestError> {
        let Attach { task, after } = *attach;
        let row = self.task_row(task).await?;
        if after > row.last_seq {
            return Err(RequestError::AfterTheEnd { task, after, last: row.last_seq });
        }
        Ok(row)
    }

    /// Changes a task. Durable once this returns; harmless when repeated.
    ///
    /// # Errors
    /// The caller is no operator, there is no such task, or the queue cannot be written.
    pub async fn steer(&self, caller: &Caller, task: TaskId, steer: Steer) -> Result<Steered, RequestError> {
        let action = match steer {
            Steer::Cancel => "cancel tasks",
            Steer::Pause => "pause tasks",
            Steer::Resume => "resume tasks",
            Steer::Rate(_) => "change the rate of tasks",
        };
        caller.require(Role::Operator, action)?;
        let steer = match steer {
            Steer::Rate(rate) => Steer::Rate(rate_within(rate, &self.policy)?),
            steer => steer,
        };
        let steered = self.queue.steer(task, steer, Some(caller.requester())).await.map_err(unavailable)?;
        let steered = steered.ok_or(RequestError::UnknownTask(task))?;
        if !steered.already_finished {
            let Caller { token, address, .. } = caller;
            tracing::info!(%task, ?steer, token = &**token, %address, "a task is steered");
        }
        Ok(steered)
    }

    /// Creates a new task for devices of a finished one. Repeating it creates nothing as long as
    /// the new task exists. A rate that is higher than what is allowed by now is lowered, which the
    /// log says.
    ///
    /// # Errors
    /// The caller is no operator, there is no such task, it is not finished, its topic is allowed no
    /// longer, none of its devices is meant, or the queue cannot be written.
    pub async fn retry(&self, caller: &Caller, id: TaskId, devices: &RetryDevices) -> Result<SubmitOutcome, RequestError> {
        caller.require(Role::Operator, "retry tasks")?;
        if self.draining.is_cancelled() {
            return Err(RequestError::ShuttingDown);
        }
        let row = self.task_row(id).await?;
        if !row.state.is_final() {
            return Err(RequestError::NotFinished(id));
        }
        ensure_allowed_topic(&row.topic, &self.policy)?;
        let rate = lowered_rate(row.rate, &self.policy);
        let states: &[JobState] = match devices {
            RetryDevices::Failed => &[JobState::Failed, JobState::Cancelled],
            RetryDevices::All | RetryDevices::List(_) => &[],
        };
        let jobs = self.queue.jobs(id, states, None, u32::MAX).await.map_err(unavailable)?;
        let mut devices_of_task: Vec<_> = jobs.iter().map(|job| job.device).collect();
        let key = match devices {
            RetryDevices::Failed => "failed".to_owned(),
            RetryDevices::All => "all".to_owned(),
            RetryDevices::List(list) => {
                let known: HashSet<_> = devices_of_task.iter().copied().collect();
                if let Some((index, device)) = list.iter().enumerate().find(|(_, device)| !known.contains(device)) {
                    return Err(RequestError::Invalid {
                        field: format!("devices[{index}]"),
                        found: format!("{device}, which is no device of task {id}"),
                        expected: "each is a device of the task".to_owned(),
                    });
                }
                // Each device once, in the order of the task: the same devices are the same retry.
                let listed: HashSet<_> = list.iter().copied().collect();
                devices_of_task.retain(|device| listed.contains(device));
                format!("{:x}", listed.iter().fold(0, |sum: u128, device| sum.wrapping_add(device.as_u128())))
            }
        };
        if devices_of_task.is_empty() {
            return Err(RequestError::NothingToRetry(id));
        }
        let task = NewTask {
            thing: row.thing,
            devices: devices_of_task,
            topic: row.topic,
            from: row.from,
            to: row.to,
            // The same retry again finds the task that the first one created.
            request_id: Some(format!("retry:{id}:{key}")),
            reason: row.reason,
            rate,
        };
        let retry = Retry { of: id, lowered_from: row.rate.filter(|asked| rate.is_some_and(|rate| rate < *asked)) };
        self.store(caller, task, Some(retry), Vec::new()).await
    }

    async fn task_row(&self, id: TaskId) -> Result<TaskRow, RequestError> {
        self.queue.task(id).await.map_err(unavailable)?.ok_or(RequestError::UnknownTask(id))
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
