//! What a client says on its connection, what is done about it, and the tasks that it watches.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::task::{AbortHandle, JoinSet};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::{
    Context,
    admission::{Place, Stage},
    inbound::Inbound,
    socket::Outbox,
};
use crate::{
    events::EncodedEvent,
    kill,
    protocol::{Attach, Authorized, ClientMessage, Refusal, Submit, reply},
    queue::{LogTail, QueueError, Submitted, TaskRow},
    task::{TaskId, line},
    telemetry::{Durations, GaugeGuard},
};

/// Messages that a client may have refused before its first good token.
const MAX_REFUSED: u32 = 10;

/// What comes after a message.
pub enum Next {
    GoOn,
    /// The connection is to be closed.
    WrongToken,
    /// So is one that sends message after message, and no good token.
    NoToken,
    /// The client is gone.
    Gone,
}

/// A connection's tasks, and its way out.
pub struct Session<'a> {
    context: &'a Context,
    /// The client's.
    address: IpAddr,
    place: &'a Place,
    inbound: &'a Inbound,
    /// The client has sent the right token.
    is_authenticated: bool,
    refused: u32,
    outbox: Arc<Outbox>,
    watches: JoinSet<TaskId>,
    by_task: HashMap<TaskId, AbortHandle>,
}

impl<'a> Session<'a> {
    pub fn new(context: &'a Context, address: IpAddr, place: &'a Place, inbound: &'a Inbound, outbox: Arc<Outbox>) -> Self {
        let (watches, by_task) = (JoinSet::new(), HashMap::new());
        Self { context, address, place, inbound, is_authenticated: false, refused: 0, outbox, watches, by_task }
    }

    /// The client has sent the right token.
    pub fn is_authenticated(&self) -> bool {
        self.is_authenticated
    }

    /// Does what a text frame says.
    pub async fn hear(&mut self, text: &str) -> Next {
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
            Err(refusal) => self.refuse(&refusal).await,
        }
    }

    fn authenticate(&mut self) {
        if !std::mem::replace(&mut self.is_authenticated, true) {
            self.place.authenticate();
            self.inbound.authenticate();
        }
    }

    /// Says that nothing was done, and why.
    pub async fn refuse(&mut self, refusal: &Refusal) -> Next {
        self.context.metrics.request_rejected(refusal.code());
        self.refused = self.refused.saturating_add(1);
        if matches!(refusal, Refusal::WrongToken) {
            self.punish().await;
        } else if self.is_authenticated {
            tracing::info!(%refusal, "a message is refused");
        } else {
            // Anybody can send these, as many as they like.
            tracing::debug!(%refusal, "a message is refused");
        }
        match (self.say(reply::refused(refusal)).await, refusal) {
            (Next::GoOn, Refusal::WrongToken) => Next::WrongToken,
            (Next::GoOn, _) if !self.is_authenticated && self.refused >= MAX_REFUSED => Next::NoToken,
            (next, _) => next,
        }
    }

    /// Waits as long as a wrong token is to wait for its answer.
    async fn punish(&self) {
        let guess = self.context.guesses.count(self.address);
        if guess.is_worth_telling() {
            tracing::warn!(address = %self.address, times = guess.wrong, "wrong tokens come from an address");
        }
        self.place.reached(Stage::WrongToken);
        tokio::select! {
            () = tokio::time::sleep(guess.wait) => {}
            () = self.place.evicted() => {}
            () = self.context.disconnect.cancelled() => {}
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

    async fn submit(&mut self, submit: Submit) -> Result<Next, Refusal> {
        if self.context.closing.is_cancelled() {
            return Err(Refusal::ShuttingDown);
        }
        let Submit { task, ignored } = submit;
        let lines = if ignored.is_empty() { Vec::new() } else { vec![line::ignored(&ignored)] };
        let (thing, devices, from, to) = (task.thing, task.devices.len(), task.from, task.to);
        match self.context.queue.submit_with_log(task, lines).await.map_err(away)? {
            Submitted::Created(id) => {
                tracing::info!(task = %id, %thing, devices, %from, %to, "a task is created");
                kill::point("accepted");
                self.context.metrics.tasks_created.inc();
                let next = self.say(reply::created(id)).await;
                self.watch(id, 0);
                Ok(next)
            }
            Submitted::Existing(row) => Ok(self.attach_to(&row, 0).await),
            Submitted::Conflict { task, fields } => Err(Refusal::RequestIdConflict { task, fields }),
        }
    }

    async fn attach(&mut self, attach: Attach) -> Result<Next, Refusal> {
        let Attach { task, after } = attach;
        let row = self.context.queue.task(task).await.map_err(away)?.ok_or(Refusal::UnknownTask(task))?;
        if after > row.last_seq {
            return Err(Refusal::AfterTheEnd { task, after, last: row.last_seq });
        }
        Ok(self.attach_to(&row, after).await)
    }

    async fn cancel(&mut self, task: TaskId) -> Result<Next, Refusal> {
        let cancelled = self.context.queue.cancel(task).await.map_err(away)?.ok_or(Refusal::UnknownTask(task))?;
        Ok(self.say(reply::cancelled(task, cancelled.task.state, cancelled.already_finished)).await)
    }

    async fn attach_to(&mut self, row: &TaskRow, after: u64) -> Next {
        tracing::info!(task = %row.id, after, "a task is attached to");
        // A watch of the same task is replaced, and first: its lines must not come between the reply and the first line.
        self.unwatch(row.id).await;
        let next = self.say(reply::attached(row.id, row.state)).await;
        if !(row.state.is_final() && after == row.last_seq) {
            self.watch(row.id, after);
        }
        next
    }

    fn watch(&mut self, task: TaskId, after: u64) {
        let Context { queue, metrics, .. } = self.context;
        let (watch, outbox, delay) = (queue.tail(task, after), Arc::clone(&self.outbox), metrics.log_delay.clone());
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

    async fn say(&self, text: String) -> Next {
        if self.outbox.send([Message::text(text)]).await { Next::GoOn } else { Next::Gone }
    }
}

fn away(error: QueueError) -> Refusal {
    match error {
        QueueError::Closed => Refusal::ShuttingDown,
        error @ (QueueError::Unavailable(_) | QueueError::Damaged(_) | QueueError::Unknown(_)) => {
            tracing::error!(%error, "the queue can't be used: a message is refused");
            Refusal::QueueAway(error.to_string())
        }
    }
}

/// Sends a task's lines as they come, until it ends or the client is gone.
async fn forward(mut watch: LogTail, outbox: &Outbox, delay: &Durations) {
    /// Lines in one write, at the most.
    const AT_ONCE: usize = 64;
    const AGAIN_AFTER: Duration = Duration::from_secs(1);
    loop {
        match watch.next().await {
            Ok(Some(first)) => {
                // What has come meanwhile goes along.
                let more = std::iter::from_fn(|| watch.next().now_or_never()?.ok().flatten());
                let lines: Vec<_> = std::iter::once(first).chain(more).take(AT_ONCE).collect();
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
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}

/// What a line is on the wire.
fn frame(told: &EncodedEvent) -> Message {
    // It is JSON; what is no UTF-8 can't come out of it.
    Message::Text(Utf8Bytes::try_from(told.encoded(reply::log)).unwrap_or_default())
}
