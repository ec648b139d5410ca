//! Fan-out of task logs to subscribers, entry by entry, after the commit.
//!
//! The signals are only hints. A subscriber that misses one reads the queue file
//! ([`crate::LogTail`]).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use tokio::sync::broadcast;

use crate::task::{LogEntry, TaskId};

/// Signals buffered for a slow subscriber. One that is further behind reads the file.
const CHANNEL_CAPACITY: usize = 256;

/// Last entries buffered for a slow subscriber, who misses older ones.
const FINISHED_CAPACITY: usize = 1_024;

/// The encodings that an entry may have. Callers number them from 0 and agree on which is which.
pub const MAX_ENCODINGS: usize = 3;

/// A log entry and its encodings, each of which is made once for all subscribers.
#[derive(Debug)]
pub struct EncodedEntry {
    pub entry: LogEntry,
    /// When it was committed; `None` if it was read from the file.
    pub committed_at: Option<Instant>,
    encodings: [OnceLock<Bytes>; MAX_ENCODINGS],
}

impl EncodedEntry {
    /// An entry that was read from the file.
    pub fn stored(entry: LogEntry) -> Self {
        Self { entry, committed_at: None, encodings: Default::default() }
    }

    /// The entry in one of its encodings. `encode` runs only for the first caller; for a number from
    /// [`MAX_ENCODINGS`] on, for each.
    pub fn encoded(&self, encoding: usize, encode: impl FnOnce(&LogEntry) -> String) -> Bytes {
        match self.encodings.get(encoding) {
            Some(encoded) => encoded.get_or_init(|| encode(&self.entry).into()).clone(),
            None => encode(&self.entry).into(),
        }
    }
}

/// A signal to a subscriber.
#[derive(Debug, Clone)]
pub enum LogSignal {
    /// An entry was committed by this process.
    Published(Arc<EncodedEntry>),
    /// Another process has appended entries up to this sequence number.
    TailAdvanced(u64),
}

/// One broadcast channel for each task with a subscriber, and one for the last entries of all tasks.
#[derive(Debug, Clone)]
pub struct LogHub {
    channels: Arc<Mutex<HashMap<TaskId, Channel>>>,
    finished: broadcast::Sender<LogEntry>,
}

impl Default for LogHub {
    fn default() -> Self {
        Self { channels: Arc::default(), finished: broadcast::Sender::new(FINISHED_CAPACITY) }
    }
}

#[derive(Debug)]
struct Channel {
    sender: broadcast::Sender<LogSignal>,
    /// The highest sequence number that was signalled.
    last_seq: u64,
}

impl LogHub {
    fn channels(&self) -> MutexGuard<'_, HashMap<TaskId, Channel>> {
        // No code panics half-way through a change of the map.
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Subscribes to a task's log from now on.
    pub fn subscribe(&self, task: TaskId) -> Subscription {
        let receiver = self
            .channels()
            .entry(task)
            .or_insert_with(|| Channel { sender: broadcast::Sender::new(CHANNEL_CAPACITY), last_seq: 0 })
            .sender
            .subscribe();
        Subscription { hub: self.clone(), task, receiver: Some(receiver) }
    }

    /// Subscribes to the last entries of all tasks that this process finishes.
    pub fn finished(&self) -> broadcast::Receiver<LogEntry> {
        self.finished.subscribe()
    }

    /// Signals a committed entry. The end of a task is also told to the operators.
    pub fn publish(&self, entry: LogEntry) {
        if let Some(state) = entry.final_state {
            tracing::info!(task = %entry.task, state = state.as_str(), "{}", entry.event);
        }
        if entry.final_state.is_some() && self.finished.receiver_count() > 0 {
            let _ = self.finished.send(entry.clone());
        }
        if let Some(channel) = self.channels().get_mut(&entry.task) {
            channel.last_seq = channel.last_seq.max(entry.seq);
            // An error means that the last subscriber has just left.
            let _ = channel.sender.send(LogSignal::Published(Arc::new(EncodedEntry {
                committed_at: Some(Instant::now()),
                ..EncodedEntry::stored(entry)
            })));
        }
    }

    /// Signals that a task's log has reached `last_seq`, unless that was signalled before.
    pub fn advance_tail(&self, task: TaskId, last_seq: u64) {
        if let Some(channel) = self.channels().get_mut(&task)
            && channel.last_seq < last_seq
        {
            channel.last_seq = last_seq;
            let _ = channel.sender.send(LogSignal::TailAdvanced(last_seq));
        }
    }

    /// The tasks with a subscriber.
    pub fn subscribed_tasks(&self) -> Vec<TaskId> {
        self.channels().keys().copied().collect()
    }
}

/// A subscription to one task's log. The task's channel is removed with its last subscription.
#[derive(Debug)]
pub struct Subscription {
    hub: LogHub,
    task: TaskId,
    /// `None` only during `drop`.
    receiver: Option<broadcast::Receiver<LogSignal>>,
}

impl Subscription {
    /// Waits for the next signal. `None` means that some were missed.
    pub async fn next(&mut self) -> Option<LogSignal> {
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

    fn entry(task: TaskId, seq: u64) -> LogEntry {
        LogEntry { task, seq, at_ms: 0, event: Event::Text { text: String::new(), is_error: false }, final_state: None }
    }

    #[test]
    fn each_encoding_is_made_once() {
        let event = EncodedEntry::stored(entry(TaskId::new(), 1));
        for encoding in 0..MAX_ENCODINGS {
            let first = event.encoded(encoding, |entry| format!("{encoding}: {}", entry.seq));
            assert_eq!(first, format!("{encoding}: 1"));
            assert_eq!(event.encoded(encoding, |_| unreachable!("it is encoded already")), first);
        }
    }

    #[tokio::test]
    async fn a_channel_is_removed_with_its_last_subscriber() {
        let (hub, task) = (LogHub::default(), TaskId::new());
        let (mut first, second) = (hub.subscribe(task), hub.subscribe(task));
        drop(second);
        hub.publish(entry(task, 1));
        assert!(matches!(first.next().await, Some(LogSignal::Published(encoded)) if encoded.entry.seq == 1));
        drop(first);
        assert!(hub.subscribed_tasks().is_empty());
    }

    #[tokio::test]
    async fn a_known_length_is_not_signalled_again() {
        let (hub, task) = (LogHub::default(), TaskId::new());
        let mut subscription = hub.subscribe(task);
        hub.publish(entry(task, 2));
        hub.advance_tail(task, 2);
        hub.advance_tail(task, 3);
        assert!(matches!(subscription.next().await, Some(LogSignal::Published(_))));
        assert!(matches!(subscription.next().await, Some(LogSignal::TailAdvanced(3))));
    }

    #[tokio::test]
    async fn a_slow_subscriber_learns_that_it_missed_signals() {
        let (hub, task) = (LogHub::default(), TaskId::new());
        let mut subscription = hub.subscribe(task);
        for seq in 1..=2 * CHANNEL_CAPACITY as u64 {
            hub.publish(entry(task, seq));
        }
        assert!(subscription.next().await.is_none());
        assert!(subscription.next().await.is_some());
    }
}
