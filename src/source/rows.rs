//! Rows on their way from the store to who publishes them: a queue of batches.
//!
//! Who reads never waits here, since a statement on the store is open meanwhile: what comes of a page is queued, and the
//! page's size and the [`Budget`] bound it. Before the next page the reader waits until this one is nearly taken. Rows
//! that nobody takes while others wait for memory are dropped, and read again when they are wanted.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, oneshot};

use super::{
    Device, Key, Mapping, Row, SourceError,
    budget::{Budget, Share},
};
use crate::task::Position;

/// Rows that nobody has taken for so long are dropped when others wait for memory.
const STALE_AFTER: Duration = Duration::from_secs(2);

/// Some rows, and their share of the memory.
pub(super) struct Batch {
    rows: Vec<Row>,
    bytes: usize,
    share: Share,
}

struct State {
    batches: VecDeque<Batch>,
    bytes: usize,
    /// No more come; or why not.
    end: Option<Result<(), SourceError>>,
    /// Nobody takes them any more.
    closed: bool,
    /// What nobody took was dropped, and is to be read again.
    dropped: bool,
    /// The receiver waits for rows.
    wanted: bool,
    /// The row that was taken last, or that the reading goes on after.
    taken: Option<Position>,
    taken_at: Instant,
    mapping: Option<Arc<Mapping>>,
}

struct Shared {
    state: Mutex<State>,
    /// Something came.
    came: Notify,
    /// Something was taken, is wanted, or nobody wants more.
    went: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is locked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rows on their way out, handed on in batches.
pub(super) struct RowSender {
    shared: Arc<Shared>,
    batch: Vec<Row>,
    bytes: usize,
    /// Memory for what is still to come.
    share: Share,
    /// The last row of the last batch.
    last: Option<(i64, Key)>,
}

/// What a reader is to do once its rows are nearly taken.
pub(super) enum Next {
    /// Read on.
    More,
    /// Read again after this row: what came after it was dropped.
    Again(Option<Position>),
    /// Nobody wants more.
    Nothing,
}

impl RowSender {
    /// A batch is handed on when it has so many rows or bytes.
    const ROWS: usize = 512;
    const BYTES: usize = 256 * 1_024;
    /// Bytes that are still there when the next page is begun.
    pub(super) const LOW: usize = 2 * Self::BYTES;

    /// For rows after this one.
    pub(super) fn new(after: Option<Position>) -> (Self, Rows) {
        let state = State {
            batches: VecDeque::new(),
            bytes: 0,
            end: None,
            closed: false,
            dropped: false,
            wanted: false,
            taken: after,
            taken_at: Instant::now(),
            mapping: None,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), came: Notify::new(), went: Notify::new() });
        let out = Self { shared: Arc::clone(&shared), batch: Vec::new(), bytes: 0, share: Share::none(), last: None };
        (out, Rows { shared, begun: VecDeque::new() })
    }

    /// Says how the rows are read that come next.
    pub(super) fn set_mapping(&self, mapping: &Arc<Mapping>) {
        self.shared.state().mapping = Some(Arc::clone(mapping));
    }

    /// How the rows were read that came before, if there were any.
    pub(super) fn mapping(&self) -> Option<Arc<Mapping>> {
        self.shared.state().mapping.clone()
    }

    /// Memory for the rows that come next.
    pub(super) fn set_share(&mut self, share: Share) {
        self.share = share;
    }

    /// Adds a row. `false`: nobody wants more.
    pub(super) fn push(&mut self, row: Row) -> bool {
        self.bytes += row.bytes();
        self.batch.push(row);
        if self.batch.len() < Self::ROWS && self.bytes < Self::BYTES {
            return true;
        }
        self.flush()
    }

    /// Hands on what there is. `false`: nobody wants more.
    pub(super) fn flush(&mut self) -> bool {
        let bytes = std::mem::take(&mut self.bytes);
        let rows = std::mem::take(&mut self.batch);
        if rows.is_empty() {
            return !self.shared.state().closed;
        }
        let share = self.share.split(bytes);
        self.forward(Batch { rows, bytes, share })
    }

    /// Hands on a batch of another. `false`: nobody wants more.
    pub(super) fn forward(&mut self, batch: Batch) -> bool {
        self.last = batch.rows.last().map(|row| (row.time_us, row.key.clone()));
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
        self.shared.came.notify_one();
        true
    }

    /// The memory that its rows did not need.
    pub(super) fn take_share(&mut self) -> Share {
        self.flush();
        std::mem::replace(&mut self.share, Share::none())
    }

    /// No more rows come of this page: gives the rest of its memory back. The last row handed on, if there was any.
    pub(super) fn page_ends(&mut self) -> Option<Position> {
        self.flush();
        self.share = Share::none();
        self.last.take().map(|(time_us, key)| Position { time_us, key: key.to_string() })
    }

    /// Says that no more come, or why not; what was handed on before is good.
    pub(super) fn end(&mut self, end: Result<(), SourceError>) {
        self.page_ends();
        self.shared.state().end = Some(end);
        self.shared.came.notify_one();
    }

    /// Lets go of memory that is too little to be counted.
    pub(super) fn uncount(&mut self) {
        let mut state = self.shared.state();
        for batch in &mut state.batches {
            batch.share = Share::none();
        }
    }

    /// Bytes that nobody has taken yet.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.shared.state().bytes
    }

    /// Waits until at most so many bytes are left, or what is left was dropped and is wanted again. Cancel-safe.
    pub(super) async fn taken(&self, most: usize, budget: &Budget) -> Next {
        loop {
            {
                let mut state = self.shared.state();
                if state.closed {
                    return Next::Nothing;
                }
                if state.dropped && state.wanted {
                    return Next::Again(state.taken.clone());
                }
                if !state.dropped && state.bytes <= most {
                    return Next::More;
                }
                if !state.dropped && budget.is_short() && state.taken_at.elapsed() >= STALE_AFTER {
                    tracing::debug!("rows that nobody takes are dropped, and read again when they are wanted");
                    state.batches.clear();
                    (state.bytes, state.end, state.dropped) = (0, None, true);
                }
            }
            // A look now and then: that others wait for memory, nobody tells.
            let _ = tokio::time::timeout(STALE_AFTER / 4, self.shared.went.notified()).await;
        }
    }

    /// The rows that were dropped are read again from here on.
    pub(super) fn restart(&mut self) {
        self.batch.clear();
        (self.bytes, self.last) = (0, None);
        self.shared.state().dropped = false;
    }

    /// Waits until nobody wants more.
    pub(super) async fn closed(&self) {
        while !self.shared.state().closed {
            self.shared.went.notified().await;
        }
    }
}

impl Drop for RowSender {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if state.end.is_none() {
            state.end = Some(Err(SourceError::Unavailable("the reading was given up".to_owned())));
            drop(state);
            self.shared.came.notify_one();
        }
    }
}

/// The rows of a selection, in order. Dropping it ends the reading.
pub struct Rows {
    shared: Arc<Shared>,
    /// Received, and not returned yet.
    begun: VecDeque<Vec<Row>>,
}

impl Rows {
    /// Waits for the first rows, which [`next`](Self::next) returns then.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn peek(&mut self) -> Result<FirstRows, SourceError> {
        while self.begun.len() < 2 {
            match self.batch().await? {
                Some(batch) => self.begun.push_back(batch.rows),
                None => break,
            }
        }
        let rows = self.begun.iter().map(|batch| batch.len() as u64).sum();
        Ok(FirstRows { rows, is_all: self.begun.len() < 2 })
    }

    /// The next rows; `None` after the last.
    ///
    /// # Errors
    /// The store is away or refuses; rows that were returned before are good, and reading can go on after them.
    pub async fn next(&mut self) -> Result<Option<Vec<Row>>, SourceError> {
        match self.begun.pop_front() {
            Some(batch) => Ok(Some(batch)),
            None => Ok(self.batch().await?.map(|batch| batch.rows)),
        }
    }

    /// How the tables were laid out when these rows were read; known once [`begin`](Self::peek) or
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
                    state.taken = batch.rows.last().map(Row::position);
                    (state.taken_at, state.wanted) = (Instant::now(), false);
                    drop(state);
                    self.shared.went.notify_one();
                    return Ok(Some(batch));
                }
                if let Some(end) = &state.end {
                    return end.clone().map(|()| None);
                }
                state.wanted = true;
            }
            self.shared.went.notify_one();
            self.shared.came.notified().await;
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
        self.shared.went.notify_one();
    }
}

/// What the look-up of a device found.
pub(super) type Found = Result<Option<Device>, SourceError>;

/// A device whose rows are being read.
pub struct OpenDevice {
    pub(super) device: oneshot::Receiver<Found>,
    pub rows: Rows,
}

impl OpenDevice {
    /// The device, if there is one of this id on this thing.
    ///
    /// # Errors
    /// The store is away or refuses.
    pub async fn device(&mut self) -> Result<Option<Device>, SourceError> {
        (&mut self.device)
            .await
            .unwrap_or_else(|_| Err(SourceError::Unavailable("the look-up of the device was given up".to_owned())))
    }
}

/// What is known once the first rows are there.
#[derive(Debug, Clone, Copy)]
pub struct FirstRows {
    pub rows: u64,
    /// There are no more than these.
    pub is_all: bool,
}
