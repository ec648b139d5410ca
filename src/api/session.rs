//! The session of a client: handles its messages, and sends it the logs of the tasks that it
//! watches.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::task::{AbortHandle, JoinSet};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::{
    Encoding, ServerState,
    admission::{AdmissionGuard, Stage},
    auth,
    inbound::Inbound,
    socket::Outbox,
};
use crate::{
    protocol::{Attach, Authorized, ClientMessage, Identity, RequestError, Steering, Submit, Token, http::RetryDevices, reply},
    queue::{LogTail, QueueError, Steer, TaskRow, log_hub::EncodedEntry},
    service::{Caller, SubmitOutcome},
    task::TaskId,
    telemetry::{Durations, GaugeGuard},
};

/// Maximum rejected messages before the first valid token.
const MAX_REJECTED: u32 = 10;

/// What the connection does after a message.
pub enum Flow {
    Continue,
    /// Close the connection after a wrong token.
    WrongToken,
    /// Close the connection after [`MAX_REJECTED`] messages without a valid token.
    NoToken,
    /// The client has disconnected.
    Disconnected,
}

/// The state of one client's session.
pub struct Session<'a> {
    state: &'a ServerState,
    /// The client's address.
    address: IpAddr,
    guard: &'a AdmissionGuard,
    inbound: &'a Inbound,
    /// The tokens that the client has sent and that were accepted.
    tokens: Vec<Token>,
    rejected: u32,
    outbox: Arc<Outbox>,
    log_tails: JoinSet<TaskId>,
    by_task: HashMap<TaskId, AbortHandle>,
}

impl<'a> Session<'a> {
    pub fn new(
        state: &'a ServerState,
        address: IpAddr,
        guard: &'a AdmissionGuard,
        inbound: &'a Inbound,
        outbox: Arc<Outbox>,
    ) -> Self {
        let (log_tails, by_task) = (JoinSet::new(), HashMap::new());
        Self { state, address, guard, inbound, tokens: Vec::new(), rejected: 0, outbox, log_tails, by_task }
    }

    /// Whether the client has sent the right token.
    pub fn is_authenticated(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// Whether a token that the client has sent is accepted no longer.
    pub fn lost_token(&self) -> bool {
        !self.tokens.iter().all(|token| self.state.tokens.accepts(token))
    }

    /// Handles a text message.
    pub async fn handle_message(&mut self, text: &str) -> Flow {
        match self.handle(text).await {
            Ok(flow) => flow,
            Err(error) => self.reject(&error).await,
        }
    }

    async fn handle(&mut self, text: &str) -> Result<Flow, RequestError> {
        let ServerState { tokens, tasks, .. } = self.state;
        let authorized = Authorized::read(text, |candidate| tokens.authenticate(candidate))?;
        self.authenticate(authorized.token());
        let Identity { name, role } = authorized.identity().clone();
        let caller = Caller { token: name, role, address: self.address };
        match authorized.message(tasks.policy())? {
            ClientMessage::Submit(submit) => self.submit(&caller, submit).await,
            ClientMessage::Attach(attach) => self.attach(&caller, attach).await,
            ClientMessage::Steer(task, steering) => self.steer(&caller, task, steering).await,
        }
    }

    fn authenticate(&mut self, token: Token) {
        if self.tokens.is_empty() {
            self.guard.authenticate();
            self.inbound.authenticate();
        }
        if !self.tokens.iter().any(|known| known.is(&token)) {
            self.tokens.push(token);
        }
    }

    /// Replies that the message was rejected, and why.
    pub async fn reject(&mut self, error: &RequestError) -> Flow {
        self.state.metrics.request_rejected(error.code());
        self.rejected = self.rejected.saturating_add(1);
        if matches!(error, RequestError::WrongToken) {
            self.delay_failed_login().await;
        } else if self.is_authenticated() {
            tracing::info!(%error, "a message is rejected");
        } else {
            // Not at info level: unauthenticated clients could flood the log.
            tracing::debug!(%error, "a message is rejected");
        }
        match (self.send(reply::refused(error)).await, error) {
            (Flow::Continue, RequestError::WrongToken) => Flow::WrongToken,
            (Flow::Continue, _) if !self.is_authenticated() && self.rejected >= MAX_REJECTED => Flow::NoToken,
            (flow, _) => flow,
        }
    }

    /// Delays the reply to a wrong token.
    async fn delay_failed_login(&self) {
        let delay = auth::wrong_token(&self.state.login_throttle, self.address);
        self.guard.reached(Stage::WrongToken);
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = self.guard.evicted() => {}
            () = self.state.close_connections.cancelled() => {}
        }
    }

    /// Whether no task is watched.
    pub fn has_no_tails(&self) -> bool {
        self.by_task.is_empty()
    }

    /// Waits until the log of a watched task ends.
    pub async fn tail_ended(&mut self) {
        match self.log_tails.join_next_with_id().await {
            Some(Ok((id, task))) => {
                // A newer tail of the same task may have replaced it.
                if self.by_task.get(&task).is_some_and(|tail| tail.id() == id) {
                    self.by_task.remove(&task);
                }
            }
            // A tail that was replaced.
            Some(Err(_)) => {}
            None => std::future::pending().await,
        }
    }

    async fn submit(&mut self, caller: &Caller, submit: Submit) -> Result<Flow, RequestError> {
        match self.state.tasks.submit(caller, submit).await? {
            SubmitOutcome::Created(id) => Ok(self.created(id).await),
            SubmitOutcome::Existing(row) => Ok(self.attach_to(caller, &row, 0).await),
        }
    }

    async fn created(&mut self, id: TaskId) -> Flow {
        let flow = self.send(reply::created(id)).await;
        self.start_tail(id, 0);
        flow
    }

    async fn attach(&mut self, caller: &Caller, attach: Attach) -> Result<Flow, RequestError> {
        let row = self.state.tasks.attach(&attach).await?;
        Ok(self.attach_to(caller, &row, attach.after).await)
    }

    async fn steer(&mut self, caller: &Caller, task: TaskId, steering: Steering) -> Result<Flow, RequestError> {
        let steer = match steering {
            Steering::Cancel => Steer::Cancel,
            Steering::Pause => Steer::Pause,
            Steering::Resume => Steer::Resume,
            Steering::Rate(rate) => Steer::Rate(rate),
            Steering::Retry => {
                return Ok(match self.state.tasks.retry(caller, task, &RetryDevices::Failed).await? {
                    SubmitOutcome::Created(id) => self.created(id).await,
                    SubmitOutcome::Existing(row) => self.attach_to(caller, &row, 0).await,
                });
            }
        };
        let steered = self.state.tasks.steer(caller, task, steer).await?;
        Ok(self.send(reply::steered(task, steering, steered.task.state, steered.already_finished)).await)
    }

    async fn attach_to(&mut self, caller: &Caller, row: &TaskRow, after: u64) -> Flow {
        let Caller { token, address, .. } = caller;
        tracing::info!(task = %row.id, after, token = &**token, %address, "a client attached to a task");
        // An existing tail of the task is stopped first: its lines must not be sent between the
        // reply and the first line.
        self.stop_tail(row.id).await;
        let flow = self.send(reply::attached(row.id, row.state)).await;
        if !(row.state.is_final() && after == row.last_seq) {
            self.start_tail(row.id, after);
        }
        flow
    }

    fn start_tail(&mut self, task: TaskId, after: u64) {
        let ServerState { tasks, metrics, .. } = self.state;
        let (tail, outbox, log_delay) = (tasks.tail(task, after), Arc::clone(&self.outbox), metrics.log_delay.clone());
        let subscription = GaugeGuard::new(&metrics.log_subscriptions);
        let handle = self.log_tails.spawn(async move {
            forward(tail, &outbox, &log_delay).await;
            drop(subscription);
            task
        });
        self.by_task.insert(task, handle);
    }

    async fn stop_tail(&mut self, task: TaskId) {
        if let Some(handle) = self.by_task.remove(&task) {
            handle.abort();
            while !handle.is_finished() {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn send(&self, text: String) -> Flow {
        if self.outbox.send([Message::text(text)]).await { Flow::Continue } else { Flow::Disconnected }
    }
}

/// Sends the log of a task to the client, until the log ends or the client disconnects.
async fn forward(mut tail: LogTail, outbox: &Outbox, log_delay: &Durations) {
    /// Maximum lines in one write.
    const MAX_LINES_PER_WRITE: usize = 64;
    const READ_RETRY_DELAY: Duration = Duration::from_secs(1);
    loop {
        match tail.next().await {
            Ok(Some(first)) => {
                // Lines that are ready are sent in the same write.
                let ready = std::iter::from_fn(|| tail.next().now_or_never()?.ok().flatten());
                let entries: Vec<_> = std::iter::once(first).chain(ready).take(MAX_LINES_PER_WRITE).collect();
                let frames: Vec<_> = entries.iter().map(|entry| frame(entry)).collect();
                if !outbox.send(frames).await {
                    return;
                }
                for committed in entries.iter().filter_map(|entry| entry.committed_at) {
                    log_delay.observe(committed.elapsed());
                }
            }
            Ok(None) | Err(QueueError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "a watched log cannot be read; retrying");
                tokio::time::sleep(READ_RETRY_DELAY).await;
            }
        }
    }
}

/// Encodes a log entry as a WebSocket message.
fn frame(entry: &EncodedEntry) -> Message {
    // JSON is always valid UTF-8.
    Message::Text(Utf8Bytes::try_from(entry.encoded(Encoding::Message as usize, reply::log)).unwrap_or_default())
}
