//! Following a log: first what is stored, then what is told live, with no seam between the two.

use std::{collections::VecDeque, sync::Arc};

use super::{Queue, QueueError};
use crate::{
    events::{Signal, Subscription, Told},
    task::TaskId,
};

/// Lines read from the file at once.
const PAGE: u64 = 256;

/// A task's log from some line on; each line once, in order.
pub struct Watch {
    queue: Queue,
    ear: Subscription,
    task: TaskId,
    /// The number of the line that comes next.
    next_seq: u64,
    stored: VecDeque<Arc<Told>>,
    /// There may be lines in the file that were not told live to this watch.
    behind: bool,
    ended: bool,
}

impl Watch {
    /// `ear` must have been listening before this: what is written between reading and listening would be missed.
    pub(super) fn new(queue: Queue, ear: Subscription, task: TaskId, after: u64) -> Self {
        Self { queue, ear, task, next_seq: after + 1, stored: VecDeque::new(), behind: true, ended: false }
    }

    /// Waits for the next line; `None` after the one that ends the task.
    ///
    /// # Errors
    /// The file can't be read; asking again is right, and misses nothing. So does who stops waiting.
    pub async fn next(&mut self) -> Result<Option<Arc<Told>>, QueueError> {
        while !self.ended {
            if let Some(told) = self.stored.pop_front() {
                return Ok(Some(self.pass(told)));
            }
            if self.behind {
                let page = self.queue.events_after(self.task, self.next_seq - 1, PAGE).await?;
                self.behind = page.len() as u64 == PAGE;
                self.stored = page.into_iter().map(|event| Arc::new(Told::stored(event))).collect();
                continue;
            }
            match self.ear.next().await {
                Some(Signal::Logged(told)) if told.event.seq == self.next_seq => return Ok(Some(self.pass(told))),
                Some(Signal::Logged(told)) => self.behind = told.event.seq > self.next_seq,
                Some(Signal::Grown(last_seq)) => self.behind = last_seq >= self.next_seq,
                None => self.behind = true,
            }
        }
        Ok(None)
    }

    fn pass(&mut self, told: Arc<Told>) -> Arc<Told> {
        self.next_seq = told.event.seq + 1;
        self.ended = told.event.ends.is_some();
        told
    }
}
