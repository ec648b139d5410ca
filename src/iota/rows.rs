//! Rows on their way from the store to who publishes them: a short queue of batches.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::{Device, Row, StoreError, convoy::Found};

/// Rows on their way out, handed on in batches.
pub(super) struct Out {
    batches: mpsc::Sender<Result<Vec<Row>, StoreError>>,
    batch: Vec<Row>,
    bytes: usize,
}

impl Out {
    /// A batch is handed on when it has so many rows or bytes.
    const ROWS: usize = 512;
    pub(super) const BYTES: usize = 256 * 1_024;
    /// Batches read ahead, while the one before is being published.
    pub(super) const AHEAD: usize = 2;

    /// Holds so many batches that nobody has taken yet.
    pub(super) fn new(ahead: usize) -> (Self, Rows) {
        let (batches, receiver) = mpsc::channel(ahead);
        (Self { batches, batch: Vec::new(), bytes: 0 }, Rows { batches: receiver, begun: VecDeque::new() })
    }

    /// Adds a row. `false`: nobody wants more.
    pub(super) async fn push(&mut self, row: Row) -> bool {
        self.bytes += row.doc.as_ref().map_or(0, Bytes::len);
        self.batch.push(row);
        if self.batch.len() < Self::ROWS && self.bytes < Self::BYTES {
            return true;
        }
        self.flush().await
    }

    /// Hands on what there is. `false`: nobody wants more.
    pub(super) async fn flush(&mut self) -> bool {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        batch.is_empty() || self.batches.send(Ok(batch)).await.is_ok()
    }

    /// Hands on a batch of another. `false`: nobody wants more.
    pub(super) async fn pass(&mut self, batch: Vec<Row>) -> bool {
        self.flush().await && self.batches.send(Ok(batch)).await.is_ok()
    }

    /// Hands on what there is, and that no more can be had.
    pub(super) async fn fail(mut self, error: StoreError) {
        self.flush().await;
        let _ = self.batches.send(Err(error)).await;
    }

    /// Waits until nobody wants more.
    pub(super) async fn unwanted(&self) {
        self.batches.closed().await;
    }
}

/// The rows of a selection, in order. Dropping it ends the reading.
pub struct Rows {
    batches: mpsc::Receiver<Result<Vec<Row>, StoreError>>,
    /// Received, and not returned yet.
    begun: VecDeque<Vec<Row>>,
}

impl Rows {
    /// Waits for the first rows, which [`next`](Self::next) returns then.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn begin(&mut self) -> Result<Beginning, StoreError> {
        while self.begun.len() < 2 {
            match self.batches.recv().await.transpose()? {
                Some(batch) => self.begun.push_back(batch),
                None => break,
            }
        }
        let rows = self.begun.iter().map(|batch| batch.len() as u64).sum();
        Ok(Beginning { rows, is_all: self.begun.len() < 2 })
    }

    /// The next rows; `None` after the last.
    ///
    /// # Errors
    /// The store is away or refuses; rows that were returned before are good, and reading can go on after them.
    pub async fn next(&mut self) -> Result<Option<Vec<Row>>, StoreError> {
        match self.begun.pop_front() {
            Some(batch) => Ok(Some(batch)),
            None => self.batches.recv().await.transpose(),
        }
    }
}

/// A device whose rows are being read.
pub struct Opened {
    pub(super) device: oneshot::Receiver<Found>,
    pub rows: Rows,
}

impl Opened {
    /// The device, if there is one of this id on this thing.
    ///
    /// # Errors
    /// The store is away or refuses.
    pub async fn device(&mut self) -> Result<Option<Device>, StoreError> {
        (&mut self.device).await.unwrap_or_else(|_| Err(StoreError::Away("the look-up of the device was given up".to_owned())))
    }
}

/// What is known once the first rows are there.
#[derive(Debug, Clone, Copy)]
pub struct Beginning {
    pub rows: u64,
    /// There are no more than these.
    pub is_all: bool,
}
