//! The writer's thread: which of the changes that wait go into one transaction.

use std::{collections::VecDeque, time::Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::mpsc;

use super::{CHANNEL_CAPACITY, RequestKind, Tx, WriteRequest};
use crate::{QueueError, clock::QueueClock, events::EventHub, failpoint, metrics::QueueMetrics};

/// Changes in one transaction at the most, so that the first is not kept from its answer for long.
pub(super) const MAX_BATCH: usize = 256;

/// Why a transaction was not made.
struct CommitError {
    error: rusqlite::Error,
    /// It is one change that can't be made; else the disk is full or broken, or another service does not end its own.
    is_statement_error: bool,
}

impl From<rusqlite::Error> for CommitError {
    fn from(error: rusqlite::Error) -> Self {
        Self { error, is_statement_error: false }
    }
}

/// The changes that wait.
struct WriterThread {
    arriving: mpsc::Receiver<Box<dyn WriteRequest>>,
    small: VecDeque<Box<dyn WriteRequest>>,
    large: VecDeque<Box<dyn WriteRequest>>,
}

/// Which changes a transaction takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Small,
    Large,
}

impl WriterThread {
    /// Blocks until there is a change to be made; `false`: there will be none any more.
    fn wait(&mut self) -> bool {
        self.receive();
        if self.small.is_empty() && self.large.is_empty() {
            let Some(change) = self.arriving.blocking_recv() else { return false };
            self.classify(change);
            self.receive();
        }
        true
    }

    /// Takes what has arrived, unless as many wait already as may.
    fn receive(&mut self) {
        while self.small.len() < CHANNEL_CAPACITY
            && let Ok(change) = self.arriving.try_recv()
        {
            self.classify(change);
        }
    }

    fn classify(&mut self, change: Box<dyn WriteRequest>) {
        match change.kind() {
            RequestKind::Small | RequestKind::EndOfBatch => self.small.push_back(change),
            RequestKind::Large => self.large.push_back(change),
        }
    }

    /// The next change for a transaction.
    fn next(&mut self, lane: Lane, is_full: bool) -> Option<Box<dyn WriteRequest>> {
        self.receive();
        match lane {
            Lane::Large if is_full => None,
            Lane::Large => self.large.pop_front(),
            Lane::Small => {
                let first = |order| self.small.iter().position(|change| change.kind() == order);
                // What comes last is made in a full transaction too: else it would wait as long as small changes keep coming.
                let next = if is_full { None } else { first(RequestKind::Small) };
                let next = next.or_else(|| first(RequestKind::EndOfBatch))?;
                self.small.remove(next)
            }
        }
    }
}

/// The changes that wait, and the connection that they are made on.
pub(super) struct Pen {
    connection: Connection,
    hub: EventHub,
    clock: QueueClock,
    metrics: QueueMetrics,
    waiting: WriterThread,
}

impl Pen {
    pub fn new(
        connection: Connection,
        hub: EventHub,
        clock: QueueClock,
        metrics: QueueMetrics,
        arriving: mpsc::Receiver<Box<dyn WriteRequest>>,
    ) -> Self {
        let waiting = WriterThread { arriving, small: VecDeque::new(), large: VecDeque::new() };
        Self { connection, hub, clock, metrics, waiting }
    }

    /// Writes until nobody can ask for more.
    pub fn run(&mut self) {
        let mut last = Lane::Large;
        while self.waiting.wait() {
            // In turn, so that a change of either kind waits for one transaction of the other at the most.
            let lane = match last {
                Lane::Small if !self.waiting.large.is_empty() => Lane::Large,
                Lane::Large if self.waiting.small.is_empty() => Lane::Large,
                _ => Lane::Small,
            };
            last = lane;
            let mut group: Vec<_> = self.waiting.next(lane, false).into_iter().collect();
            let committed = self.commit(&mut group, Some(lane));
            if group.len() > 1 && committed.as_ref().is_err_and(|failure| failure.is_statement_error) {
                // Each by itself, so that the others do not fail with it. No savepoints: they copy each page that is changed.
                for change in group {
                    let mut alone = vec![change];
                    let committed = self.commit(&mut alone, None);
                    self.respond(alone, committed);
                }
            } else {
                self.respond(group, committed);
            }
        }
    }

    /// One transaction with the changes of a group, and those of a lane that wait or arrive meanwhile: they join the group.
    fn commit(&mut self, group: &mut Vec<Box<dyn WriteRequest>>, lane: Option<Lane>) -> Result<(), CommitError> {
        // IMMEDIATE: a transaction that read first and wrote then could fail with a stale snapshot, which no waiting mends.
        let transaction = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
        let mut tx = Tx::new(&self.connection, &self.clock);
        let mut made = 0;
        loop {
            if made == group.len() {
                let is_full = made >= MAX_BATCH || tx.is_full();
                let Some(change) = lane.and_then(|lane| self.waiting.next(lane, is_full)) else { break };
                group.push(change);
            }
            let Some(change) = group.get_mut(made) else { break };
            // Where going on makes no sense SQLite has ended the transaction itself.
            change.apply(&mut tx).map_err(|error| CommitError { error, is_statement_error: !self.connection.is_autocommit() })?;
            made += 1;
        }
        failpoint::hit("commit");
        let committing = Instant::now();
        transaction.commit()?;
        self.metrics.commit_seconds.observe(committing.elapsed().as_secs_f64());
        for entry in tx.events {
            if let Some(state) = entry.final_state {
                tracing::info!(task = %entry.task, state = state.as_str(), "{}", entry.event);
            }
            self.hub.publish(entry);
        }
        Ok(())
    }

    /// Answers all changes of a group.
    fn respond(&self, group: Vec<Box<dyn WriteRequest>>, committed: Result<(), CommitError>) {
        let committed = committed.map_err(|failure| QueueError::of(failure.error));
        if let Err(error) = &committed {
            self.metrics.count_error(error);
        }
        for change in group {
            change.respond(committed.clone());
        }
    }
}
