//! What a client says on its connection, what is done about it, and the tasks that it watches.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::task::{AbortHandle, JoinSet};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::{
    ServerState,
    admission::{AdmissionGuard, Stage},
    inbound::Inbound,
    socket::Outbox,
};
use crate::{
    protocol::{Attach, Authorized, ClientMessage, RequestError, Submit, reply},
    queue::{LogTail, QueueError, TaskRow, events::EncodedEvent},
    service::SubmitOutcome,
    task::TaskId,
    telemetry::{Durations, GaugeGuard},
};

/// Messages that a client may have refused before its first good token.
const MAX_REJECTED: u32 = 10;

/// What comes after a message.
pub enum Flow {
    Continue,
    /// The connection is to be closed.
    WrongToken,
    /// So is one that sends message after message, and no good token.
    NoToken,
    /// The client is gone.
    Gone,
}

/// A connection's tasks, and its way out.
pub struct Session<'a> {
    context: &'a ServerState,
    /// The client's.
    address: IpAddr,
    place: &'a AdmissionGuard,
    inbound: &'a Inbound,
    /// The client has sent the right token.
    is_authenticated: bool,
    rejected: u32,
    outbox: Arc<Outbox>,
    watches: JoinSet<TaskId>,
    by_task: HashMap<TaskId, AbortHandle>,
}

impl<'a> Session<'a> {
    pub fn new(
        context: &'a ServerState,
        address: IpAddr,
        place: &'a AdmissionGuard,
        inbound: &'a Inbound,
        outbox: Arc<Outbox>,
    ) -> Self {
        let (watches, by_task) = (JoinSet::new(), HashMap::new());
        Self { context, address, place, inbound, is_authenticated: false, rejected: 0, outbox, watches, by_task }
    }

    /// The client has sent the right token.
    pub fn is_authenticated(&self) -> bool {
        self.is_authenticated
    }

    /// Does what a text frame says.
    pub async fn handle_message(&mut self, text: &str) -> Flow {
        let rules = &self.context.rules;
        let message = match Authorized::read(text, &rules.token) {
            Ok(authorized) => {
                self.authenticate();
                authorized.message(rules)
            }
            Err(refusal) => Err(refusal),
        };
        let done = match message {
            Ok(ClientMessage::Submit(submit)) => self.submit(submit).await,
            Ok(ClientMessage::Attach(attach)) => self.attach(attach).await,
            Ok(ClientMessage::Cancel(task)) => self.cancel(task).await,
            Err(refusal) => Err(refusal),
        };
        match done {
            Ok(next) => next,
            Err(refusal) => self.reject(&refusal).await,
        }
    }

    fn authenticate(&mut self) {
        if !std::mem::replace(&mut self.is_authenticated, true) {
            self.place.authenticate();
            self.inbound.authenticate();
        }
    }

    /// Says that nothing was done, and why.
    pub async fn reject(&mut self, refusal: &RequestError) -> Flow {
        self.context.metrics.request_rejected(refusal.code());
        self.rejected = self.rejected.saturating_add(1);
        if matches!(refusal, RequestError::WrongToken) {
            self.delay_failed_login().await;
        } else if self.is_authenticated {
            tracing::info!(%refusal, "a message is refused");
        } else {
            // Anybody can send these, as many as they like.
            tracing::debug!(%refusal, "a message is refused");
        }
        match (self.send(reply::refused(refusal)).await, refusal) {
            (Flow::Continue, RequestError::WrongToken) => Flow::WrongToken,
            (Flow::Continue, _) if !self.is_authenticated && self.rejected >= MAX_REJECTED => Flow::NoToken,
            (next, _) => next,
        }
    }

    /// Waits as long as a wrong token is to wait for its answer.
    async fn delay_failed_login(&self) {
        let guess = self.context.guesses.record_failure(self.address);
        if guess.should_log() {
            tracing::warn!(address = %self.address, times = guess.wrong, "wrong tokens come from an address");
        }
        self.place.reached(Stage::WrongToken);
        tokio::select! {
            () = tokio::time::sleep(guess.wait) => {}
            () = self.place.evicted() => {}
            () = self.context.close_connections.cancelled() => {}
        }
    }

    /// No task is watched.
    pub fn is_idle(&self) -> bool {
        self.by_task.is_empty()
    }

    /// Waits until a watch ends: its task has.
    pub async fn watch_ended(&mut self) {
        match self.watches.join_next_with_id().await {
            Some(Ok((id, task))) => {
                // The task may be watched anew already.
                if self.by_task.get(&task).is_some_and(|watch| watch.id() == id) {
                    self.by_task.remove(&task);
                }
            }
            // One that was replaced.
            Some(Err(_)) => {}
            None => std::future::pending().await,
        }
    }

    async fn submit(&mut self, submit: Submit) -> Result<Flow, RequestError> {
        match self.context.tasks.submit(submit).await? {
            SubmitOutcome::Created(id) => {
                let next = self.send(reply::created(id)).await;
                self.watch(id, 0);
                Ok(next)
            }
            SubmitOutcome::Existing(row) => Ok(self.attach_to(&row, 0).await),
        }
    }

    async fn attach(&mut self, attach: Attach) -> Result<Flow, RequestError> {
        let row = self.context.tasks.attach(&attach).await?;
        Ok(self.attach_to(&row, attach.after).await)
    }

    async fn cancel(&mut self, task: TaskId) -> Result<Flow, RequestError> {
        let cancelled = self.context.tasks.cancel(task).await?;
        Ok(self.send(reply::cancelled(task, cancelled.task.state, cancelled.already_finished)).await)
    }

    async fn attach_to(&mut self, row: &TaskRow, after: u64) -> Flow {
        tracing::info!(task = %row.id, after, "a task is attached to");
        // A watch of the same task is replaced, and first: its lines must not come between the reply and the first line.
        self.unwatch(row.id).await;
        let next = self.send(reply::attached(row.id, row.state)).await;
        if !(row.state.is_final() && after == row.last_seq) {
            self.watch(row.id, after);
        }
        next
    }

    fn watch(&mut self, task: TaskId, after: u64) {
        let ServerState { tasks, metrics, .. } = self.context;
        let (watch, outbox, delay) = (tasks.tail(task, after), Arc::clone(&self.outbox), metrics.log_delay.clone());
        let subscription = GaugeGuard::new(&metrics.log_subscriptions);
        let handle = self.watches.spawn(async move {
            forward(watch, &outbox, &delay).await;
            drop(subscription);
            task
        });
        self.by_task.insert(task, handle);
    }

    async fn unwatch(&mut self, task: TaskId) {
        if let Some(handle) = self.by_task.remove(&task) {
            handle.abort();
            while !handle.is_finished() {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn send(&self, text: String) -> Flow {
        if self.outbox.send([Message::text(text)]).await { Flow::Continue } else { Flow::Gone }
    }
}

/// Sends a task's lines as they come, until it ends or the client is gone.
async fn forward(mut watch: LogTail, outbox: &Outbox, delay: &Durations) {
    /// Lines in one write, at the most.
    const MAX_LINES_PER_WRITE: usize = 64;
    const READ_RETRY_DELAY: Duration = Duration::from_secs(1);
    loop {
        match watch.next().await {
            Ok(Some(first)) => {
                // What has come meanwhile goes along.
                let more = std::iter::from_fn(|| watch.next().now_or_never()?.ok().flatten());
                let lines: Vec<_> = std::iter::once(first).chain(more).take(MAX_LINES_PER_WRITE).collect();
                let frames: Vec<_> = lines.iter().map(|told| frame(told)).collect();
                if !outbox.send(frames).await {
                    return;
                }
                for committed in lines.iter().filter_map(|told| told.committed_at) {
                    delay.observe(committed.elapsed());
                }
            }
            Ok(None) | Err(QueueError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "a watched log can't be read; trying again");
                tokio::time::sleep(READ_RETRY_DELAY).await;
            }
        }
    }
}

/// What a line is on the wire.
fn frame(told: &EncodedEvent) -> Message {
    // It is JSON; what is no UTF-8 can't come out of it.
    Message::Text(Utf8Bytes::try_from(told.encoded(reply::log)).unwrap_or_default())
}
