//! The fan-out of task logs: whoever watches a task hears of each line once it is committed.
//!
//! Only a hint of what the queue holds: a watcher that misses something reads it from there ([`crate::queue::Watch`]).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use tokio::sync::broadcast;

use crate::task::{LogEvent, TaskId};

/// Lines kept for a watcher that is slow; one further behind reads the queue.
const BACKLOG: usize = 256;

/// A line, and what it is on the wire: made once for all who watch.
#[derive(Debug)]
pub struct Told {
    pub event: LogEvent,
    /// When it was committed, if that was here and just now.
    pub committed: Option<Instant>,
    wire: OnceLock<Bytes>,
}

impl Told {
    /// A line that was stored before.
    pub fn stored(event: LogEvent) -> Self {
        Self { event, committed: None, wire: OnceLock::new() }
    }

    /// What it is on the wire; `make` makes it, if nobody has.
    pub fn wire(&self, make: impl FnOnce(&LogEvent) -> String) -> Bytes {
        self.wire.get_or_init(|| make(&self.event).into()).clone()
    }
}

/// What a watcher hears.
#[derive(Debug, Clone)]
pub enum Signal {
    /// A line was committed here.
    Logged(Arc<Told>),
    /// Another process has written lines up to this number.
    Grown(u64),
}

/// One channel for each task that is watched, and none for others.
#[derive(Debug, Clone, Default)]
pub struct Hub {
    channels: Arc<Mutex<HashMap<TaskId, Channel>>>,
}

#[derive(Debug)]
struct Channel {
    sender: broadcast::Sender<Signal>,
    /// The last line that was told of here.
    last_seq: u64,
}

impl Hub {
    fn channels(&self) -> MutexGuard<'_, HashMap<TaskId, Channel>> {
        // Nothing in here can panic half-way through a change.
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens to a task from now on.
    pub fn subscribe(&self, task: TaskId) -> Subscription {
        let receiver = self
            .channels()
            .entry(task)
            .or_insert_with(|| Channel { sender: broadcast::Sender::new(BACKLOG), last_seq: 0 })
            .sender
            .subscribe();
        Subscription { hub: self.clone(), task, receiver: Some(receiver) }
    }

    /// Tells of a line that is committed.
    pub fn logged(&self, event: LogEvent) {
        if let Some(channel) = self.channels().get_mut(&event.task) {
            channel.last_seq = channel.last_seq.max(event.seq);
            // An error means that the last watcher has just left.
            let _ =
                channel.sender.send(Signal::Logged(Arc::new(Told { committed: Some(Instant::now()), ..Told::stored(event) })));
        }
    }

    /// Tells that a task's log has this many lines, unless that is known.
    pub fn grown(&self, task: TaskId, last_seq: u64) {
        if let Some(channel) = self.channels().get_mut(&task)
            && channel.last_seq < last_seq
        {
            channel.last_seq = last_seq;
            let _ = channel.sender.send(Signal::Grown(last_seq));
        }
    }

    /// The tasks that are watched.
    pub fn watched(&self) -> Vec<TaskId> {
        self.channels().keys().copied().collect()
    }
}

/// One watcher's ear; a task's channel goes with its last one.
#[derive(Debug)]
pub struct Subscription {
    hub: Hub,
    task: TaskId,
    /// Taken only by `drop`.
    receiver: Option<broadcast::Receiver<Signal>>,
}

impl Subscription {
    /// Waits for the next signal. `None`: some were missed.
    pub async fn next(&mut self) -> Option<Signal> {
        match &mut self.receiver {
            Some(receiver) => receiver.recv().await.ok(),
            None => None,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut channels = self.hub.channels();
        self.receiver = None;
        if channels.get(&self.task).is_some_and(|channel| channel.sender.receiver_count() == 0) {
            channels.remove(&self.task);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(task: TaskId, seq: u64) -> LogEvent {
        LogEvent { task, seq, at_ms: 0, ok: true, message: String::new(), ends: None }
    }

    #[tokio::test]
    async fn channels_go_with_their_last_watcher() {
        let (hub, task) = (Hub::default(), TaskId::new());
        let (mut first, second) = (hub.subscribe(task), hub.subscribe(task));
        drop(second);
        hub.logged(line(task, 1));
        assert!(matches!(first.next().await, Some(Signal::Logged(told)) if told.event.seq == 1));
        drop(first);
        assert!(hub.watched().is_empty());
    }

    #[tokio::test]
    async fn what_is_known_is_not_told_again() {
        let (hub, task) = (Hub::default(), TaskId::new());
        let mut ear = hub.subscribe(task);
        hub.logged(line(task, 2));
        hub.grown(task, 2);
        hub.grown(task, 3);
        assert!(matches!(ear.next().await, Some(Signal::Logged(_))));
        assert!(matches!(ear.next().await, Some(Signal::Grown(3))));
    }

    #[tokio::test]
    async fn a_slow_watcher_hears_that_it_missed_some() {
        let (hub, task) = (Hub::default(), TaskId::new());
        let mut ear = hub.subscribe(task);
        for seq in 1..=2 * BACKLOG as u64 {
            hub.logged(line(task, seq));
        }
        assert!(ear.next().await.is_none());
        assert!(ear.next().await.is_some());
    }
}
