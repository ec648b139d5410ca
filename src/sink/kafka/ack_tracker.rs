//! What became of a job's rows: sent, acknowledged or held back, in the order in which they were read.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{KafkaError, producer::Producer};
use crate::{
    source::Key,
    task::{Position, Progress, QuarantinedRow},
};

/// Rows held back and not reported yet, at the most; then reading waits.
const MAX_UNREPORTED: usize = 2_000;

/// How long the answers may take for rows that were dropped before they were sent.
const DROP_TIMEOUT: Duration = Duration::from_millis(500);

/// The account of one job's rows. The frontier is the first row that is neither acknowledged nor held back; cursor and
/// counts are about the rows before it, so they never claim too much.
#[derive(Debug)]
pub struct AckTracker {
    state: Mutex<State>,
    /// Told when no row is on its way any more.
    drained: Notify,
    /// Told when so many held-back rows wait that they should be reported soon.
    flush_requested: Notify,
    /// Told when held-back rows were reported, or come nearer to it.
    capacity_freed: Notify,
}

#[derive(Debug)]
struct State {
    /// Rows taken into account; the next has this number.
    registered: u64,
    /// Rows handed to the producer that it has said nothing of yet.
    in_flight: u64,
    /// The number of the row at the frontier.
    ack_watermark: u64,
    /// Rows behind the frontier that were held back before they were sent.
    quarantined_ahead: VecDeque<(u64, QuarantinedRow)>,
    /// The last row before the frontier.
    last_row: Option<LastRow>,
    published: u64,
    quarantined: u64,
    /// Held back, before the frontier, and not reported yet.
    unreported: Vec<QuarantinedRow>,
    /// As many more are being reported just now.
    reporting: usize,
    failure: Option<KafkaError>,
    /// The first row that failed: those before it may still be acknowledged, and count.
    failed: u64,
    /// Rows that were dropped from the producer's queue: number and size.
    dropped: Vec<(u64, usize)>,
    /// The producers that rows were handed to.
    producers: Vec<Weak<Producer>>,
    /// Since when rows are on their way with none answered.
    silent_since: Option<Instant>,
}

#[derive(Debug)]
enum LastRow {
    /// Where an earlier worker got to, or a held-back row.
    At(Position),
    /// A row that was acknowledged; written as text only when it is asked for.
    Row { time_us: i64, key: Key },
}

/// How a row that was sent came back.
#[derive(Debug)]
pub enum Delivery {
    Acknowledged,
    /// The broker refused the message for its size, alone in its batch.
    TooLarge(usize),
    /// It was dropped from the producer's queue; so many bytes. It may have been sent before, without an answer.
    Dropped(usize),
    Failed(KafkaError),
}

impl AckTracker {
    /// Goes on from what an earlier worker stored.
    pub fn new(progress: Progress) -> Self {
        Self {
            state: Mutex::new(State {
                registered: 0,
                in_flight: 0,
                ack_watermark: 0,
                quarantined_ahead: VecDeque::new(),
                last_row: progress.cursor.map(LastRow::At),
                published: progress.published,
                quarantined: progress.quarantined,
                unreported: Vec::new(),
                reporting: 0,
                failure: None,
                failed: u64::MAX,
                dropped: Vec::new(),
                producers: Vec::new(),
                silent_since: None,
            }),
            drained: Notify::new(),
            flush_requested: Notify::new(),
            capacity_freed: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a row into account that is about to be sent; returns its number.
    ///
    /// # Errors
    /// A row before it has failed.
    pub(super) fn register(&self) -> Result<u64, KafkaError> {
        let mut state = self.state();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        if state.in_flight == 0 {
            state.silent_since = Some(Instant::now());
        }
        state.in_flight += 1;
        state.registered += 1;
        Ok(state.registered - 1)
    }

    /// Takes a row into account that is held back; waits while too many are not reported yet.
    ///
    /// # Errors
    /// A row before it has failed.
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

    /// Waits until held-back rows should be reported before it is time.
    pub async fn flush_requested(&self) {
        self.flush_requested.notified().await;
    }

    /// Notes what became of a row that was sent.
    pub(super) fn complete(&self, number: u64, time_us: i64, key: Key, how: Delivery) {
        let mut state = self.state();
        state.in_flight -= 1;
        state.silent_since = None;
        let waiting = state.quarantined_ahead.len();
        state.complete(number, time_us, key, how);
        if waiting != state.quarantined_ahead.len() || state.failure.is_some() {
            self.capacity_freed.notify_one();
        }
        if state.in_flight == 0 {
            self.drained.notify_one();
        }
    }

    /// Why the rows behind the frontier did not arrive.
    pub fn failure(&self) -> Option<KafkaError> {
        self.state().failure.clone()
    }

    /// Waits until no row is on its way any more. Whoever sends the rest again afterwards can't be overtaken by them.
    ///
    /// # Errors
    /// A row has failed; those before it are good.
    pub async fn drained(&self) -> Result<(), KafkaError> {
        self.wait_until_drained().await;
        self.failure().map_or(Ok(()), Err)
    }

    /// Whether rows are handed over that nothing is known of yet.
    pub fn has_in_flight(&self) -> bool {
        self.state().in_flight > 0
    }

    /// Rows held back so far, those behind rows that are still on their way too.
    pub fn quarantined(&self) -> u64 {
        let state = self.state();
        state.quarantined + state.quarantined_ahead.len() as u64
    }

    /// The counts alone, with no cursor.
    pub fn counts(&self) -> Progress {
        let state = self.state();
        Progress { cursor: None, published: state.published, quarantined: state.quarantined }
    }

    /// How long rows have been on their way with none of them answered. It is measured from one call to the next, so it must
    /// be asked for regularly, and says too little by at most the time between two calls.
    pub fn ack_silence(&self) -> Option<Duration> {
        let mut state = self.state();
        if state.in_flight == 0 {
            return None;
        }
        Some(state.silent_since.get_or_insert_with(Instant::now).elapsed())
    }

    /// Rows are about to be handed to this producer.
    pub(super) fn use_producer(&self, producer: &Arc<Producer>) {
        let mut state = self.state();
        let producer = Arc::downgrade(producer);
        if !state.producers.iter().any(|known| known.ptr_eq(&producer)) {
            state.producers.retain(|known| known.strong_count() > 0);
            state.producers.push(producer);
        }
    }

    /// Gives up the rows on their way: those that were not sent are dropped, and no row is taken any more. Returns how many
    /// rows may have been sent without an answer, at the most; they may still arrive.
    ///
    /// The rows of other jobs that wait in the same producers are dropped with them; these jobs send them again through a
    /// new producer.
    pub async fn abort(&self) -> u64 {
        let (producers, unsent) = {
            let mut state = self.state();
            state.fail(u64::MAX, KafkaError::ProducerReplaced);
            (std::mem::take(&mut state.producers), state.in_flight == 0)
        };
        if unsent {
            return 0;
        }
        let producers: Vec<Arc<Producer>> = producers.iter().filter_map(Weak::upgrade).collect();
        let sendable = producers.iter().map(|producer| producer.sendable_bytes()).sum();
        for producer in producers {
            producer.retire();
        }
        // Those that are on the wire just now are not answered while the broker is away.
        let _ = tokio::time::timeout(DROP_TIMEOUT, self.wait_until_drained()).await;
        self.state().unanswered(sendable)
    }

    async fn wait_until_drained(&self) {
        while self.state().in_flight > 0 {
            // A permit of an earlier change only makes the loop look once more.
            self.drained.notified().await;
        }
    }

    /// Forgets a failure and the rows behind the frontier, which are to be read again. No row is on its way.
    pub fn restart(&self) {
        let mut state = self.state();
        state.failure = None;
        state.failed = u64::MAX;
        state.dropped.clear();
        state.quarantined_ahead.clear();
        state.registered = state.ack_watermark;
    }

    /// Forgets what an earlier worker got to: everything after `cursor` is read again, and counted again. No row was taken yet.
    pub fn restart_from(&self, cursor: Position) {
        let mut state = self.state();
        state.last_row = Some(LastRow::At(cursor));
        (state.published, state.quarantined) = (0, 0);
    }

    /// The last row before the frontier.
    pub fn cursor(&self) -> Option<Position> {
        self.state().cursor()
    }

    /// Rows before the frontier.
    pub fn rows(&self) -> u64 {
        let state = self.state();
        state.published + state.quarantined
    }

    /// Cursor and counts at this moment, and the rows held back that are to be reported with them: then
    /// [`confirm`](Self::confirm_reported) or [`unreport`](Self::requeue) them.
    pub fn progress(&self) -> (Progress, Vec<QuarantinedRow>) {
        let mut state = self.state();
        let progress = Progress { cursor: state.cursor(), published: state.published, quarantined: state.quarantined };
        let held = std::mem::take(&mut state.unreported);
        state.reporting = held.len();
        (progress, held)
    }

    /// The rows held back are reported.
    pub fn confirm_reported(&self) {
        self.state().reporting = 0;
        self.capacity_freed.notify_one();
    }

    /// Puts back rows that could not be reported.
    pub fn requeue(&self, mut rows: Vec<QuarantinedRow>) {
        let mut state = self.state();
        state.reporting = 0;
        rows.append(&mut state.unreported);
        state.unreported = rows;
    }
}

impl State {
    fn fail(&mut self, number: u64, error: KafkaError) {
        self.failed = self.failed.min(number);
        self.failure.get_or_insert(error);
    }

    fn complete(&mut self, number: u64, time_us: i64, key: Key, how: Delivery) {
        match how {
            Delivery::Failed(error) => self.fail(number, error),
            Delivery::Dropped(bytes) => {
                self.dropped.push((number, bytes));
                self.fail(number, KafkaError::ProducerReplaced);
            }
            // The frontier stays before the first row that failed, and the rows from there on go out again. Rows are dropped
            // from the queue while those before them are still on the wire.
            _ if self.failure.is_some() && (number != self.ack_watermark || number > self.failed) => {}
            // An idempotent producer acknowledges a partition's messages in their order. Were it ever otherwise, a
            // cursor set here would claim rows that are not in the topic.
            _ if number != self.ack_watermark => {
                self.fail(number, KafkaError::Unavailable(format!("row {number} was settled before row {}", self.ack_watermark)));
            }
            Delivery::Acknowledged => {
                self.published += 1;
                self.ack_watermark += 1;
                self.last_row = Some(LastRow::Row { time_us, key });
                self.advance();
            }
            Delivery::TooLarge(bytes) => {
                let reason = format!("its document of {bytes} bytes is too large for the topic (max.message.bytes)");
                let position = Position { time_us, key: key.to_string() };
                self.quarantined_ahead.push_front((number, QuarantinedRow { position, reason }));
                self.advance();
            }
        }
    }

    /// Moves the frontier over rows that were held back.
    fn advance(&mut self) {
        while let Some((_, row)) = self.quarantined_ahead.pop_front_if(|(number, _)| *number == self.ack_watermark) {
            self.ack_watermark += 1;
            self.quarantined += 1;
            self.last_row = Some(LastRow::At(row.position.clone()));
            self.unreported.push(row);
        }
    }

    /// Rows that may have been sent without an answer: all that are on their way, and of those that were dropped the first
    /// ones, which may have waited to be sent again. No more than `sendable` bytes are ever sent without an answer.
    fn unanswered(&mut self, sendable: usize) -> u64 {
        self.dropped.sort_unstable();
        let mut bytes = 0;
        let sent = self.dropped.iter().take_while(|(_, size)| {
            let fits = bytes < sendable;
            bytes += size;
            fits
        });
        self.in_flight + sent.count() as u64
    }

    fn cursor(&self) -> Option<Position> {
        self.last_row.as_ref().map(|last| match last {
            LastRow::At(position) => position.clone(),
            LastRow::Row { time_us, key } => Position { time_us: *time_us, key: key.to_string() },
        })
    }
}

#[cfg(test)]
#[path = "ack_tracker_tests.rs"]
mod tests;
