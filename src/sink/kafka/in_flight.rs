//! The budget of bytes in flight, shared by all jobs: fairly between partitions, and a partition that acknowledges nothing
//! keeps nobody else waiting.
//!
//! [`ByteBudget`] is the bookkeeping, without clock, locks or tasks; [`InFlight`] is what jobs wait on.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::KafkaError;

/// A partition with rows in flight that acknowledges nothing for this long is stalled.
const STALLED_AFTER: Duration = Duration::from_secs(2);

/// A job waits this long for a stalled partition before it goes back to the queue.
const STALLED_LANE_TIMEOUT: Duration = Duration::from_secs(2);

/// Before its first answer a lane has this share of all bytes at the most, or one request that is larger. Whatever is sent to
/// partitions that are away already then stays little: each of them would else take all that is left.
const UNANSWERED_SHARE: usize = 32;

/// How often waiting jobs look for stalled partitions.
const STALL_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// One partition of one topic, with what was handed to the producer for it and what was answered.
#[derive(Debug)]
pub(super) struct Lane {
    topic: Arc<str>,
    partition: i32,
    sent: AtomicU64,
    settled: AtomicU64,
    acknowledged_at: Mutex<Option<Instant>>,
}

impl Lane {
    fn new(topic: &str, partition: i32) -> Self {
        let (sent, settled) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { topic: topic.into(), partition, sent, settled, acknowledged_at: Mutex::default() }
    }

    fn key(&self) -> Key {
        (Arc::clone(&self.topic), self.partition)
    }

    /// A row was handed to the producer.
    pub fn sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// A row was answered, whatever the answer.
    pub fn settled(&self) {
        self.settled.fetch_add(1, Ordering::Relaxed);
    }

    /// Rows were acknowledged just now.
    pub fn acknowledged(&self) {
        *self.acknowledged_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether its partition acknowledged rows a moment ago, so that it need not prove again that it answers.
    fn answered_lately(&self) -> bool {
        let at = self.acknowledged_at.lock().unwrap_or_else(PoisonError::into_inner);
        at.is_some_and(|at| at.elapsed() < STALLED_AFTER)
    }
}

type Key = (Arc<str>, i32);

/// Who holds how many bytes, and who waits for some.
///
/// Bytes of stalled lanes are set aside: they do not count against the limit, so that other lanes go on. At most as many
/// bytes as the limit itself are set aside, which bounds all bytes by twice the limit.
#[derive(Debug)]
struct ByteBudget<W> {
    limit: usize,
    /// Bytes that count against the limit.
    used: usize,
    /// Bytes of stalled lanes that do not.
    set_aside: usize,
    lanes: HashMap<Key, LaneState<W>>,
    /// Lanes that somebody waits for, in the order of their turns.
    turns: VecDeque<Key>,
    tickets: u64,
}

#[derive(Debug)]
struct LaneState<W> {
    lane: Arc<Lane>,
    held: usize,
    /// As many of `held` are set aside.
    set_aside: usize,
    waiting: VecDeque<Waiter<W>>,
    /// Answers when it was looked at last.
    settled: u64,
    /// Answers when it began to hold bytes, or to wait for some; one less where it had answered a moment before.
    settled_before: u64,
    /// When it was first seen with rows in flight and without a new answer.
    silent_since: Option<Duration>,
    is_stalled: bool,
}

#[derive(Debug)]
struct Waiter<W> {
    ticket: u64,
    bytes: usize,
    whom: W,
}

/// Bytes that were granted to somebody who waited.
#[derive(Debug)]
struct Grant<W> {
    lane: Arc<Lane>,
    bytes: usize,
    whom: W,
}

impl<W> LaneState<W> {
    /// Whether the next request of this lane may be granted, if it fits.
    fn may_grow(&self, limit: usize) -> bool {
        let bytes = self.waiting.front().map_or(0, |waiting| waiting.bytes);
        let is_little = self.held == 0 || self.held + bytes <= limit / UNANSWERED_SHARE;
        is_little || self.lane.settled.load(Ordering::Relaxed) != self.settled_before
    }
}

impl<W> ByteBudget<W> {
    fn new(limit: usize) -> Self {
        Self { limit, used: 0, set_aside: 0, lanes: HashMap::new(), turns: VecDeque::new(), tickets: 0 }
    }

    fn lane(&mut self, lane: &Arc<Lane>) -> &mut LaneState<W> {
        self.lanes.entry(lane.key()).or_insert_with(|| {
            let settled = lane.settled.load(Ordering::Relaxed);
            LaneState {
                lane: Arc::clone(lane),
                held: 0,
                set_aside: 0,
                waiting: VecDeque::new(),
                settled,
                settled_before: if lane.answered_lately() { settled.wrapping_sub(1) } else { settled },
                silent_since: None,
                is_stalled: false,
            }
        })
    }

    /// Joins the queue of a lane. A request larger than the limit is cut to it, or it could never be granted.
    fn request(&mut self, lane: &Arc<Lane>, bytes: usize, whom: W) -> u64 {
        self.tickets += 1;
        let (ticket, bytes) = (self.tickets, bytes.min(self.limit));
        let state = self.lane(lane);
        state.waiting.push_back(Waiter { ticket, bytes, whom });
        if state.waiting.len() == 1 {
            self.turns.push_back(lane.key());
        }
        ticket
    }

    /// Leaves the queue; nothing happens where the bytes were granted meanwhile.
    fn cancel(&mut self, lane: &Lane, ticket: u64) {
        if let Some(state) = self.lanes.get_mut(&lane.key()) {
            state.waiting.retain(|waiting| waiting.ticket != ticket);
        }
        self.forget_if_unused(&lane.key());
    }

    /// Grants what fits, one request a lane in turn. A request that does not fit keeps its turn, so that small requests of
    /// others can't starve it.
    fn grant(&mut self) -> Vec<Grant<W>> {
        let mut grants = Vec::new();
        let mut passed = 0;
        while passed < self.turns.len() {
            let Some(key) = self.turns.pop_front() else { break };
            let Some(state) = self.lanes.get_mut(&key).filter(|state| !state.waiting.is_empty()) else { continue };
            if state.is_stalled || !state.may_grow(self.limit) {
                self.turns.push_back(key);
                passed += 1;
                continue;
            }
            let fits = |bytes: usize| self.used == 0 || self.used + bytes <= self.limit;
            let Some(Waiter { bytes, whom, .. }) = state.waiting.pop_front_if(|waiting| fits(waiting.bytes)) else {
                self.turns.push_front(key);
                break;
            };
            self.used += bytes;
            state.held += bytes;
            grants.push(Grant { lane: Arc::clone(&state.lane), bytes, whom });
            if !state.waiting.is_empty() {
                self.turns.push_back(key);
            }
            passed = 0;
        }
        grants
    }

    /// Takes bytes back.
    fn release(&mut self, lane: &Lane, bytes: usize) {
        let key = lane.key();
        if let Some(state) = self.lanes.get_mut(&key) {
            state.held -= bytes;
            let aside = bytes.min(state.set_aside);
            state.set_aside -= aside;
            self.set_aside -= aside;
            self.used -= bytes - aside;
        }
        self.forget_if_unused(&key);
    }

    /// Finds out which lanes are stalled; `now` is the time since any fixed moment.
    fn check_stalls(&mut self, now: Duration) {
        for state in self.lanes.values_mut() {
            // In this order: a row that is settled in between only makes it look further.
            let settled = state.lane.settled.load(Ordering::Relaxed);
            let in_flight = state.lane.sent.load(Ordering::Relaxed).saturating_sub(settled);
            if settled != state.settled || in_flight == 0 {
                state.settled = settled;
                state.silent_since = None;
                state.is_stalled = false;
                self.used += state.set_aside;
                self.set_aside -= state.set_aside;
                state.set_aside = 0;
                continue;
            }
            let since = *state.silent_since.get_or_insert(now);
            state.is_stalled = now.saturating_sub(since) >= STALLED_AFTER;
            if state.is_stalled {
                let bytes = (state.held - state.set_aside).min(self.limit - self.set_aside);
                state.set_aside += bytes;
                self.set_aside += bytes;
                self.used -= bytes;
            }
        }
    }

    /// How long a stalled lane has been silent.
    fn stalled_for(&self, lane: &Lane, now: Duration) -> Option<Duration> {
        let state = self.lanes.get(&lane.key()).filter(|state| state.is_stalled)?;
        state.silent_since.map(|since| now.saturating_sub(since))
    }

    fn forget_if_unused(&mut self, key: &Key) {
        let is_unused = |state: &LaneState<W>| state.held == 0 && state.waiting.is_empty();
        if self.lanes.get(key).is_some_and(is_unused) {
            self.lanes.remove(key);
            self.turns.retain(|turn| turn != key);
        }
    }
}

/// The budget that jobs wait on.
pub(super) struct InFlight {
    budget: Mutex<ByteBudget<oneshot::Sender<Reservation>>>,
    lanes: Mutex<HashMap<Key, Arc<Lane>>>,
    since: Instant,
    /// When lanes were looked at last, in milliseconds since `since`.
    looked_ms: AtomicU64,
}

/// Bytes that are given back when this is dropped.
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

/// Leaves the queue when the wait is given up.
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
    pub fn new(limit: usize) -> Arc<Self> {
        let (budget, lanes) = (Mutex::new(ByteBudget::new(limit)), Mutex::default());
        Arc::new(Self { budget, lanes, since: Instant::now(), looked_ms: AtomicU64::new(0) })
    }

    /// The lane of a partition.
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

    /// Bytes handed out, those of stalled partitions included.
    pub fn bytes(&self) -> usize {
        let budget = self.budget();
        budget.used + budget.set_aside
    }

    /// Waits until there is room for so many bytes.
    ///
    /// # Errors
    /// The partition is stalled.
    pub async fn reserve(self: &Arc<Self>, lane: &Arc<Lane>, bytes: usize) -> Result<Reservation, KafkaError> {
        let (whom, mut granted) = oneshot::channel();
        let ticket = self.change(|budget| budget.request(lane, bytes, whom));
        let _place = WaiterGuard { in_flight: self, lane, ticket };
        let stopping = |_| KafkaError::Unavailable("the service is stopping".to_owned());
        self.unless_stalled(lane, async { (&mut granted).await.map_err(stopping) }).await?
    }

    /// Waits for something that only happens while the partition acknowledges rows.
    ///
    /// # Errors
    /// The partition is stalled.
    pub async fn unless_stalled<T>(self: &Arc<Self>, lane: &Lane, what: impl Future<Output = T>) -> Result<T, KafkaError> {
        self.check_stalls();
        let begun = Instant::now();
        let mut what = std::pin::pin!(what);
        loop {
            if let Ok(done) = tokio::time::timeout(STALL_CHECK_INTERVAL, &mut what).await {
                return Ok(done);
            }
            self.check_stalls();
            let silent = self.budget().stalled_for(lane, self.since.elapsed());
            if let Some(silent) = silent.filter(|_| begun.elapsed() >= STALLED_LANE_TIMEOUT) {
                let (topic, partition) = (lane.topic.to_string(), lane.partition);
                return Err(KafkaError::Stalled { topic, partition, seconds: silent.as_secs() });
            }
        }
    }

    /// Looks for stalled partitions, if nobody has just done so.
    fn check_stalls(self: &Arc<Self>) {
        let now = self.since.elapsed();
        let (now_ms, every_ms) = (now.as_millis() as u64, STALL_CHECK_INTERVAL.as_millis() as u64);
        let looked_ms = self.looked_ms.load(Ordering::Relaxed);
        if now_ms >= looked_ms + every_ms
            && self.looked_ms.compare_exchange(looked_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.change(|budget| budget.check_stalls(now));
        }
    }

    fn budget(&self) -> MutexGuard<'_, ByteBudget<oneshot::Sender<Reservation>>> {
        // Nothing in here can panic half-way through a change.
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the budget, and hands out what can be granted after it.
    fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut ByteBudget<oneshot::Sender<Reservation>>) -> T) -> T {
        let (changed, grants) = {
            let mut budget = self.budget();
            (change(&mut budget), budget.grant())
        };
        for Grant { lane, bytes, whom } in grants {
            // Somebody who waits no longer drops it, which gives the bytes back.
            drop(whom.send(Reservation { in_flight: Arc::clone(self), lane, bytes }));
        }
        changed
    }
}

#[cfg(test)]
#[path = "in_flight_tests.rs"]
mod tests;
