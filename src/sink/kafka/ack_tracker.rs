//! Tracks the rows of one job (sent, acknowledged or quarantined) in the order in which they were
//! read.
//!
//! From an acknowledgement to a stored checkpoint:
//!
//! 1. librdkafka reports a row (`DeliveryCallback` in `producer.rs`);
//! 2. [`AckTracker::record_delivery`] moves the ack watermark over it;
//! 3. the heartbeat (`worker/heartbeat.rs`) takes [`AckTracker::checkpoint`] when one is due;
//! 4. `Lease::checkpoint` (`crates/queue/src/lease.rs`) stores it, if the lease is still this
//!    attempt's;
//! 5. the next attempt starts with it: [`AckTracker::new`].

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{Delivery, KafkaError, SentRow, producer::Producer};
use crate::task::{Delivered, Position, Progress, QuarantinedRow, RowId};

/// Maximum quarantined rows that are not reported yet; at the limit, reading waits.
const MAX_UNREPORTED: usize = 2_000;

/// Timeout for the delivery reports of rows that were purged from the producer's queue.
const PURGE_TIMEOUT: Duration = Duration::from_millis(500);

/// Tracks the rows of one job. The ack watermark is the first row that is neither acknowledged nor
/// quarantined; the checkpoint and the counts cover only the rows before it.
#[derive(Debug)]
pub struct AckTracker {
    state: Mutex<State>,
    /// Notified when no row is in flight.
    drained: Notify,
    /// Notified when there are so many quarantined rows that they should be reported soon.
    flush_requested: Notify,
    /// Notified when quarantined rows were reported, or are about to be.
    capacity_freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Number of registered rows; also the number of the next row.
    registered: u64,
    /// Rows that the producer has not reported yet.
    in_flight: u64,
    /// Number of the row at the ack watermark.
    ack_watermark: u64,
    /// Quarantined rows at or after the ack watermark.
    quarantined_ahead: VecDeque<(u64, QuarantinedRow)>,
    /// The last row before the ack watermark.
    position: Option<Position>,
    published: u64,
    quarantined: u64,
    /// Where the published rows are, and their checksum.
    delivered: Delivered,
    /// Quarantined rows before the ack watermark that are not reported yet.
    unreported: Vec<QuarantinedRow>,
    /// Number of quarantined rows that are being reported.
    reporting: usize,
    failure: Option<KafkaError>,
    /// Number of the first failed row: rows before it can still be acknowledged and counted.
    failed: u64,
    /// Rows that were purged from the producer's queue: number and size in bytes.
    purged: Vec<(u64, usize)>,
    /// The producers that were used.
    producers: Vec<Weak<Producer>>,
    /// Start of the time in which rows were in flight and none was reported.
    unacknowledged_since: Option<Instant>,
}

impl AckTracker {
    /// Continues from the progress that an earlier attempt stored.
    pub fn new(progress: Progress) -> Self {
        Self {
            state: Mutex::new(State {
                position: progress.position,
                published: progress.published,
                quarantined: progress.quarantined,
                delivered: Delivered { settled: false, ..progress.delivered },
                failed: u64::MAX,
                ..State::default()
            }),
            drained: Notify::new(),
            flush_requested: Notify::new(),
            capacity_freed: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics in the middle of a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a row that is about to be sent; returns its number.
    ///
    /// # Errors
    /// An earlier row has failed.
    pub(super) fn register(&self) -> Result<u64, KafkaError> {
        let mut state = self.state();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        if state.in_flight == 0 {
            state.unacknowledged_since = Some(Instant::now());
        }
        state.in_flight += 1;
        state.registered += 1;
        Ok(state.registered - 1)
    }

    /// Registers a quarantined row; waits while too many are unreported.
    ///
    /// # Errors
    /// An earlier row has failed.
    pub async fn quarantine(&self, row: QuarantinedRow) -> Result<(), KafkaError> {
        loop {
            {
                let mut state = self.state();
                if let Some(failure) = &state.failure {
                    return Err(failure.clone());
                }
                if state.unreported.len() + state.reporting + state.quarantined_ahead.len() < MAX_UNREPORTED {
                    let number = state.registered;
                    state.registered += 1;
                    state.quarantined_ahead.push_back((number, row));
                    state.advance();
                    return Ok(());
                }
                if !state.unreported.is_empty() {
                    self.flush_requested.notify_one();
                }
            }
            self.capacity_freed.notified().await;
        }
    }

    /// Waits until quarantined rows should be reported ahead of the usual interval.
    pub async fn flush_requested(&self) {
        self.flush_requested.notified().await;
    }

    /// Records the delivery report of a row.
    pub(super) fn record_delivery(&self, row: SentRow, delivery: Delivery) {
        let mut state = self.state();
        state.in_flight -= 1;
        state.unacknowledged_since = None;
        let quarantined_before = state.quarantined_ahead.len();
        state.record_delivery(row, delivery);
        if quarantined_before != state.quarantined_ahead.len() || state.failure.is_some() {
            self.capacity_freed.notify_one();
        }
        if state.in_flight == 0 {
            self.drained.notify_one();
        }
    }

    /// Why the rows after the ack watermark were not delivered.
    pub fn failure(&self) -> Option<KafkaError> {
        self.state().failure.clone()
    }

    /// Waits until no row is in flight. Rows that are sent again afterwards cannot be reordered
    /// with them.
    ///
    /// # Errors
    /// A row has failed; the rows before it are acknowledged.
    pub async fn drained(&self) -> Result<(), KafkaError> {
        self.wait_until_drained().await;
        self.failure().map_or(Ok(()), Err)
    }

    /// Whether rows are in flight.
    pub fn has_in_flight(&self) -> bool {
        self.state().in_flight > 0
    }

    /// Quarantined rows so far, including those after rows in flight.
    pub fn quarantined(&self) -> u64 {
        let state = self.state();
        state.quarantined + state.quarantined_ahead.len() as u64
    }

    /// The counts, without a position.
    pub fn counts(&self) -> Progress {
        let state = self.state();
        Progress { published: state.published, quarantined: state.quarantined, ..Progress::default() }
    }

    /// How long rows have been in flight without any delivery report. It is measured between calls,
    /// so it must be called regularly, and is too short by at most the time between two calls.
    pub fn ack_silence(&self) -> Option<Duration> {
        let mut state = self.state();
        if state.in_flight == 0 {
            return None;
        }
        Some(state.unacknowledged_since.get_or_insert_with(Instant::now).elapsed())
    }

    /// Registers a producer that is about to be used.
    pub(super) fn use_producer(&self, producer: &Arc<Producer>) {
        let mut state = self.state();
        let producer = Arc::downgrade(producer);
        if !state.producers.iter().any(|known| known.ptr_eq(&producer)) {
            state.producers.retain(|known| known.strong_count() > 0);
            state.producers.push(producer);
        }
    }

    /// Aborts the rows in flight: unsent rows are purged, and no further row is accepted. Returns
    /// the maximum number of rows that may have been sent without a response; they may still
    /// arrive.
    ///
    /// The rows of other jobs in the same producers are purged too; these jobs send them again
    /// through a new producer.
    pub async fn abort(&self) -> u64 {
        let (producers, none_in_flight) = {
            let mut state = self.state();
            state.fail(u64::MAX, KafkaError::ProducerReplaced);
            (std::mem::take(&mut state.producers), state.in_flight == 0)
        };
        if none_in_flight {
            return 0;
        }
        let producers: Vec<Arc<Producer>> = producers.iter().filter_map(Weak::upgrade).collect();
        let max_unacknowledged_bytes = producers.iter().map(|producer| producer.max_unacknowledged_bytes()).sum();
        for producer in producers {
            producer.retire();
        }
        // Rows on the wire are not reported while the broker is unavailable.
        let _ = tokio::time::timeout(PURGE_TIMEOUT, self.wait_until_drained()).await;
        self.state().count_maybe_sent(max_unacknowledged_bytes)
    }

    async fn wait_until_drained(&self) {
        while self.state().in_flight > 0 {
            // A permit stored by an earlier notification only costs one more iteration.
            self.drained.notified().await;
        }
    }

    /// Clears the failure and the rows after the ack watermark, which are to be read again. No row
    /// may be in flight.
    pub fn restart(&self) {
        let mut state = self.state();
        state.failure = None;
        state.failed = u64::MAX;
        state.purged.clear();
        state.quarantined_ahead.clear();
        state.registered = state.ack_watermark;
    }

    /// Discards the progress of an earlier attempt: everything after `position` is read and counted
    /// again. No row may be registered yet.
    pub fn restart_from(&self, position: Position) {
        let mut state = self.state();
        state.position = Some(position);
        (state.published, state.quarantined) = (0, 0);
        state.delivered.restart();
    }

    /// The position of the last row before the ack watermark, to be stored as a checkpoint.
    pub fn position(&self) -> Option<Position> {
        self.state().position.clone()
    }

    /// Rows before the ack watermark.
    pub fn rows(&self) -> u64 {
        let state = self.state();
        state.published + state.quarantined
    }

    /// The progress up to the ack watermark, to decide whether a checkpoint is due.
    pub fn progress(&self) -> Progress {
        self.state().progress()
    }

    /// Whether quarantined rows before the ack watermark are to be reported.
    pub fn has_unreported(&self) -> bool {
        !self.state().unreported.is_empty()
    }

    /// The sink's part of a checkpoint: what may be stored now. The caller stores it, and then calls
    /// [`confirm_reported`](Self::confirm_reported) or [`requeue`](Self::requeue). An acknowledged row
    /// of an idempotent producer is in the topic for good, so nothing is to be done here; a producer
    /// with transactions would commit (decision 24).
    pub fn checkpoint(&self) -> (Progress, Vec<QuarantinedRow>) {
        let mut state = self.state();
        let rows = std::mem::take(&mut state.unreported);
        state.reporting = rows.len();
        (state.progress(), rows)
    }

    /// The quarantined rows were reported.
    pub fn confirm_reported(&self) {
        self.state().reporting = 0;
        self.capacity_freed.notify_one();
    }

    /// Takes back quarantined rows that could not be reported.
    pub fn requeue(&self, mut rows: Vec<QuarantinedRow>) {
        let mut state = self.state();
        state.reporting = 0;
        rows.append(&mut state.unreported);
        state.unreported = rows;
    }
}

impl State {
    fn progress(&self) -> Progress {
        let Self { position, published, quarantined, delivered, .. } = self;
        Progress { position: position.clone(), published: *published, quarantined: *quarantined, delivered: delivered.clone() }
    }

    fn fail(&mut self, number: u64, error: KafkaError) {
        self.failed = self.failed.min(number);
        self.failure.get_or_insert(error);
    }

    fn record_delivery(&mut self, row: SentRow, delivery: Delivery) {
        let number = row.number;
        match delivery {
            Delivery::Failed(error) => self.fail(number, error),
            Delivery::Purged(bytes) => {
                self.purged.push((number, bytes));
                self.fail(number, KafkaError::ProducerReplaced);
            }
            // The ack watermark stays before the first failed row, and the rows from there on are
            // sent again. Rows are purged from the queue while rows before them are still on the
            // wire.
            _ if self.failure.is_some() && (number != self.ack_watermark || number > self.failed) => {
                self.count_repeated(&delivery);
            }
            // An idempotent producer acknowledges the messages of a partition in order. If it ever
            // did not, moving the watermark would claim rows that are not in the topic.
            _ if number != self.ack_watermark => {
                self.count_repeated(&delivery);
                self.fail(
                    number,
                    KafkaError::Unavailable(format!("row {number} was acknowledged before row {}", self.ack_watermark)),
                );
            }
            Delivery::Acknowledged { partition, offset } => {
                let SentRow { position, instant_us, hash, .. } = row;
                self.delivered.add(RowId { instant_us, key: position.key.clone() }, hash, partition, offset);
                self.published += 1;
                self.ack_watermark += 1;
                self.position = Some(position);
                self.advance();
            }
            Delivery::TooLarge(bytes) => {
                let reason = format!("its document of {bytes} bytes is too large for the topic (max.message.bytes)");
                self.quarantined_ahead.push_front((number, QuarantinedRow { position: row.position, reason }));
                self.advance();
            }
        }
    }

    /// Counts a row that is in the topic and will be sent again.
    fn count_repeated(&mut self, delivery: &Delivery) {
        if matches!(delivery, Delivery::Acknowledged { .. }) {
            self.delivered.repeated += 1;
        }
    }

    /// Moves the ack watermark over quarantined rows.
    fn advance(&mut self) {
        while let Some((_, row)) = self.quarantined_ahead.pop_front_if(|(number, _)| *number == self.ack_watermark) {
            self.ack_watermark += 1;
            self.quarantined += 1;
            self.position = Some(row.position.clone());
            self.unreported.push(row);
        }
    }

    /// Counts the rows that may have been sent without a response: all in flight, and the first of
    /// the purged rows, which may have been waiting for a retry. At most `max_unacknowledged_bytes`
    /// are ever sent without a response.
    fn count_maybe_sent(&mut self, max_unacknowledged_bytes: usize) -> u64 {
        self.purged.sort_unstable();
        let mut bytes = 0;
        let maybe_sent = self.purged.iter().take_while(|(_, size)| {
            let fits = bytes < max_unacknowledged_bytes;
            bytes += size;
            fits
        });
        self.in_flight + maybe_sent.count() as u64
    }
}

#[cfg(test)]
#[path = "ack_tracker_tests.rs"]
mod tests;
