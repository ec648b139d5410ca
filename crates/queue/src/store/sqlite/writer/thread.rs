//! The writer thread: decides which pending requests share a transaction, and commits.

use std::{collections::VecDeque, time::Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{CHANNEL_CAPACITY, RequestKind, Tx, WriteRequest};
use crate::{
    failpoint,
    log_hub::LogHub,
    metrics::QueueMetrics,
    store::sqlite::{clock::QueueClock, error::queue_error},
    task::TaskId,
};

/// The most requests in one transaction, so that the first one does not wait long for its answer.
pub(super) const MAX_BATCH: usize = 256;

/// Why a transaction failed.
struct CommitError {
    error: rusqlite::Error,
    /// A single request failed. Otherwise the disk is full or broken, or another process keeps
    /// SQLite's write lock.
    is_statement_error: bool,
}

impl From<rusqlite::Error> for CommitError {
    fn from(error: rusqlite::Error) -> Self {
        Self { error, is_statement_error: false }
    }
}

/// Requests that are received but not applied yet.
struct PendingRequests {
    receiver: mpsc::Receiver<Box<dyn WriteRequest>>,
    small: VecDeque<Box<dyn WriteRequest>>,
    large: VecDeque<Box<dyn WriteRequest>>,
}

/// The kind of requests that a transaction takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Small,
    Large,
}

impl PendingRequests {
    /// Blocks until a request is pending. Returns `false` when the channel is closed and empty.
    fn wait_for_request(&mut self) -> bool {
        self.receive();
        if self.small.is_empty() && self.large.is_empty() {
            let Some(request) = self.receiver.blocking_recv() else { return false };
            self.classify(request);
            self.receive();
        }
        true
    }

    /// Receives what has arrived, up to the capacity of the channel.
    fn receive(&mut self) {
        while self.small.len() < CHANNEL_CAPACITY
            && let Ok(request) = self.receiver.try_recv()
        {
            self.classify(request);
        }
    }

    fn classify(&mut self, request: Box<dyn WriteRequest>) {
        match request.kind() {
            RequestKind::Small | RequestKind::EndOfBatch => self.small.push_back(request),
            RequestKind::Large => self.large.push_back(request),
        }
    }

    /// The next request for a transaction.
    fn next(&mut self, lane: Lane, is_full: bool) -> Option<Box<dyn WriteRequest>> {
        self.receive();
        match lane {
            Lane::Large if is_full => None,
            Lane::Large => self.large.pop_front(),
            Lane::Small => {
                let first = |kind| self.small.iter().position(|request| request.kind() == kind);
                // An `EndOfBatch` request also joins a full transaction. Otherwise it would wait as
                // long as small requests keep arriving.
                let next = if is_full { None } else { first(RequestKind::Small) };
                let next = next.or_else(|| first(RequestKind::EndOfBatch))?;
                self.small.remove(next)
            }
        }
    }
}

/// The pending requests and the connection that they are applied on.
pub(super) struct WriterThread {
    connection: Connection,
    hub: LogHub,
    clock: QueueClock,
    metrics: QueueMetrics,
    pending: PendingRequests,
    /// The last id that was given to a task.
    last_task: TaskId,
}

impl WriterThread {
    pub fn new(
        connection: Connection,
        hub: LogHub,
        clock: QueueClock,
        metrics: QueueMetrics,
        receiver: mpsc::Receiver<Box<dyn WriteRequest>>,
    ) -> Self {
        let pending = PendingRequests { receiver, small: VecDeque::new(), large: VecDeque::new() };
        Self { connection, hub, clock, metrics, pending, last_task: TaskId(Uuid::nil()) }
    }

    /// Applies requests until the channel is closed and empty.
    pub fn run(&mut self) {
        let mut last = Lane::Large;
        while self.pending.wait_for_request() {
            // The lanes alternate, so that a request waits for at most one transaction of the other
            // lane.
            let lane = match last {
                Lane::Small if !self.pending.large.is_empty() => Lane::Large,
                Lane::Large if self.pending.small.is_empty() => Lane::Large,
                _ => Lane::Small,
            };
            last = lane;
            let mut batch: Vec<_> = self.pending.next(lane, false).into_iter().collect();
            let committed = self.commit(&mut batch, Some(lane));
            if batch.len() > 1 && committed.as_ref().is_err_and(|failure| failure.is_statement_error) {
                // Each request in a transaction of its own, so that the others do not fail with it.
                // Savepoints would avoid the repetition, but they copy every changed page.
                for request in batch {
                    let mut single = vec![request];
                    let committed = self.commit(&mut single, None);
                    self.respond(single, committed);
                }
            } else {
                self.respond(batch, committed);
            }
        }
    }

    /// Commits one transaction with the requests of a batch. Requests of `lane` that are pending or
    /// arrive meanwhile join the batch.
    fn commit(&mut self, batch: &mut Vec<Box<dyn WriteRequest>>, lane: Option<Lane>) -> Result<(), CommitError> {
        // IMMEDIATE: a transaction that reads first and writes later can fail with a stale
        // snapshot, which the busy timeout does not cover.
        let transaction = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
        let mut tx = Tx::new(&self.connection, &self.clock, self.last_task);
        let mut applied = 0;
        loop {
            if applied == batch.len() {
                let is_full = applied >= MAX_BATCH || tx.is_full();
                let Some(request) = lane.and_then(|lane| self.pending.next(lane, is_full)) else { break };
                batch.push(request);
            }
            let Some(request) = batch.get_mut(applied) else { break };
            // SQLite itself has rolled back if continuing makes no sense.
            request
                .apply(&mut tx)
                .map_err(|error| CommitError { error, is_statement_error: !self.connection.is_autocommit() })?;
            applied += 1;
        }
        failpoint::hit("commit");
        let committing = Instant::now();
        transaction.commit()?;
        self.metrics.commit_seconds.observe(committing.elapsed().as_secs_f64());
        self.last_task = tx.last_task;
        for entry in tx.events {
            self.hub.publish(entry);
        }
        Ok(())
    }

    /// Answers all requests of a batch.
    fn respond(&self, batch: Vec<Box<dyn WriteRequest>>, committed: Result<(), CommitError>) {
        let committed = committed.map_err(|failure| queue_error(failure.error));
        if let Err(error) = &committed {
            self.metrics.count_error(error);
        }
        for request in batch {
            request.respond(committed.clone());
        }
    }
}
