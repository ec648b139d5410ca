//! The client: requests, watched tasks, and how both survive a lost connection.

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

/// A connection that has lasted this long was no failed attempt.
const STABLE: Duration = Duration::from_mins(1);

/// A client of one service. Requests are made one after the other; any number of tasks may be watched meanwhile.
///
/// Every method may be dropped before it is done (in a `select!`, by a timeout): no entry is lost by it.
pub struct Client {
    url: String,
    token: String,
    retry: RetryPolicy,
    /// `None`: to be opened when it is needed.
    connection: Option<Connection>,
    /// The seq of the last entry received, of each task whose last entry has not come.
    watched: HashMap<TaskId, u64>,
    /// Entries received and not yet taken.
    received: VecDeque<LogLine>,
    connected_at: Option<Instant>,
    /// Attempts in a row that failed.
    failures: u32,
}

/// The answer to a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled {
    pub state: TaskState,
    /// There was nothing left to cancel.
    pub already_finished: bool,
}

/// A message, with the token.
#[derive(Serialize)]
struct Authorized<'a, M> {
    token: &'a str,
    #[serde(flatten)]
    message: M,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AboutTask {
    task_id: TaskId,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cancel: bool,
}

impl Client {
    /// Connects to a service, such as `ws://127.0.0.1:18010/data-patch/websocket`. Only one attempt is made: who has
    /// mistyped an address wants to know at once.
    ///
    /// # Errors
    /// [`Error::Connection`]. Whether the token is right is known after the first request.
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

    /// A client that connects when it is first used, with as many attempts as `retry` allows; for a service that is just
    /// starting, or to be more or less patient than [`connect`](Self::connect) is.
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

    /// Submits a task, and watches it from its first entry. Once this returns, the task is durably stored.
    ///
    /// A request without a request id is given one, so that a lost connection never makes two tasks of it.
    ///
    /// # Errors
    /// [`Error::Refused`] when the request is wrong, or the connection can't be had.
    pub async fn submit(&mut self, request: &Request) -> Result<TaskId, Error> {
        let mut request = request.clone();
        request.request_id.get_or_insert_with(|| Uuid::new_v4().to_string());
        match self.ask(&request).await? {
            Reply::Created(task) | Reply::Attached { task, .. } => {
                self.watch(task, 0);
                Ok(task)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Watches a task from the entry after `after`; 0 is from the beginning. Returns its state at this moment.
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
    /// [`Error::Refused`] when there is no such task or entry, or the connection can't be had.
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
        match self.ask(&AboutTask { task_id: task, after: Some(after), cancel: false }).await? {
            Reply::Attached { state, .. } => Ok(state),
            other => Err(unexpected(&other)),
        }
    }

    /// Cancels a task: nothing more of it is published, but what is on its way to Kafka. Doing so twice is harmless.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is no such task, or the connection can't be had.
    pub async fn cancel(&mut self, task: TaskId) -> Result<Cancelled, Error> {
        match self.ask(&AboutTask { task_id: task, after: None, cancel: true }).await? {
            Reply::Cancelled { state, already_finished, .. } => Ok(Cancelled { state, already_finished }),
            other => Err(unexpected(&other)),
        }
    }

    /// The next entry of any watched task; `None` when all of them have ended, or none is watched.
    ///
    /// # Errors
    /// The connection was lost and can't be had again, or a watched task is not known any more. Calling again goes on after
    /// the last entry.
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

    /// All entries to come, as a stream that ends as [`next`](Self::next) does.
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

    /// Closes the connection. Its tasks go on; dropping the client does the same, less politely.
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

    /// Sends a request until it is answered. Each of them may be sent twice: nothing more comes of it.
    async fn ask(&mut self, message: impl Serialize) -> Result<Reply, Error> {
        let text = self.message(message)?;
        loop {
            match self.ask_once(&text).await {
                Ok(reply) => {
                    self.failures = 0;
                    return Ok(reply);
                }
                Err(failure) => self.back_off(failure).await?,
            }
        }
    }

    async fn ask_once(&mut self, text: &str) -> Result<Reply, Failure> {
        // Out of its place while the answer is due: if this future is dropped, so is the connection, and no later request
        // takes this one's answer for its own.
        let mut connection = self.connected().await?;
        connection.send(text).await?;
        let answer = self.answer(&mut connection).await;
        if matches!(answer, Ok(_) | Err(Failure::Final(Error::Refused { .. }))) {
            self.connection = Some(connection);
        }
        answer
    }

    /// The next message that is no log entry.
    async fn answer(&mut self, connection: &mut Connection) -> Result<Reply, Failure> {
        loop {
            match connection.read().await? {
                Reply::Log(entry) => self.accept(entry)?,
                Reply::Refused { code, text } => return Err(refused(code, text)),
                answer => return Ok(answer),
            }
        }
    }

    /// Waits for entries.
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

    /// The connection, taken out of its place, or a new one with all that is watched attached to.
    async fn connected(&mut self) -> Result<Connection, Failure> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let mut connection = Connection::open(&self.url).await?;
        self.connected_at = Some(Instant::now());
        let watched: Vec<_> = self.watched.iter().map(|(task, seq)| (*task, *seq)).collect();
        for (task, seq) in watched {
            let attach = AboutTask { task_id: task, after: Some(before(seq)), cancel: false };
            let attach = self.message(attach).map_err(Failure::Final)?;
            connection.send(&attach).await?;
            let answer = self.answer(&mut connection).await;
            if matches!(&answer, Err(Failure::Final(Error::Refused { code, .. })) if code != "wrong_token") {
                // It is not known any more; the others can be watched all the same.
                self.watched.remove(&task);
            }
            answer?;
        }
        Ok(connection)
    }

    /// Takes an entry that is the next of a watched task.
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
    /// There is to be none.
    async fn back_off(&mut self, failure: Failure) -> Result<(), Error> {
        let source = match failure {
            Failure::Connection(source) => source,
            Failure::Final(error) => return Err(error),
        };
        self.connection = None;
        if self.connected_at.take().is_some_and(|at| at.elapsed() > STABLE) {
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
        tracing::debug!(error = %source, attempt = self.failures, ?delay, "the connection is lost; connecting again");
        tokio::time::sleep(delay).await;
        Ok(())
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("url", &self.url).field("watched", &self.watched).finish_non_exhaustive()
    }
}

/// Refusals that say "again in a moment" are tried again.
fn refused(code: String, text: String) -> Failure {
    match code.as_str() {
        "shutting_down" | "queue_unavailable" => Failure::Connection(ConnectionError::NotReady { code, text }),
        _ => Failure::Final(Error::Refused { code, text }),
    }
}

/// What to attach after, to go on after `seq`: one entry earlier, which is dropped when it comes. Of a task that has ended
/// nothing follows its last entry, and the answer does not say which one that is; so at least the last one comes, by which
/// the end is known.
fn before(seq: u64) -> u64 {
    seq.saturating_sub(1)
}

fn unexpected(reply: &Reply) -> Error {
    Error::Protocol(format!("an answer that nobody waited for: {reply:?}"))
}
