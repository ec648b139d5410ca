//! The accounting of the bytes in flight, without clock, locks or tasks: who has reserved how much,
//! and whose turn is next. [`InFlight`](super::in_flight::InFlight) is what jobs wait on.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::lane::{Key, Lane, STALL_TIMEOUT};

/// Before its first delivery report a lane may reserve at most this fraction (1/32) of the bytes that
/// are not set aside, or one larger request. This limits the bytes sent to partitions that are
/// already unavailable: the more of them there are, the less each gets.
const UNPROVEN_SHARE: usize = 32;

/// The reserved bytes and the waiting requests of each lane.
///
/// Bytes of stalled lanes are set aside: they do not count against the limit, so that other lanes
/// continue. At most the limit itself is set aside, which bounds all bytes to twice the limit.
#[derive(Debug)]
pub(super) struct ByteBudget<W> {
    limit: usize,
    /// Bytes that count against the limit.
    used: usize,
    /// Bytes of stalled lanes that do not count against the limit.
    set_aside: usize,
    lanes: HashMap<Key, LaneState<W>>,
    /// Lanes with waiting requests, in round-robin order.
    round_robin: VecDeque<Key>,
    last_ticket: u64,
    pub stall_timeout: Duration,
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
pub(super) struct Grant<W> {
    pub lane: Arc<Lane>,
    pub bytes: usize,
    pub reply: W,
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
    pub fn new(limit: usize) -> Self {
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
    pub fn request(&mut self, lane: &Arc<Lane>, bytes: usize, reply: W) -> u64 {
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
    pub fn cancel(&mut self, lane: &Lane, ticket: u64) {
        if let Some(state) = self.lanes.get_mut(&lane.key()) {
            state.waiting.retain(|waiting| waiting.ticket != ticket);
        }
        self.remove_if_unused(&lane.key());
    }

    /// Grants requests that fit, one per lane in turn. A request that does not fit keeps its turn,
    /// so that small requests of other lanes cannot starve it.
    pub fn grant(&mut self) -> Vec<Grant<W>> {
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

    /// Reserved bytes, including those that are set aside.
    pub fn reserved(&self) -> usize {
        self.used + self.set_aside
    }

    /// Releases bytes.
    pub fn release(&mut self, lane: &Lane, bytes: usize) {
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
    pub fn check_stalls(&mut self, now: Duration) {
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
    pub fn stalled_for(&self, lane: &Lane, now: Duration) -> Option<Duration> {
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

#[cfg(test)]
#[path = "byte_budget_tests.rs"]
mod tests;
