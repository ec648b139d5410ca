//! The fan-out of task logs: whoever watches a task hears of each line once it is committed.
//!
//! Only a hint of what the queue holds: a watcher that misses something reads it from there ([`crate::LogTail`]).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use tokio::sync::broadcast;

use crate::task::{LogEntry, TaskId};

/// Lines kept for a watcher that is slow; one further behind reads the queue.
const CHANNEL_CAPACITY: usize = 256;

/// A line, and what it is on the wire: made once for all who watch.
#[derive(Debug)]
pub struct EncodedEvent {
    pub entry: LogEntry,
    /// When it was committed, if that was here and just now.
    pub committed_at: Option<Instant>,
    encoded: OnceLock<Bytes>,
}

impl EncodedEvent {
    /// A line that was stored before.
    pub fn stored(entry: LogEntry) -> Self {
        Self { entry, committed_at: None, encoded: OnceLock::new() }
    }

    /// What it is on the wire; `make` makes it, if nobody has.
    pub fn encoded(&self, make: impl FnOnce(&LogEntry) -> String) -> Bytes {
        self.encoded.get_or_init(|| make(&self.entry).into()).clone()
    }
}

/// What a watcher hears.
#[derive(Debug, Clone)]
pub enum EventSignal {
    /// A line was committed here.
    Published(Arc<EncodedEvent>),
    /// Another process has written lines up to this number.
    TailAdvanced(u64),
}

/// One channel for each task that is watched, and none for others.
#[derive(Debug, Clone, Default)]
pub struct EventHub {
    channels: Arc<Mutex<HashMap<TaskId, Channel>>>,
}

#[derive(Debug)]
struct Channel {
    sender: broadcast::Sender<EventSignal>,
    /// The last line that was told of here.
    last_seq: u64,
}

impl EventHub {
    fn channels(&self) -> MutexGuard<'_, HashMap<TaskId, Channel>> {
        // Nothing in here can panic half-way through a change.
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens to a task from now on.
    pub fn subscribe(&self, task: TaskId) -> Subscription {
        let receiver = self
            .channels()
            .entry(task)
            .or_insert_with(|| Channel { sender: broadcast::Sender::new(CHANNEL_CAPACITY), last_seq: 0 })
            .sender
            .subscribe();
        Subscription { hub: self.clone(), task, receiver: Some(receiver) }
    }

    /// Tells of a line that is committed.
    pub fn publish(&self, entry: LogEntry) {
        if let Some(channel) = self.channels().get_mut(&entry.task) {
            channel.last_seq = channel.last_seq.max(entry.seq);
            // An error means that the last watcher has just left.
            let _ = channel.sender.send(EventSignal::Published(Arc::new(EncodedEvent {
                committed_at: Some(Instant::now()),
                ..EncodedEvent::stored(entry)
            })));
        }
    }

    /// Tells that a task's log has this many lines, unless that is known.
    pub fn advance_tail(&self, task: TaskId, last_seq: u64) {
        if let Some(channel) = self.channels().get_mut(&task)
            && channel.last_seq < last_seq
        {
            channel.last_seq = last_seq;
            let _ = channel.sender.send(EventSignal::TailAdvanced(last_seq));
        }
    }

    /// The tasks that are watched.
    pub fn subscribed_tasks(&self) -> Vec<TaskId> {
        self.channels().keys().copied().collect()
    }
}

/// One watcher's ear; a task's channel goes with its last one.
#[derive(Debug)]
pub struct Subscription {
    hub: EventHub,
    task: TaskId,
    /// Taken only by `drop`.
    receiver: Option<broadcast::Receiver<EventSignal>>,
}

impl Subscription {
    /// Waits for the next signal. `None`: some were missed.
    pub async fn next(&mut self) -> Option<EventSignal> {
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
    use crate::task::Event;

    fn line(task: TaskId, seq: u64) -> LogEntry {
        LogEntry { task, seq, at_ms: 0, event: Event::Text { text: String::new(), is_error: false }, final_state: None }
    }

    #[tokio::test]
    async fn channels_go_with_their_last_watcher() {
        let (hub, task) = (EventHub::default(), TaskId::new());
        let (mut first, second) = (hub.subscribe(task), hub.subscribe(task));
        drop(second);
        hub.publish(line(task, 1));
        assert!(matches!(first.next().await, Some(EventSignal::Published(told)) if told.entry.seq == 1));
        drop(first);
        assert!(hub.subscribed_tasks().is_empty());
    }

    #[tokio::test]
    async fn what_is_known_is_not_told_again() {
        let (hub, task) = (EventHub::default(), TaskId::new());
        let mut ear = hub.subscribe(task);
        hub.publish(line(task, 2));
        hub.advance_tail(task, 2);
        hub.advance_tail(task, 3);
        assert!(matches!(ear.next().await, Some(EventSignal::Published(_))));
        assert!(matches!(ear.next().await, Some(EventSignal::TailAdvanced(3))));
    }

    #[tokio::test]
    async fn a_slow_watcher_hears_that_it_missed_some() {
        let (hub, task) = (EventHub::default(), TaskId::new());
        let mut ear = hub.subscribe(task);
        for seq in 1..=2 * CHANNEL_CAPACITY as u64 {
            hub.publish(line(task, seq));
        }
        assert!(ear.next().await.is_none());
        assert!(ear.next().await.is_some());
    }
}
