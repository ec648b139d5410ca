//! Follows a task's log: first the stored entries, then the live ones, without a gap in between.

use std::{collections::VecDeque, sync::Arc};

use super::{Queue, QueueError};
use crate::{
    log_hub::{EncodedEntry, LogSignal, Subscription},
    task::TaskId,
};

/// Entries per read from the file.
const PAGE: u64 = 256;

/// A task's log from some entry on. Returns each entry once, in order.
///
/// ```
/// # use data_patch_protocol::task::NewTask;
/// # use data_patch_queue::{Clock, Queue, QueueOptions, Submitted};
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let url = format!("sqlite://{}", folder.path().join("queue.db").display());
/// # let queue = Queue::open(&QueueOptions::new(url), Clock::System).await?;
/// # let (device, from) = (uuid::Uuid::from_u128(1), chrono::DateTime::UNIX_EPOCH);
/// # let topic = "readings".to_owned();
/// # let task = NewTask { thing: device, devices: vec![device], topic, from, to: from, request_id: None, reason: None, rate: None };
/// # let Submitted::Created(id) = queue.submit(task).await? else { panic!("a new task") };
/// queue.cancel(id).await?;
/// let mut tail = queue.tail(id, 0);
/// while let Some(logged) = tail.next().await? {
///     println!("{} {}", logged.entry.seq, logged.entry.event);
/// }
/// # Ok(())
/// # }
/// ```
pub struct LogTail {
    queue: Queue,
    subscription: Subscription,
    task: TaskId,
    /// The sequence number of the next entry.
    next_seq: u64,
    stored: VecDeque<Arc<EncodedEntry>>,
    /// The file may have entries that were not received live.
    catching_up: bool,
    ended: bool,
}

impl LogTail {
    /// `subscription` must exist before the first read: an entry that is committed between a read
    /// and a later subscription would be missed.
    pub(super) fn new(queue: Queue, subscription: Subscription, task: TaskId, after: u64) -> Self {
        Self { queue, subscription, task, next_seq: after + 1, stored: VecDeque::new(), catching_up: true, ended: false }
    }

    /// Waits for the next entry. Returns `None` after the one that finishes the task.
    ///
    /// Cancel-safe: no entry is lost if the future is dropped.
    ///
    /// # Errors
    /// The file cannot be read. Retryable without losing entries.
    pub async fn next(&mut self) -> Result<Option<Arc<EncodedEntry>>, QueueError> {
        while !self.ended {
            if let Some(encoded) = self.stored.pop_front() {
                return Ok(Some(self.advance(encoded)));
            }
            if self.catching_up {
                let page = self.queue.log_after(self.task, self.next_seq - 1, PAGE).await?;
                self.catching_up = page.len() as u64 == PAGE;
                self.stored = page.into_iter().map(|entry| Arc::new(EncodedEntry::stored(entry))).collect();
                continue;
            }
            match self.subscription.next().await {
                Some(LogSignal::Published(encoded)) if encoded.entry.seq == self.next_seq => {
                    return Ok(Some(self.advance(encoded)));
                }
                Some(LogSignal::Published(encoded)) => self.catching_up = encoded.entry.seq > self.next_seq,
                Some(LogSignal::TailAdvanced(last_seq)) => self.catching_up = last_seq >= self.next_seq,
                None => self.catching_up = true,
            }
        }
        Ok(None)
    }

    fn advance(&mut self, encoded: Arc<EncodedEntry>) -> Arc<EncodedEntry> {
        self.next_seq = encoded.entry.seq + 1;
        self.ended = encoded.entry.final_state.is_some();
        encoded
    }
}
