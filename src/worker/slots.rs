//! How many jobs may run at a time, which of them, and who gives way while something is away.
//!
//! A circuit breaker stands before the store and before each topic. A job that ends with an outage of one of them, with nothing
//! published, opens that breaker: from then on one job at a time tries whether the outage is over (half-open), since all others
//! would only say the same. The first job that gets on closes it. Jobs that need other topics do not notice.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc::UnboundedSender;

use crate::{queue::ClaimLimits, replay::Dependency};

/// The pool's slots.
#[derive(Debug)]
pub struct WorkerSlots {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_use: usize,
    /// Slots in use by the topic of their job.
    by_topic: HashMap<Arc<str>, usize>,
    /// Slots whose job is suspected of having ended its instance.
    suspects: usize,
    /// Slots that were ever taken: their numbers.
    numbers: u64,
    store_is_away: bool,
    topics_away: HashSet<Arc<str>>,
}

/// What the pool hears of its slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotFreed {
    /// The work of this slot's job is over.
    Left(u64),
    /// A job waits, and another may have its slot meanwhile.
    Parked,
}

impl WorkerSlots {
    pub fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Slots free now.
    pub fn free(&self) -> usize {
        self.state().free(self.limit)
    }

    /// What may be claimed now.
    pub fn claim_limits(&self) -> ClaimLimits {
        let state = self.state();
        let half_open = |topic: &Arc<str>| {
            let running = state.by_topic.get(topic).copied().unwrap_or(0);
            (topic.to_string(), 1_usize.saturating_sub(running))
        };
        ClaimLimits {
            jobs: state.free(self.limit),
            topics: state.topics_away.iter().map(half_open).collect(),
            suspects: 1_usize.saturating_sub(state.suspects),
        }
    }

    /// A job met an outage, and had published nothing.
    pub fn open_breaker(&self, part: Dependency, topic: &Arc<str>) {
        let mut state = self.state();
        match part {
            Dependency::Source => state.store_is_away = true,
            Dependency::Topic => drop(state.topics_away.insert(Arc::clone(topic))),
        }
    }

    /// A job of this topic got on, and so did the store.
    pub fn close_breakers(&self, topic: &str) {
        let mut state = self.state();
        state.store_is_away = false;
        state.topics_away.remove(topic);
    }

    /// Takes a slot; `freed` hears of it when it is free again.
    pub fn acquire(self: &Arc<Self>, topic: &Arc<str>, is_suspect: bool, freed: &UnboundedSender<SlotFreed>) -> SlotGuard {
        let mut state = self.state();
        state.numbers += 1;
        let number = state.numbers;
        state.suspects += usize::from(is_suspect);
        state.take(topic);
        drop(state);
        let is_parked = Mutex::new(false);
        SlotGuard { slots: Arc::clone(self), topic: Arc::clone(topic), number, is_suspect, is_parked, freed: freed.clone() }
    }
}

impl State {
    fn free(&self, limit: usize) -> usize {
        let limit = if self.store_is_away { 1 } else { limit };
        limit.saturating_sub(self.in_use)
    }

    fn take(&mut self, topic: &Arc<str>) {
        self.in_use += 1;
        *self.by_topic.entry(Arc::clone(topic)).or_default() += 1;
    }

    fn give_back(&mut self, topic: &str) {
        self.in_use = self.in_use.saturating_sub(1);
        if let Some(running) = self.by_topic.get_mut(topic) {
            *running = running.saturating_sub(1);
            if *running == 0 {
                self.by_topic.remove(topic);
            }
        }
    }
}

/// One job's slot, free when this is dropped.
#[derive(Debug)]
pub struct SlotGuard {
    slots: Arc<WorkerSlots>,
    topic: Arc<str>,
    pub number: u64,
    is_suspect: bool,
    is_parked: Mutex<bool>,
    freed: UnboundedSender<SlotFreed>,
}

impl SlotGuard {
    /// The job got on.
    pub fn close_breakers(&self) {
        self.slots.close_breakers(&self.topic);
    }

    /// The job met an outage, and had published nothing.
    pub fn open_breaker(&self, part: Dependency) {
        self.slots.open_breaker(part, &self.topic);
    }

    /// Lets another job have the slot while this one waits for answers that do not come, or takes it back. The job may then run
    /// in excess of the limit for a while.
    pub fn set_parked(&self, parked: bool) {
        let mut is_parked = self.is_parked.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_parked == parked {
            return;
        }
        *is_parked = parked;
        if parked {
            self.slots.state().give_back(&self.topic);
            self.notify(SlotFreed::Parked);
        } else {
            self.slots.state().take(&self.topic);
        }
    }

    fn notify(&self, freed: SlotFreed) {
        // An error means that the pool has stopped.
        let _ = self.freed.send(freed);
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        self.set_parked(true);
        if self.is_suspect {
            let mut state = self.slots.state();
            state.suspects = state.suspects.saturating_sub(1);
        }
        self.notify(SlotFreed::Left(self.number));
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    struct Pool {
        slots: Arc<WorkerSlots>,
        freed: UnboundedSender<SlotFreed>,
        _receiver: mpsc::UnboundedReceiver<SlotFreed>,
    }

    impl Pool {
        fn new() -> Self {
            let (freed, receiver) = mpsc::unbounded_channel();
            Self { slots: Arc::new(WorkerSlots::new(4)), freed, _receiver: receiver }
        }

        fn acquire(&self, topic: &str) -> SlotGuard {
            self.slots.acquire(&topic.into(), false, &self.freed)
        }

        fn limits(&self) -> (usize, Option<usize>) {
            let limits = self.slots.claim_limits();
            (limits.jobs, limits.topics.get("sick").copied())
        }
    }

    #[test]
    fn a_sick_topic_is_tried_by_one_job_and_others_have_their_slots() {
        let pool = Pool::new();
        pool.acquire("sick").open_breaker(Dependency::Topic);
        assert_eq!(pool.limits(), (4, Some(1)));
        let probe = pool.acquire("sick");
        let healthy = pool.acquire("healthy");
        assert_eq!(pool.limits(), (2, Some(0)));
        healthy.close_breakers();
        assert_eq!(pool.limits(), (2, Some(0)), "a healthy topic says nothing about a sick one");
        probe.close_breakers();
        assert_eq!(pool.limits(), (2, None));
    }

    #[test]
    fn a_store_that_is_away_is_tried_by_one_job() {
        let pool = Pool::new();
        let first = pool.acquire("a");
        first.open_breaker(Dependency::Source);
        assert_eq!(pool.limits().0, 0);
        drop(first);
        assert_eq!(pool.limits().0, 1);
        pool.acquire("b").close_breakers();
        assert_eq!(pool.limits().0, 4);
    }

    #[test]
    fn a_job_that_waits_for_answers_leaves_its_slot_to_others() {
        let pool = Pool::new();
        let stuck: Vec<_> = (0..4).map(|_| pool.acquire("sick")).collect();
        assert_eq!(pool.slots.free(), 0);
        for slot in &stuck {
            slot.set_parked(true);
            slot.set_parked(true);
        }
        assert_eq!(pool.slots.free(), 4);
        stuck[0].set_parked(false);
        assert_eq!(pool.slots.free(), 3);
        drop(stuck);
        assert_eq!(pool.slots.free(), 4);
    }

    #[test]
    fn one_suspect_at_a_time() {
        let pool = Pool::new();
        let suspect = pool.slots.acquire(&"t".into(), true, &pool.freed);
        suspect.set_parked(true);
        assert_eq!(pool.slots.claim_limits().suspects, 0);
        drop(suspect);
        assert_eq!(pool.slots.claim_limits().suspects, 1);
    }
}
