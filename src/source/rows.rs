//! A queue of row batches between a reader and the job that publishes them.
//!
//! Pushing never blocks, since a statement is open during a page: the rows are queued, bounded by
//! the page size and the [`Budget`]. Before the next page the reader waits until most of the queue
//! is consumed. Rows that are not consumed while other readers wait for memory are dropped, and
//! read again on demand.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, oneshot};

use super::{
    Device, Mapping, Row, SourceError,
    budget::{Budget, MemoryPermit},
};
use crate::task::Position;

/// After this time without consumption, rows may be dropped if other readers wait for memory.
const STALE_AFTER: Duration = Duration::from_secs(2);

/// Complete rows of a device up to these bytes are not counted against the memory budget.
const UNCOUNTED_BYTES: usize = 16 * 1_024;

/// Some rows, and the permit for their memory.
pub(super) struct Batch {
    rows: Vec<Row>,
    bytes: usize,
    memory: MemoryPermit,
}

struct State {
    batches: VecDeque<Batch>,
    bytes: usize,
    /// Set after the last row: the end of the selection, or an error.
    end: Option<Result<(), SourceError>>,
    /// The receiver was dropped.
    closed: bool,
    /// Unconsumed rows were dropped, and must be read again.
    dropped: bool,
    /// The receiver is waiting for rows.
    is_receiver_waiting: bool,
    /// The position of the last consumed row, after which reading restarts.
    last_consumed: Option<Position>,
    consumed_at: Instant,
    mapping: Option<Arc<Mapping>>,
}

struct Shared {
    state: Mutex<State>,
    /// A batch or the end was added.
    sender_changed: Notify,
    /// A batch was consumed, the receiver waits, or it was dropped.
    receiver_changed: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sending half: collects rows into batches.
pub(super) struct RowSender {
    shared: Arc<Shared>,
    batch: Vec<Row>,
    bytes: usize,
    /// Memory for further rows.
    memory: MemoryPermit,
    /// The last row of the last batch.
    last: Option<Position>,
}

/// What a reader does next.
pub(super) enum ReadNext {
    /// Read the next page.
    Continue,
    /// Read again after this position: the rows after it were dropped.
    Restart(Option<Position>),
    /// Rows were just dropped for others: release what was read ahead as well, and wait again.
    Release,
    /// The receiver was dropped.
    Stop,
}

impl RowSender {
    /// A batch is complete at this number of rows or bytes.
    const BATCH_ROWS: usize = 512;
    const BATCH_BYTES: usize = 256 * 1_024;
    /// The next page is read when at most these bytes are unread.
    pub(super) const LOW_WATERMARK_BYTES: usize = 2 * Self::BATCH_BYTES;

    /// Creates a queue for the rows after a position.
    pub(super) fn new(after: Option<Position>) -> (Self, Rows) {
        let state = State {
            batches: VecDeque::new(),
            bytes: 0,
            end: None,
            closed: false,
            dropped: false,
            is_receiver_waiting: false,
            last_consumed: after,
            consumed_at: Instant::now(),
            mapping: None,
        };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), sender_changed: Notify::new(), receiver_changed: Notify::new() });
        let sender = Self { shared: Arc::clone(&shared), batch: Vec::new(), bytes: 0, memory: MemoryPermit::none(), last: None };
        (sender, Rows { shared, buffered: VecDeque::new() })
    }

    /// Sets the mapping of the rows that follow.
    pub(super) fn set_mapping(&self, mapping: &Arc<Mapping>) {
        self.shared.state().mapping = Some(Arc::clone(mapping));
    }

    /// As [`set_mapping`](Self::set_mapping), for rows that continue after others.
    ///
    /// # Errors
    /// A position is only valid in the layout that it was read in, and this one differs.
    pub(super) fn continue_with_mapping(&self, mapping: &Arc<Mapping>) -> Result<(), SourceError> {
        let before = self.shared.state().mapping.clone();
        if let Some(before) = before.filter(|before| !before.has_same_types(mapping)) {
            return Err(before.change_error(mapping));
        }
        self.set_mapping(mapping);
        Ok(())
    }

    /// Sets the memory permit for the rows that follow.
    pub(super) fn set_memory(&mut self, memory: MemoryPermit) {
        self.memory = memory;
    }

    /// Adds a row. Returns false if the receiver was dropped.
    pub(super) fn push(&mut self, row: Row) -> bool {
        self.bytes += row.bytes();
        self.batch.push(row);
        if self.batch.len() < Self::BATCH_ROWS && self.bytes < Self::BATCH_BYTES {
            return true;
        }
        self.flush()
    }

    /// Queues the current batch. Returns false if the receiver was dropped.
    pub(super) fn flush(&mut self) -> bool {
        let bytes = std::mem::take(&mut self.bytes);
        let rows = std::mem::take(&mut self.batch);
        if rows.is_empty() {
            return !self.shared.state().closed;
        }
        let memory = self.memory.split(bytes);
        self.forward(Batch { rows, bytes, memory })
    }

    /// Queues a batch. Returns false if the receiver was dropped.
    pub(super) fn forward(&mut self, batch: Batch) -> bool {
        self.last = batch.rows.last().map(|row| row.position.clone());
        let mut state = self.shared.state();
        if state.closed {
            return false;
        }
        if state.dropped {
            return true;
        }
        state.bytes += batch.bytes;
        state.batches.push_back(batch);
        drop(state);
        self.shared.sender_changed.notify_one();
        true
    }

    /// Takes back the memory that its rows did not need.
    pub(super) fn take_memory(&mut self) -> MemoryPermit {
        self.flush();
        std::mem::replace(&mut self.memory, MemoryPermit::none())
    }

    /// Ends a page and releases its unused memory. Returns the position of the last row since the
    /// previous page.
    pub(super) fn end_page(&mut self) -> Option<Position> {
        self.flush();
        self.memory = MemoryPermit::none();
        self.last.take()
    }

    /// Ends the rows, with an error or without one. Rows queued before remain valid.
    pub(super) fn end(&mut self, end: Result<(), SourceError>) {
        self.end_page();
        self.shared.state().end = Some(end);
        self.shared.sender_changed.notify_one();
    }

    /// Releases the memory permits of the queued rows if they are too small to be counted. Returns
    /// whether they are: then nobody needs to wait until they are consumed.
    pub(super) fn release_if_small(&mut self) -> bool {
        let mut state = self.shared.state();
        let is_small = state.bytes <= UNCOUNTED_BYTES;
        if is_small {
            for batch in &mut state.batches {
                batch.memory = MemoryPermit::none();
            }
        }
        is_small
    }

    /// Bytes in the queue.
    pub(super) fn unread_bytes(&self) -> usize {
        self.shared.state().bytes
    }

    /// Whether the receiver was dropped.
    pub(super) fn is_closed(&self) -> bool {
        self.shared.state().closed
    }

    /// Whether the receiver has consumed all rows and waits for more.
    pub(super) fn is_starving(&self) -> bool {
        self.shared.state().is_receiver_waiting
    }

    /// Whether unread rows have not been consumed for a while.
    pub(super) fn is_stale(&self) -> bool {
        let state = self.shared.state();
        state.bytes > 0 && state.consumed_at.elapsed() >= STALE_AFTER
    }

    /// Waits until the receiver has done something. Cancel-safe.
    pub(super) async fn receiver_changed(&self) {
        self.shared.receiver_changed.notified().await;
    }

    /// Waits until at most `max_bytes` are queued, or the queue was dropped and the receiver waits.
    /// Cancel-safe.
    pub(super) async fn wait_until_consumed(&self, max_bytes: usize, budget: &Budget) -> ReadNext {
        loop {
            {
                let mut state = self.shared.state();
                if state.closed {
                    return ReadNext::Stop;
                }
                if state.dropped && state.is_receiver_waiting {
                    return ReadNext::Restart(state.last_consumed.clone());
                }
                if !state.dropped && state.bytes <= max_bytes {
                    return ReadNext::Continue;
                }
                if !state.dropped && budget.has_waiters() && state.consumed_at.elapsed() >= STALE_AFTER {
                    tracing::debug!("unconsumed rows are dropped to free memory; they are read again on demand");
                    state.batches.clear();
                    (state.bytes, state.end, state.dropped) = (0, None, true);
                    return ReadNext::Release;
                }
            }
            // Polls, because waiters for memory do not notify this task.
            let _ = tokio::time::timeout(STALE_AFTER / 4, self.shared.receiver_changed.notified()).await;
        }
    }

    /// Continues after dropped rows: the next row follows the last consumed one.
    pub(super) fn restart(&mut self) {
        self.batch.clear();
        (self.bytes, self.last) = (0, None);
        self.shared.state().dropped = false;
    }

    /// Waits until the receiver is dropped.
    pub(super) async fn closed(&self) {
        while !self.shared.state().closed {
            self.shared.receiver_changed.notified().await;
        }
    }
}

impl Drop for RowSender {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if state.end.is_none() {
            state.end = Some(Err(SourceError::Unavailable("the read was aborted".to_owned())));
            drop(state);
            self.shared.sender_changed.notify_one();
        }
    }
}

/// The rows of a selection, in order. Dropping this stops the read.
pub struct Rows {
    shared: Arc<Shared>,
    /// Received by `peek`, and not yet returned.
    buffered: VecDeque<Vec<Row>>,
}

impl Rows {
    /// Waits for the first rows, without consuming them.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn peek(&mut self) -> Result<FirstRows, SourceError> {
        while self.buffered.len() < 2 {
            match self.batch().await? {
                Some(batch) => self.buffered.push_back(batch.rows),
                None => break,
            }
        }
        let rows = self.buffered.iter().map(|batch| batch.len() as u64).sum();
        Ok(FirstRows { rows, is_all: self.buffered.len() < 2 })
    }

    /// Returns the next rows; `None` at the end.
    ///
    /// # Errors
    /// The source is unavailable or rejects the query. Rows returned before are valid, and reading
    /// can resume after them.
    pub async fn next(&mut self) -> Result<Option<Vec<Row>>, SourceError> {
        match self.buffered.pop_front() {
            Some(batch) => Ok(Some(batch)),
            None => Ok(self.batch().await?.map(|batch| batch.rows)),
        }
    }

    /// The mapping that these rows were read with; known once [`peek`](Self::peek) or
    /// [`next`](Self::next) has returned.
    pub fn mapping(&self) -> Option<Arc<Mapping>> {
        self.shared.state().mapping.clone()
    }

    pub(super) async fn batch(&mut self) -> Result<Option<Batch>, SourceError> {
        loop {
            {
                let mut state = self.shared.state();
                if let Some(batch) = state.batches.pop_front() {
                    state.bytes -= batch.bytes;
                    state.last_consumed = batch.rows.last().map(|row| row.position.clone());
                    (state.consumed_at, state.is_receiver_waiting) = (Instant::now(), false);
                    drop(state);
                    self.shared.receiver_changed.notify_one();
                    return Ok(Some(batch));
                }
                if let Some(end) = &state.end {
                    return end.clone().map(|()| None);
                }
                state.is_receiver_waiting = true;
            }
            self.shared.receiver_changed.notify_one();
            self.shared.sender_changed.notified().await;
        }
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.closed = true;
        let batches = std::mem::take(&mut state.batches);
        drop(state);
        drop(batches);
        self.shared.receiver_changed.notify_one();
    }
}

/// The result of looking a device up.
pub(super) type LookUpResult = Result<Option<Device>, SourceError>;

/// A device that is being looked up and read.
pub struct OpenDevice {
    pub(super) device: oneshot::Receiver<LookUpResult>,
    pub rows: Rows,
}

impl OpenDevice {
    /// Returns the device, if it exists and is mounted on the thing.
    ///
    /// # Errors
    /// The source is unavailable or rejects the query.
    pub async fn device(&mut self) -> Result<Option<Device>, SourceError> {
        (&mut self.device)
            .await
            .unwrap_or_else(|_| Err(SourceError::Unavailable("the look-up of the device was aborted".to_owned())))
    }
}

/// The result of [`Rows::peek`].
#[derive(Debug, Clone, Copy)]
pub struct FirstRows {
    pub rows: u64,
    /// There are no further rows.
    pub is_all: bool,
}
