//! A typed client for the HTTP API.

mod error;
mod events;
mod lines;
mod transport;

use data_patch_protocol::{
    http::{
        DeviceView, InstanceView, JobView, Page, PreviewLine, PreviewRequest, QuarantineView, RateRequest, Receipt, RetryDevices,
        RetryRequest, ServiceView, SubmitRequest, TaskView, ThingView, VerifyLine,
    },
    task::{JobState, TaskId, TaskState},
};
use form_urlencoded::Serializer;
use hyper::{Method, header::HeaderValue};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::RetryPolicy;
use transport::{Call, Transport};

pub use error::HttpError;
pub use events::{EventStream, StreamItem};
pub use lines::JsonLines;

/// A client of the HTTP API. Clones share their connections.
///
/// A request whose connection is lost before the answer is sent again where that is harmless.
///
/// ```no_run
/// use data_patch_client::{HttpClient, HttpError, RetryPolicy, StreamItem, TaskQuery};
///
/// # async fn follow() -> Result<(), HttpError> {
/// let client = HttpClient::new("http://127.0.0.1:18010", "123456")?;
/// let newest = client.list(&TaskQuery::default(), None, 1).await?;
/// for task in newest.items {
///     let mut events = client.events(task.task_id, 0, RetryPolicy::default());
///     while let Some(item) = events.next().await? {
///         match item {
///             StreamItem::Event(event) => println!("{}", event.text),
///             StreamItem::Interrupted(error) => eprintln!("{error}; connecting again"),
///         }
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct HttpClient {
    transport: Transport,
}

/// Which tasks are listed; without a filter all are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskQuery {
    pub states: Vec<TaskState>,
    pub thing: Option<Uuid>,
    pub device: Option<Uuid>,
    pub topic: Option<String>,
    /// Created at this time or later, in a format that the service accepts.
    pub since: Option<String>,
    /// Created at this time or earlier.
    pub until: Option<String>,
    /// The beginning of the id, or a part of the reason.
    pub text: Option<String>,
}

impl HttpClient {
    /// A client of the service at `url`, which is without the path of the API. Connects with the
    /// first request.
    ///
    /// # Errors
    /// [`HttpError::Invalid`]
    pub fn new(url: &str, token: &str) -> Result<Self, HttpError> {
        Ok(Self { transport: Transport::new(url, token)? })
    }

    /// Asks for the texts of logs in Chinese.
    #[must_use]
    pub fn in_chinese(mut self) -> Self {
        self.transport.language = HeaderValue::from_static("zh-CN");
        self
    }

    /// Creates a task; the same `request_id` again returns the task that it created.
    ///
    /// # Errors
    /// Those of [`HttpError`], as for all calls.
    pub async fn submit(&self, request: &SubmitRequest) -> Result<TaskView, HttpError> {
        let is_repeatable = request.request_id.is_some();
        self.send(Call { is_repeatable, ..call(Method::POST, "/tasks".to_owned()) }, Some(request)).await
    }

    /// A page of the tasks, the newest first; `cursor` is the `next` of the page before.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn list(&self, query: &TaskQuery, cursor: Option<&str>, limit: u32) -> Result<Page<TaskView>, HttpError> {
        let (thing, device) = (query.thing.map(|id| id.to_string()), query.device.map(|id| id.to_string()));
        let mut parameters: Vec<(&str, &str)> = query.states.iter().map(|state| ("state", state.as_str())).collect();
        let optional = [
            ("thing", thing.as_deref()),
            ("device", device.as_deref()),
            ("topic", query.topic.as_deref()),
            ("since", query.since.as_deref()),
            ("until", query.until.as_deref()),
            ("q", query.text.as_deref()),
        ];
        parameters.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
        self.page("/tasks", &parameters, cursor, limit).await
    }

    /// A task.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn show(&self, task: TaskId) -> Result<TaskView, HttpError> {
        self.send(call(Method::GET, format!("/tasks/{task}")), None::<&()>).await
    }

    /// A page of a task's devices, in the order of the request.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn jobs(
        &self,
        task: TaskId,
        states: &[JobState],
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<Page<JobView>, HttpError> {
        let states: Vec<_> = states.iter().map(|state| ("state", state.as_str())).collect();
        self.page(&format!("/tasks/{task}/jobs"), &states, cursor, limit).await
    }

    /// A page of the rows that a task did not publish.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn quarantine(&self, task: TaskId, cursor: Option<&str>, limit: u32) -> Result<Page<QuarantineView>, HttpError> {
        self.page(&format!("/tasks/{task}/quarantine"), &[], cursor, limit).await
    }

    /// Cancels a task; repeating it is harmless.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn cancel(&self, task: TaskId) -> Result<TaskView, HttpError> {
        self.send(call(Method::POST, format!("/tasks/{task}/cancel")), None::<&()>).await
    }

    /// Pauses a task; repeating it is harmless.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn pause(&self, task: TaskId) -> Result<TaskView, HttpError> {
        self.send(call(Method::POST, format!("/tasks/{task}/pause")), None::<&()>).await
    }

    /// Resumes a paused task; repeating it is harmless.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn resume(&self, task: TaskId) -> Result<TaskView, HttpError> {
        self.send(call(Method::POST, format!("/tasks/{task}/resume")), None::<&()>).await
    }

    /// Sets the most rows a second of a whole task; `None`: no limit.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn set_rate(&self, task: TaskId, rate: Option<u32>) -> Result<TaskView, HttpError> {
        self.send(call(Method::PATCH, format!("/tasks/{task}")), Some(&RateRequest { rate })).await
    }

    /// Creates a task for devices of a finished one; the same retry again returns the task that it
    /// created.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn retry(&self, task: TaskId, devices: RetryDevices) -> Result<TaskView, HttpError> {
        self.send(call(Method::POST, format!("/tasks/{task}/retry")), Some(&RetryRequest { devices })).await
    }

    /// What a task has published: so far, until it is finished.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn receipt(&self, task: TaskId) -> Result<Receipt, HttpError> {
        self.send(call(Method::GET, format!("/tasks/{task}/receipt")), None::<&()>).await
    }

    /// Reads the topic back and compares it with the receipt of a task. The last line is the
    /// summary, or an error.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn verify(&self, task: TaskId) -> Result<JsonLines<VerifyLine>, HttpError> {
        self.lines(Method::POST, format!("/tasks/{task}/verify"), None::<&()>).await
    }

    /// What a request would publish: a line for each device as it is known, then the summary.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn preview(&self, request: &PreviewRequest) -> Result<JsonLines<PreviewLine>, HttpError> {
        self.lines(Method::POST, "/previews".to_owned(), Some(request)).await
    }

    /// A page of the things that have devices; `text` is a part of their name or id.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn things(&self, text: Option<&str>, cursor: Option<&str>, limit: u32) -> Result<Page<ThingView>, HttpError> {
        let parameters: Vec<_> = text.map(|text| ("q", text)).into_iter().collect();
        self.page("/things", &parameters, cursor, limit).await
    }

    /// A page of the devices of a thing; `text` is a part of their name or id.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn devices(
        &self,
        thing: Uuid,
        text: Option<&str>,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<Page<DeviceView>, HttpError> {
        let parameters: Vec<_> = text.map(|text| ("q", text)).into_iter().collect();
        self.page(&format!("/things/{thing}/devices"), &parameters, cursor, limit).await
    }

    /// The service, and what requests must respect.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn service(&self) -> Result<ServiceView, HttpError> {
        self.send(call(Method::GET, "/service".to_owned()), None::<&()>).await
    }

    /// Asks an instance to hand its jobs back and to take no others, or to go on.
    ///
    /// # Errors
    /// As for all calls.
    pub async fn drain(&self, instance: Uuid, drains: bool) -> Result<InstanceView, HttpError> {
        let action = if drains { "drain" } else { "resume" };
        self.send(call(Method::POST, format!("/instances/{instance}/{action}")), None::<&()>).await
    }

    /// The log of a task after the entry `after`, 0 for all of it.
    pub fn events(&self, task: TaskId, after: u64, policy: RetryPolicy) -> EventStream {
        EventStream::new(self.transport.clone(), task, after, policy)
    }

    async fn page<T: DeserializeOwned>(
        &self,
        path: &str,
        parameters: &[(&str, &str)],
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<Page<T>, HttpError> {
        let query = page_query(parameters, cursor, limit);
        self.send(call(Method::GET, format!("{path}?{query}")), None::<&()>).await
    }

    /// Sends a request that is answered with JSON lines. Sending it twice must do no harm.
    async fn lines<T: DeserializeOwned>(
        &self,
        method: Method,
        path: String,
        body: Option<&impl Serialize>,
    ) -> Result<JsonLines<T>, HttpError> {
        let call = Call { accept: "application/x-ndjson", body: json(body)?, ..call(method, path) };
        Ok(JsonLines::new(self.transport.clone(), self.transport.open(&call).await?))
    }

    async fn send<T: DeserializeOwned>(&self, mut call: Call, body: Option<&impl Serialize>) -> Result<T, HttpError> {
        call.body = json(body)?;
        self.transport.json(&call).await
    }
}

fn json(body: Option<&impl Serialize>) -> Result<Option<String>, HttpError> {
    body.map(serde_json::to_string).transpose().map_err(|error| HttpError::Invalid(error.to_string()))
}

fn call(method: Method, path: String) -> Call {
    Call::new(method, path)
}

fn page_query(parameters: &[(&str, &str)], cursor: Option<&str>, limit: u32) -> String {
    let mut query = Serializer::new(String::new());
    query.extend_pairs(parameters).extend_pairs(cursor.map(|cursor| ("cursor", cursor)));
    query.append_pair("limit", &limit.to_string()).finish()
}
