//! The client: requests and watched tasks, both of which survive a lost connection.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    time::{Duration, Instant},
};

use data_patch_protocol::{
    reply::{LogLine, Reply},
    task::{TaskId, TaskState},
};
use futures_util::{Stream, stream};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    connection::Connection,
    error::{ConnectionError, Error, Failure},
    request::Request,
    retry::RetryPolicy,
};

/// The loss of a connection that has lasted longer does not count as a further failed attempt.
const STABLE_AFTER: Duration = Duration::from_mins(1);

/// A client of one service. Requests are sent one after the other; any number of tasks can be
/// watched at the same time.
///
/// All methods are cancel-safe: no log entry is lost if a future is dropped, for example in a
/// `select!` or by a timeout.
pub struct Client {
    url: String,
    token: String,
    retry: RetryPolicy,
    /// `None`: opened when it is needed.
    connection: Option<Connection>,
    /// The tasks whose final entry was not received yet, with the `seq` of the last received one.
    watched: HashMap<TaskId, u64>,
    /// Entries that were received and not yet returned.
    received: VecDeque<LogLine>,
    connected_at: Option<Instant>,
    /// Consecutive failed attempts.
    failures: u32,
}

/// The result of a cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled {
    pub state: TaskState,
    /// The task had finished before.
    pub already_finished: bool,
}

/// A message with the token.
#[derive(Serialize)]
struct Authorized<'a, M> {
    token: &'a str,
    #[serde(flatten)]
    message: M,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TaskMessage {
    task_id: TaskId,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cancel: bool,
}

impl Client {
    /// Connects to a service, such as `ws://127.0.0.1:18010/data-patch/websocket`. Makes only one
    /// attempt, so that a mistyped address is reported at once.
    ///
    /// # Errors
    /// [`Error::Connection`]. The token is checked with the first request.
    pub async fn connect(url: impl Into<String>, token: impl Into<String>) -> Result<Self, Error> {
        let mut client = Self::new(url, token, RetryPolicy::default());
        match Connection::open(&client.url).await {
            Ok(connection) => {
                client.connection = Some(connection);
                client.connected_at = Some(Instant::now());
            }
            Err(source) => return Err(Error::Connection { url: client.url, attempts: 1, source }),
        }
        Ok(client)
    }

    /// Creates a client that connects on first use, with as many attempts as `retry` allows; for a
    /// service that is just starting, or for another policy than [`connect`](Self::connect) has.
    ///
    /// ```
    /// # use data_patch_client::{Client, RetryPolicy};
    /// let retry = RetryPolicy { max_attempts: 100, ..RetryPolicy::default() };
    /// let client = Client::new("ws://127.0.0.1:18010/data-patch/websocket", "123456", retry);
    /// assert!(!format!("{client:?}").contains("123456"), "the token is never shown");
    /// ```
    pub fn new(url: impl Into<String>, token: impl Into<String>, retry: RetryPolicy) -> Self {
        Self {
            url: url.into(),
            token: token.into(),
            retry,
            connection: None,
            watched: HashMap::new(),
            received: VecDeque::new(),
            connected_at: None,
            failures: 0,
        }
    }

    /// Submits a task and watches it from its first entry. The task is durable when this returns.
    ///
    /// A request without a request id gets one, so that a request that is sent again after a lost
    /// connection does not create a second task.
    ///
    /// # Errors
    /// [`Error::Refused`] if the request is invalid; [`Error::Connection`] if there is no
    /// connection.
    pub async fn submit(&mut self, request: &Request) -> Result<TaskId, Error> {
        let mut request = request.clone();
        request.request_id.get_or_insert_with(|| Uuid::new_v4().to_string());
        match self.request(&request).await? {
            Reply::Created(task) | Reply::Attached { task, .. } => {
                self.watch(task, 0);
                Ok(task)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Watches a task from the entry after `after`; 0 watches it from the beginning. Returns its
    /// current state.
    ///
    /// ```no_run
    /// # async fn watch(mut client: data_patch_client::Client, task: data_patch_client::TaskId) -> Result<(), data_patch_client::Error> {
    /// client.attach(task, 42).await?;
    /// while let Some(entry) = client.next().await? {
    ///     assert!(entry.seq > 42);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such task or entry; [`Error::Connection`] if there is no
    /// connection.
    pub async fn attach(&mut self, task: TaskId, after: u64) -> Result<TaskState, Error> {
        let state = self.attach_once(task, after).await?;
        self.watch(task, after);
        if state.is_final() && after > 0 {
            self.attach_once(task, before(after)).await?;
            self.watch(task, after);
        }
        Ok(state)
    }

    async fn attach_once(&mut self, task: TaskId, after: u64) -> Result<TaskState, Error> {
        match self.request(&TaskMessage { task_id: task, after: Some(after), cancel: false }).await? {
            Reply::Attached { state, .. } => Ok(state),
            other => Err(unexpected(&other)),
        }
    }

    /// Cancels a task: no more rows are published, except those in flight to Kafka. Cancelling a
    /// task again is harmless.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such task; [`Error::Connection`] if there is no
    /// connection.
    pub async fn cancel(&mut self, task: TaskId) -> Result<Cancelled, Error> {
        match self.request(&TaskMessage { task_id: task, after: None, cancel: true }).await? {
            Reply::Steered { state, already_finished, .. } => Ok(Cancelled { state, already_finished }),
            other => Err(unexpected(&other)),
        }
    }

    /// Returns the next entry of any watched task; `None` if no task is watched, or all have ended.
    ///
    /// # Errors
    /// The connection was lost and could not be restored, or a watched task is not known any more.
    /// Another call continues after the last entry.
    pub async fn next(&mut self) -> Result<Option<LogLine>, Error> {
        loop {
            if let Some(entry) = self.received.pop_front() {
                return Ok(Some(entry));
            }
            if self.watched.is_empty() {
                return Ok(None);
            }
            if let Err(failure) = self.receive().await {
                self.back_off(failure).await?;
            }
        }
    }

    /// The further entries as a stream, which ends as [`next`](Self::next) does.
    ///
    /// ```no_run
    /// # async fn count(mut client: data_patch_client::Client) -> Result<(), data_patch_client::Error> {
    /// use futures_util::TryStreamExt;
    /// let entries: Vec<_> = client.entries().try_collect().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn entries(&mut self) -> impl Stream<Item = Result<LogLine, Error>> {
        stream::try_unfold(self, |client| async move { Ok(client.next().await?.map(|entry| (entry, client))) })
    }

    /// Closes the connection with a close frame. The tasks continue; they also do if the client is
    /// dropped.
    pub async fn close(self) {
        if let Some(connection) = self.connection {
            connection.close().await;
        }
    }

    fn watch(&mut self, task: TaskId, after: u64) {
        self.received.retain(|entry| entry.task != task);
        self.watched.insert(task, after);
    }

    fn message(&self, message: impl Serialize) -> Result<String, Error> {
        serde_json::to_string(&Authorized { token: &self.token, message }).map_err(|error| Error::Protocol(error.to_string()))
    }

    /// Sends a request until it is answered. All requests are idempotent, so they may be sent
    /// again.
    async fn request(&mut self, message: impl Serialize) -> Result<Reply, Error> {
        let text = self.message(message)?;
        loop {
            match self.request_once(&text).await {
                Ok(reply) => {
                    self.failures = 0;
                    return Ok(reply);
                }
                Err(failure) => self.back_off(failure).await?,
            }
        }
    }

    async fn request_once(&mut self, text: &str) -> Result<Reply, Failure> {
        // Taken out of `self` until the reply arrives: if this future is dropped, the connection is
        // dropped too, and no later request receives the reply to this one.
        let mut connection = self.connected().await?;
        connection.send(text).await?;
        let reply = self.reply(&mut connection).await;
        if matches!(reply, Ok(_) | Err(Failure::Final(Error::Refused { .. }))) {
            self.connection = Some(connection);
        }
        reply
    }

    /// Returns the next message that is not a log entry.
    async fn reply(&mut self, connection: &mut Connection) -> Result<Reply, Failure> {
        loop {
            match connection.read().await? {
                Reply::Log(entry) => self.accept(entry)?,
                Reply::Refused { code, text } => return Err(refused(code, text)),
                reply => return Ok(reply),
            }
        }
    }

    /// Receives one message, which must be a log entry.
    async fn receive(&mut self) -> Result<(), Failure> {
        if self.connection.is_none() {
            self.connection = Some(self.connected().await?);
        }
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let accepted = match connection.read().await? {
            Reply::Log(entry) => self.accept(entry),
            other => Err(Failure::Final(unexpected(&other))),
        };
        if accepted.is_err() {
            self.connection = None;
        }
        accepted
    }

    /// Takes the connection out of `self`, or opens a new one and attaches to all watched tasks.
    async fn connected(&mut self) -> Result<Connection, Failure> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let mut connection = Connection::open(&self.url).await?;
        self.connected_at = Some(Instant::now());
        let watched: Vec<_> = self.watched.iter().map(|(task, seq)| (*task, *seq)).collect();
        for (task, seq) in watched {
            let attach = TaskMessage { task_id: task, after: Some(before(seq)), cancel: false };
            let attach = self.message(attach).map_err(Failure::Final)?;
            connection.send(&attach).await?;
            let reply = self.reply(&mut connection).await;
            if matches!(&reply, Err(Failure::Final(Error::Refused { code, .. })) if code != "wrong_token") {
                // The task is not known any more; the others are still watched.
                self.watched.remove(&task);
            }
            reply?;
        }
        Ok(connection)
    }

    /// Queues an entry if it is the next one of a watched task.
    fn accept(&mut self, entry: LogLine) -> Result<(), Failure> {
        let Some(last) = self.watched.get_mut(&entry.task) else { return Ok(()) };
        let (task, seq, is_last) = (entry.task, entry.seq, entry.state.is_some());
        if seq > *last + 1 {
            let text = format!("entry {seq} of task {task} came after entry {last}");
            return Err(Failure::Final(Error::Protocol(text)));
        }
        if seq > *last {
            *last = seq;
            self.received.push_back(entry);
            self.failures = 0;
        }
        if is_last {
            self.watched.remove(&task);
        }
        Ok(())
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// No further attempt is made.
    async fn back_off(&mut self, failure: Failure) -> Result<(), Error> {
        let source = match failure {
            Failure::Connection(source) => source,
            Failure::Final(error) => return Err(error),
        };
        self.connection = None;
        if self.connected_at.take().is_some_and(|at| at.elapsed() > STABLE_AFTER) {
            self.failures = 0;
        }
        self.failures += 1;
        if self.failures >= self.retry.max_attempts || !source.is_retryable() {
            let attempts = std::mem::take(&mut self.failures);
            return Err(match source {
                ConnectionError::NotReady { code, text } => Error::Refused { code, text },
                source => Error::Connection { url: self.url.clone(), attempts, source },
            });
        }
        let delay = self.retry.delay(self.failures);
        tracing::debug!(error = %source, attempt = self.failures, ?delay, "the connection was lost; reconnecting");
        tokio::time::sleep(delay).await;
        Ok(())
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("url", &self.url).field("watched", &self.watched).finish_non_exhaustive()
    }
}

/// The failure for a refused request. Temporary refusals are retried.
fn refused(code: String, text: String) -> Failure {
    match code.as_str() {
        "shutting_down" | "queue_unavailable" => Failure::Connection(ConnectionError::NotReady { code, text }),
        _ => Failure::Final(Error::Refused { code, text }),
    }
}

/// The `after` of an attach that continues after `seq`: one entry earlier, and that entry is
/// dropped. If the task has ended, its last entry is then sent again, which is how the client finds
/// out: no entry follows the last one, and the reply does not tell its `seq`.
fn before(seq: u64) -> u64 {
    seq.saturating_sub(1)
}

fn unexpected(reply: &Reply) -> Error {
    Error::Protocol(format!("an unexpected reply: {reply:?}"))
}
