//! Following a log: first what is stored, then what is told live, with no seam between the two.

use std::{collections::VecDeque, sync::Arc};

use super::{Queue, QueueError};
use crate::{
    events::{EncodedEvent, EventSignal, Subscription},
    task::TaskId,
};

/// Lines read from the file at once.
const PAGE: u64 = 256;

/// A task's log from some line on; each line once, in order.
pub struct LogTail {
    queue: Queue,
    subscription: Subscription,
    task: TaskId,
    /// The number of the line that comes next.
    next_seq: u64,
    stored: VecDeque<Arc<EncodedEvent>>,
    /// There may be lines in the file that were not told live to this watch.
    catching_up: bool,
    ended: bool,
}

impl LogTail {
    /// `ear` must have been listening before this: what is written between reading and listening would be missed.
    pub(super) fn new(queue: Queue, subscription: Subscription, task: TaskId, after: u64) -> Self {
        Self { queue, subscription, task, next_seq: after + 1, stored: VecDeque::new(), catching_up: true, ended: false }
    }

    /// Waits for the next line; `None` after the one that ends the task.
    ///
    /// # Errors
    /// The file can't be read; asking again is right, and misses nothing. So does who stops waiting.
    pub async fn next(&mut self) -> Result<Option<Arc<EncodedEvent>>, QueueError> {
        while !self.ended {
            if let Some(told) = self.stored.pop_front() {
                return Ok(Some(self.advance(told)));
            }
            if self.catching_up {
                let page = self.queue.log_after(self.task, self.next_seq - 1, PAGE).await?;
                self.catching_up = page.len() as u64 == PAGE;
                self.stored = page.into_iter().map(|entry| Arc::new(EncodedEvent::stored(entry))).collect();
                continue;
            }
            match self.subscription.next().await {
                Some(EventSignal::Published(told)) if told.entry.seq == self.next_seq => return Ok(Some(self.advance(told))),
                Some(EventSignal::Published(told)) => self.catching_up = told.entry.seq > self.next_seq,
                Some(EventSignal::TailAdvanced(last_seq)) => self.catching_up = last_seq >= self.next_seq,
                None => self.catching_up = true,
            }
        }
        Ok(None)
    }

    fn advance(&mut self, told: Arc<EncodedEvent>) -> Arc<EncodedEvent> {
        self.next_seq = told.entry.seq + 1;
        self.ended = told.entry.final_state.is_some();
        told
    }
}
