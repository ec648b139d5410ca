//! The budget of bytes in flight, shared by all jobs. It is fair between partitions, and a
//! partition that acknowledges nothing does not block the others.
//!
//! [`ByteBudget`] is the accounting, without clock, locks or tasks; [`InFlight`] is the part that
//! jobs wait on.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{KafkaError, throttle::Throttle};

/// A partition is stalled if it has rows in flight and acknowledges nothing for this long.
const STALL_TIMEOUT: Duration = Duration::from_secs(2);

/// So many times the delay of a quota is added: the partitions of a broker wait for one another.
const THROTTLED_TURNS: u32 = 10;

/// A job waits this long for a stalled partition before it returns to the queue.
const STALLED_LANE_TIMEOUT: Duration = Duration::from_secs(2);

/// Before its first delivery report a lane may reserve at most this fraction (1/32) of the bytes that
/// are not set aside, or one larger request. This limits the bytes sent to partitions that are
/// already unavailable: the more of them there are, the less each gets.
const UNPROVEN_SHARE: usize = 32;

/// How often waiting jobs check for stalled partitions.
const STALL_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// One partition of a topic, with the numbers of rows sent and completed.
#[derive(Debug)]
pub(super) struct Lane {
    topic: Arc<str>,
    partition: i32,
    sent: AtomicU64,
    completed: AtomicU64,
    last_ack: Mutex<Option<Instant>>,
}

impl Lane {
    fn new(topic: &str, partition: i32) -> Self {
        let (sent, completed) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { topic: topic.into(), partition, sent, completed, last_ack: Mutex::default() }
    }

    fn key(&self) -> Key {
        (Arc::clone(&self.topic), self.partition)
    }

    /// Counts a row that was passed to the producer.
    pub fn record_sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a delivery report, successful or not.
    pub fn record_completed(&self) {
        self.completed.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that rows were acknowledged now.
    pub fn record_ack(&self) {
        *self.last_ack.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether the partition has acknowledged rows recently, so that it need not prove again that
    /// it is available.
    fn acked_recently(&self) -> bool {
        let at = self.last_ack.lock().unwrap_or_else(PoisonError::into_inner);
        at.is_some_and(|at| at.elapsed() < STALL_TIMEOUT)
    }
}

type Key = (Arc<str>, i32);

/// The reserved bytes and the waiting requests of each lane.
///
/// Bytes of stalled lanes are set aside: they do not count against the limit, so that other lanes
/// continue. At most the limit itself is set aside, which bounds all bytes to twice the limit.
#[derive(Debug)]
struct ByteBudget<W> {
    limit: usize,
    /// Bytes that count against the limit.
    used: usize,
    /// Bytes of stalled lanes that do not count against the limit.
    set_aside: usize,
    lanes: HashMap<Key, LaneState<W>>,
    /// Lanes with waiting requests, in round-robin order.
    round_robin: VecDeque<Key>,
    last_ticket: u64,
    stall_timeout: Duration,
}

#[derive(Debug)]
struct LaneState<W> {
    lane: Arc<Lane>,
    reserved: usize,
    /// The part of `reserved` that is set aside.
    set_aside: usize,
    waiting: VecDeque<Waiter<W>>,
    /// `completed` of the lane at the last stall check.
    completed: u64,
    /// `completed` of the lane when this state was created; one less if the lane was acknowledged
    /// recently, so that it counts as proven.
    completed_at_start: u64,
    /// When a check first found rows in flight and no new delivery report.
    silent_since: Option<Duration>,
    is_stalled: bool,
}

#[derive(Debug)]
struct Waiter<W> {
    ticket: u64,
    bytes: usize,
    reply: W,
}

/// Bytes that are granted to a waiting request.
#[derive(Debug)]
struct Grant<W> {
    lane: Arc<Lane>,
    bytes: usize,
    reply: W,
}

impl<W> LaneState<W> {
    /// Whether the next request of this lane may be granted if it fits the budget.
    fn may_reserve(&self, unstalled_bytes: usize) -> bool {
        let bytes = self.waiting.front().map_or(0, |waiting| waiting.bytes);
        let is_within_unproven_share = self.reserved == 0 || self.reserved + bytes <= unstalled_bytes / UNPROVEN_SHARE;
        is_within_unproven_share || self.lane.completed.load(Ordering::Relaxed) != self.completed_at_start
    }
}

impl<W> ByteBudget<W> {
    fn new(limit: usize) -> Self {
        let (lanes, round_robin) = (HashMap::new(), VecDeque::new());
        Self { limit, used: 0, set_aside: 0, lanes, round_robin, last_ticket: 0, stall_timeout: STALL_TIMEOUT }
    }

    fn lane(&mut self, lane: &Arc<Lane>) -> &mut LaneState<W> {
        self.lanes.entry(lane.key()).or_insert_with(|| {
            let completed = lane.completed.load(Ordering::Relaxed);
            LaneState {
                lane: Arc::clone(lane),
                reserved: 0,
                set_aside: 0,
                waiting: VecDeque::new(),
                completed,
                completed_at_start: if lane.acked_recently() { completed.wrapping_sub(1) } else { completed },
                silent_since: None,
                is_stalled: false,
            }
        })
    }

    /// Adds a request to the queue of a lane. A request over the limit is cut to the limit, as it
    /// could never be granted.
    fn request(&mut self, lane: &Arc<Lane>, bytes: usize, reply: W) -> u64 {
        self.last_ticket += 1;
        let (ticket, bytes) = (self.last_ticket, bytes.min(self.limit));
        let state = self.lane(lane);
        state.waiting.push_back(Waiter { ticket, bytes, reply });
        if state.waiting.len() == 1 {
            self.round_robin.push_back(lane.key());
        }
        ticket
    }

    /// Removes a request from the queue; a no-op if it was granted meanwhile.
    fn cancel(&mut self, lane: &Lane, ticket: u64) {
        if let Some(state) = self.lanes.get_mut(&lane.key()) {
            state.waiting.retain(|waiting| waiting.ticket != ticket);
        }
        self.remove_if_unused(&lane.key());
    }

    /// Grants requests that fit, one per lane in turn. A request that does not fit keeps its turn,
    /// so that small requests of other lanes cannot starve it.
    fn grant(&mut self) -> Vec<Grant<W>> {
        let mut grants = Vec::new();
        let mut skipped = 0;
        while skipped < self.round_robin.len() {
            let Some(key) = self.round_robin.pop_front() else { break };
            let Some(state) = self.lanes.get_mut(&key).filter(|state| !state.waiting.is_empty()) else { continue };
            if state.is_stalled || !state.may_reserve(self.limit - self.set_aside) {
                self.round_robin.push_back(key);
                skipped += 1;
                continue;
            }
            let fits = |bytes: usize| self.used == 0 || self.used + bytes <= self.limit;
            let Some(Waiter { bytes, reply, .. }) = state.waiting.pop_front_if(|waiting| fits(waiting.bytes)) else {
                self.round_robin.push_front(key);
                break;
            };
            self.used += bytes;
            state.reserved += bytes;
            grants.push(Grant { lane: Arc::clone(&state.lane), bytes, reply });
            if !state.waiting.is_empty() {
                self.round_robin.push_back(key);
            }
            skipped = 0;
        }
        grants
    }

    /// Releases bytes.
    fn release(&mut self, lane: &Lane, bytes: usize) {
        let key = lane.key();
        if let Some(state) = self.lanes.get_mut(&key) {
            state.reserved -= bytes;
            let from_set_aside = bytes.min(state.set_aside);
            state.set_aside -= from_set_aside;
            self.set_aside -= from_set_aside;
            self.used -= bytes - from_set_aside;
        }
        self.remove_if_unused(&key);
    }

    /// Updates which lanes are stalled; `now` is the time since a fixed moment.
    fn check_stalls(&mut self, now: Duration) {
        for state in self.lanes.values_mut() {
            // `completed` is loaded first: a row that completes in between can only delay the
            // detection.
            let completed = state.lane.completed.load(Ordering::Relaxed);
            let in_flight = state.lane.sent.load(Ordering::Relaxed).saturating_sub(completed);
            if completed != state.completed || in_flight == 0 {
                state.completed = completed;
                state.silent_since = None;
                state.is_stalled = false;
                self.used += state.set_aside;
                self.set_aside -= state.set_aside;
                state.set_aside = 0;
                continue;
            }
            let since = *state.silent_since.get_or_insert(now);
            state.is_stalled = now.saturating_sub(since) >= self.stall_timeout;
            if state.is_stalled {
                let bytes = (state.reserved - state.set_aside).min(self.limit - self.set_aside);
                state.set_aside += bytes;
                self.set_aside += bytes;
                self.used -= bytes;
            }
        }
    }

    /// How long a stalled lane has been without delivery reports.
    fn stalled_for(&self, lane: &Lane, now: Duration) -> Option<Duration> {
        let state = self.lanes.get(&lane.key()).filter(|state| state.is_stalled)?;
        state.silent_since.map(|since| now.saturating_sub(since))
    }

    fn remove_if_unused(&mut self, key: &Key) {
        let is_unused = |state: &LaneState<W>| state.reserved == 0 && state.waiting.is_empty();
        if self.lanes.get(key).is_some_and(is_unused) {
            self.lanes.remove(key);
            self.round_robin.retain(|waiting| waiting != key);
        }
    }
}

/// The byte budget that jobs wait on.
pub(super) struct InFlight {
    budget: Mutex<ByteBudget<oneshot::Sender<Reservation>>>,
    lanes: Mutex<HashMap<Key, Arc<Lane>>>,
    throttle: Throttle,
    started: Instant,
    /// Time of the last stall check, in milliseconds since `started`.
    checked_ms: AtomicU64,
}

/// Reserved bytes, released on drop.
pub(super) struct Reservation {
    in_flight: Arc<InFlight>,
    lane: Arc<Lane>,
    bytes: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.in_flight.change(|budget| budget.release(&self.lane, self.bytes));
    }
}

/// Removes the request from the queue if the wait is cancelled.
struct WaiterGuard<'a> {
    in_flight: &'a Arc<InFlight>,
    lane: &'a Lane,
    ticket: u64,
}

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        self.in_flight.change(|budget| budget.cancel(self.lane, self.ticket));
    }
}

impl InFlight {
    pub fn new(limit: usize, throttle: Throttle) -> Arc<Self> {
        let (budget, lanes) = (Mutex::new(ByteBudget::new(limit)), Mutex::default());
        Arc::new(Self { budget, lanes, throttle, started: Instant::now(), checked_ms: AtomicU64::new(0) })
    }

    /// Returns the lane of a partition.
    pub fn lane(&self, topic: &str, partition: i32) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(&(topic.into(), partition)) {
            return Arc::clone(lane);
        }
        lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        let lane = Arc::new(Lane::new(topic, partition));
        lanes.insert(lane.key(), Arc::clone(&lane));
        lane
    }

    /// Reserved bytes, including those of stalled partitions.
    pub fn bytes(&self) -> usize {
        let budget = self.budget();
        budget.used + budget.set_aside
    }

    /// Waits until `bytes` can be reserved.
    ///
    /// # Errors
    /// The partition is stalled.
    pub async fn reserve(self: &Arc<Self>, lane: &Arc<Lane>, bytes: usize) -> Result<Reservation, KafkaError> {
        let (reply, mut granted) = oneshot::channel();
        let ticket = self.change(|budget| budget.request(lane, bytes, reply));
        let _waiter = WaiterGuard { in_flight: self, lane, ticket };
        let closed = |_| KafkaError::Unavailable("the service is stopping".to_owned());
        self.unless_stalled(lane, async { (&mut granted).await.map_err(closed) }).await?
    }

    /// Runs a future that completes only while the partition acknowledges rows.
    ///
    /// # Errors
    /// The partition is stalled.
    pub async fn unless_stalled<T>(self: &Arc<Self>, lane: &Lane, work: impl Future<Output = T>) -> Result<T, KafkaError> {
        self.check_stalls();
        let started = Instant::now();
        let mut work = std::pin::pin!(work);
        loop {
            if let Ok(done) = tokio::time::timeout(STALL_CHECK_INTERVAL, &mut work).await {
                return Ok(done);
            }
            self.check_stalls();
            let silence = self.budget().stalled_for(lane, self.started.elapsed());
            if let Some(silence) = silence.filter(|_| started.elapsed() >= STALLED_LANE_TIMEOUT) {
                let (topic, partition) = (lane.topic.to_string(), lane.partition);
                return Err(KafkaError::Stalled { topic, partition, seconds: silence.as_secs() });
            }
        }
    }

    /// Checks for stalled partitions, unless another task has just done so.
    fn check_stalls(self: &Arc<Self>) {
        let now = self.started.elapsed();
        let (now_ms, interval_ms) = (now.as_millis() as u64, STALL_CHECK_INTERVAL.as_millis() as u64);
        let checked_ms = self.checked_ms.load(Ordering::Relaxed);
        if now_ms >= checked_ms + interval_ms
            && self.checked_ms.compare_exchange(checked_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            let stall_timeout = STALL_TIMEOUT + THROTTLED_TURNS * self.throttle.delay();
            self.change(|budget| {
                budget.stall_timeout = stall_timeout;
                budget.check_stalls(now);
            });
        }
    }

    fn budget(&self) -> MutexGuard<'_, ByteBudget<oneshot::Sender<Reservation>>> {
        // No code panics in the middle of a change.
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the budget, and sends the grants that became possible.
    fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut ByteBudget<oneshot::Sender<Reservation>>) -> T) -> T {
        let (changed, grants) = {
            let mut budget = self.budget();
            (change(&mut budget), budget.grant())
        };
        for Grant { lane, bytes, reply } in grants {
            // If the receiver was dropped, the reservation is dropped here, which releases the
            // bytes.
            drop(reply.send(Reservation { in_flight: Arc::clone(self), lane, bytes }));
        }
        changed
    }
}

#[cfg(test)]
#[path = "in_flight_tests.rs"]
mod tests;
