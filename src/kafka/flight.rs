//! What became of a job's rows: sent, acknowledged or held back, in the order in which they were read.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::KafkaError;
use crate::{
    iota::Key,
    task::{HeldRow, Position, Progress},
};

/// Rows held back and not reported yet, at the most; then reading waits.
const UNREPORTED: usize = 2_000;

/// The account of one job's rows. The frontier is the first row that is neither acknowledged nor held back; cursor and
/// counts are about the rows before it, so they never claim too much.
#[derive(Debug)]
pub struct Flight {
    state: Mutex<State>,
    /// Told when no row is on its way any more.
    landed: Notify,
    /// Told when so many held-back rows wait that they should be reported soon.
    crowded: Notify,
    /// Told when held-back rows were reported, or come nearer to it.
    moved: Notify,
}

#[derive(Debug)]
struct State {
    /// Rows taken into account; the next has this number.
    taken: u64,
    /// Rows handed to the producer that it has said nothing of yet.
    on_their_way: u64,
    /// When something was heard of a row, or the first of those on their way was sent.
    heard_at: Instant,
    /// The number of the row at the frontier.
    frontier: u64,
    /// Rows behind the frontier that were held back before they were sent.
    waiting: VecDeque<(u64, HeldRow)>,
    /// The last row before the frontier.
    last: Option<Last>,
    published: u64,
    held: u64,
    /// Held back, before the frontier, and not reported yet.
    unreported: Vec<HeldRow>,
    /// As many more are being reported just now.
    in_report: usize,
    failure: Option<KafkaError>,
}

#[derive(Debug)]
enum Last {
    /// Where an earlier worker got to, or a held-back row.
    At(Position),
    /// A row that was acknowledged; written as text only when it is asked for.
    Row { time_us: i64, key: Key },
}

/// How a row that was sent came back.
#[derive(Debug)]
pub enum Settled {
    Acknowledged,
    /// The broker refused the message for its size, alone in its batch.
    TooLarge(usize),
    Failed(KafkaError),
}

impl Flight {
    /// Goes on from what an earlier worker stored.
    pub fn new(progress: Progress) -> Self {
        Self {
            state: Mutex::new(State {
                taken: 0,
                on_their_way: 0,
                heard_at: Instant::now(),
                frontier: 0,
                waiting: VecDeque::new(),
                last: progress.cursor.map(Last::At),
                published: progress.published,
                held: progress.held,
                unreported: Vec::new(),
                in_report: 0,
                failure: None,
            }),
            landed: Notify::new(),
            crowded: Notify::new(),
            moved: Notify::new(),
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
    pub(super) fn take(&self) -> Result<u64, KafkaError> {
        let mut state = self.state();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        if state.on_their_way == 0 {
            state.heard_at = Instant::now();
        }
        state.on_their_way += 1;
        state.taken += 1;
        Ok(state.taken - 1)
    }

    /// Takes a row into account that is held back; waits while too many are not reported yet.
    ///
    /// # Errors
    /// A row before it has failed.
    pub async fn hold(&self, row: HeldRow) -> Result<(), KafkaError> {
        loop {
            {
                let mut state = self.state();
                if let Some(failure) = &state.failure {
                    return Err(failure.clone());
                }
                if state.unreported.len() + state.in_report + state.waiting.len() < UNREPORTED {
                    let number = state.taken;
                    state.taken += 1;
                    state.waiting.push_back((number, row));
                    state.advance();
                    return Ok(());
                }
                if !state.unreported.is_empty() {
                    self.crowded.notify_one();
                }
            }
            self.moved.notified().await;
        }
    }

    /// Waits until held-back rows should be reported before it is time.
    pub async fn crowded(&self) {
        self.crowded.notified().await;
    }

    /// Notes what became of a row that was sent.
    pub(super) fn settle(&self, number: u64, time_us: i64, key: Key, how: Settled) {
        let mut state = self.state();
        state.on_their_way -= 1;
        state.heard_at = Instant::now();
        let waiting = state.waiting.len();
        state.settle(number, time_us, key, how);
        if waiting != state.waiting.len() || state.failure.is_some() {
            self.moved.notify_one();
        }
        if state.on_their_way <= 1 {
            self.landed.notify_one();
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
    pub async fn settled(&self) -> Result<(), KafkaError> {
        self.at_most_on_their_way(0).await;
        self.failure().map_or(Ok(()), Err)
    }

    /// Whether rows are handed over that nothing is known of yet.
    pub fn is_waiting(&self) -> bool {
        self.state().on_their_way > 0
    }

    /// The counts alone, with no cursor.
    pub fn counts(&self) -> Progress {
        let state = self.state();
        Progress { cursor: None, published: state.published, held: state.held }
    }

    /// Rows handed over that nothing is known of yet.
    pub fn in_flight(&self) -> u64 {
        self.state().on_their_way
    }

    /// How long rows have been in flight with none acknowledged; `None` while none is in flight.
    pub fn silence(&self) -> Option<Duration> {
        let state = self.state();
        (state.on_their_way > 0).then(|| state.heard_at.elapsed())
    }

    /// Waits until the row that was taken last is the only one that nothing is known of.
    pub(super) async fn settled_but_one(&self) {
        self.at_most_on_their_way(1).await;
    }

    async fn at_most_on_their_way(&self, rows: u64) {
        while self.state().on_their_way > rows {
            // A permit of an earlier change only makes the loop look once more.
            self.landed.notified().await;
        }
    }

    /// Forgets a failure and the rows behind the frontier, which are to be read again. No row is on its way.
    pub fn restart(&self) {
        let mut state = self.state();
        state.failure = None;
        state.waiting.clear();
        state.taken = state.frontier;
    }

    /// The last row before the frontier.
    pub fn cursor(&self) -> Option<Position> {
        self.state().cursor()
    }

    /// Cursor and counts at this moment, and the rows held back that are to be reported with them: then
    /// [`confirm`](Self::confirm) or [`unreport`](Self::unreport) them.
    pub fn progress(&self) -> (Progress, Vec<HeldRow>) {
        let mut state = self.state();
        let progress = Progress { cursor: state.cursor(), published: state.published, held: state.held };
        let held = std::mem::take(&mut state.unreported);
        state.in_report = held.len();
        (progress, held)
    }

    /// The rows held back are reported.
    pub fn confirm(&self) {
        self.state().in_report = 0;
        self.moved.notify_one();
    }

    /// Puts back rows that could not be reported.
    pub fn unreport(&self, mut rows: Vec<HeldRow>) {
        let mut state = self.state();
        state.in_report = 0;
        rows.append(&mut state.unreported);
        state.unreported = rows;
    }
}

impl State {
    fn settle(&mut self, number: u64, time_us: i64, key: Key, how: Settled) {
        if self.failure.is_some() {
            // The frontier stays where the first failure was, and the rows after it go out again.
            return;
        }
        match how {
            Settled::Failed(error) => self.failure = Some(error),
            // An idempotent producer acknowledges a partition's messages in their order. Were it ever otherwise, a
            // cursor set here would claim rows that are not in the topic.
            _ if number != self.frontier => {
                self.failure = Some(KafkaError::Away(format!("row {number} was settled before row {}", self.frontier)));
            }
            Settled::Acknowledged => {
                self.published += 1;
                self.frontier += 1;
                self.last = Some(Last::Row { time_us, key });
                self.advance();
            }
            Settled::TooLarge(bytes) => {
                let reason = format!("its document of {bytes} bytes is too large for the topic (max.message.bytes)");
                let position = Position { time_us, key: key.to_string() };
                self.waiting.push_front((number, HeldRow { position, reason }));
                self.advance();
            }
        }
    }

    /// Moves the frontier over rows that were held back.
    fn advance(&mut self) {
        while let Some((_, row)) = self.waiting.pop_front_if(|(number, _)| *number == self.frontier) {
            self.frontier += 1;
            self.held += 1;
            self.last = Some(Last::At(row.position.clone()));
            self.unreported.push(row);
        }
    }

    fn cursor(&self) -> Option<Position> {
        self.last.as_ref().map(|last| match last {
            Last::At(position) => position.clone(),
            Last::Row { time_us, key } => Position { time_us: *time_us, key: key.to_string() },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(number: i64) -> HeldRow {
        HeldRow { position: Position { time_us: number, key: number.to_string() }, reason: String::new() }
    }

    fn settle(flight: &Flight, number: u64, how: Settled) {
        flight.settle(number, number.cast_signed(), Key::Integer(number.cast_signed()), how);
    }

    fn seen(flight: &Flight) -> (Option<i64>, u64, u64) {
        let (progress, _) = flight.progress();
        (progress.cursor.map(|cursor| cursor.time_us), progress.published, progress.held)
    }

    #[tokio::test]
    async fn a_held_row_counts_once_those_before_it_are_acknowledged() {
        let flight = Flight::new(Progress::default());
        assert_eq!(flight.take(), Ok(0));
        flight.hold(held(1)).await.unwrap();
        assert_eq!(flight.take(), Ok(2));
        assert_eq!(seen(&flight), (None, 0, 0));
        settle(&flight, 0, Settled::Acknowledged);
        assert_eq!(seen(&flight), (Some(1), 1, 1));
        settle(&flight, 2, Settled::Acknowledged);
        assert_eq!(seen(&flight), (Some(2), 2, 1));
    }

    #[test]
    fn nothing_counts_after_a_failure() {
        let flight = Flight::new(Progress { cursor: Some(held(-5).position), published: 7, held: 0 });
        for _ in 0..3 {
            flight.take().unwrap();
        }
        settle(&flight, 0, Settled::Acknowledged);
        settle(&flight, 1, Settled::Failed(KafkaError::BatchTooLarge));
        settle(&flight, 2, Settled::Acknowledged);
        assert_eq!(seen(&flight), (Some(0), 8, 0));
        assert_eq!(flight.failure(), Some(KafkaError::BatchTooLarge));
    }

    #[test]
    fn an_acknowledgement_out_of_order_moves_no_cursor() {
        let flight = Flight::new(Progress::default());
        flight.take().unwrap();
        flight.take().unwrap();
        settle(&flight, 1, Settled::Acknowledged);
        assert_eq!(seen(&flight), (None, 0, 0));
        assert!(flight.failure().is_some());
    }

    #[tokio::test]
    async fn a_message_too_large_is_held_back_in_its_place() {
        let flight = Flight::new(Progress::default());
        flight.take().unwrap();
        flight.hold(held(1)).await.unwrap();
        settle(&flight, 0, Settled::TooLarge(9));
        assert_eq!(seen(&flight), (Some(1), 0, 2));
    }
}
