//! The slots of the pool: how many jobs may run at a time, and which of them during an outage.
//!
//! There is a circuit breaker for the source and one for each topic. A job that ends with an outage
//! and without progress opens the breaker of the dependency. While it is open, one job at a time
//! probes whether the outage is over (half-open), since the others would fail in the same way. The
//! first job that makes progress closes the breaker. Jobs of other topics are not affected by the
//! breaker of a topic.

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
    jobs_per_thing: Option<usize>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_use: usize,
    /// Slots in use, by the topic of the job.
    by_topic: HashMap<Arc<str>, usize>,
    /// Slots in use by jobs that are suspected of crashing their instance.
    suspects: usize,
    /// The number of the last slot that was acquired.
    last_number: u64,
    source_breaker_open: bool,
    open_topic_breakers: HashSet<Arc<str>>,
}

/// A notification to the pool that a slot is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotFreed {
    /// The work of the job in this slot is over.
    Released(u64),
    /// A waiting job has given its slot to another for the time being.
    Parked,
}

impl WorkerSlots {
    /// `limit` slots. Of a thing, at most `jobs_per_thing` jobs are claimed, on all instances
    /// together.
    pub fn new(limit: usize, jobs_per_thing: Option<usize>) -> Self {
        Self { limit, jobs_per_thing, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics half-way through a change of the state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The number of free slots.
    pub fn free(&self) -> usize {
        self.state().free(self.limit)
    }

    /// The limits of the next claim.
    pub fn claim_limits(&self) -> ClaimLimits {
        let state = self.state();
        let half_open = |topic: &Arc<str>| {
            let running = state.by_topic.get(topic).copied().unwrap_or(0);
            (topic.to_string(), 1_usize.saturating_sub(running))
        };
        ClaimLimits {
            jobs: state.free(self.limit),
            topics: state.open_topic_breakers.iter().map(half_open).collect(),
            suspects: 1_usize.saturating_sub(state.suspects),
            jobs_per_thing: self.jobs_per_thing,
        }
    }

    /// Whether the breaker of the source is open, and the number of open breakers of topics.
    pub fn open_breakers(&self) -> (bool, usize) {
        let state = self.state();
        (state.source_breaker_open, state.open_topic_breakers.len())
    }

    /// Opens a breaker, after a job of this topic ended with an outage and without progress.
    pub fn open_breaker(&self, dependency: Dependency, topic: &Arc<str>) {
        let mut state = self.state();
        match dependency {
            Dependency::Source => state.source_breaker_open = true,
            Dependency::Topic => drop(state.open_topic_breakers.insert(Arc::clone(topic))),
        }
    }

    /// Closes the breakers of the source and of a topic, after a job of this topic made progress.
    pub fn close_breakers(&self, topic: &str) {
        let mut state = self.state();
        state.source_breaker_open = false;
        state.open_topic_breakers.remove(topic);
    }

    /// Acquires a slot. `freed` is notified when it is free again.
    pub fn acquire(self: &Arc<Self>, topic: &Arc<str>, is_suspect: bool, freed: &UnboundedSender<SlotFreed>) -> SlotGuard {
        let mut state = self.state();
        state.last_number += 1;
        let number = state.last_number;
        state.suspects += usize::from(is_suspect);
        state.occupy(topic);
        drop(state);
        let is_parked = Mutex::new(false);
        SlotGuard { slots: Arc::clone(self), topic: Arc::clone(topic), number, is_suspect, is_parked, freed: freed.clone() }
    }
}

impl State {
    fn free(&self, limit: usize) -> usize {
        let limit = if self.source_breaker_open { 1 } else { limit };
        limit.saturating_sub(self.in_use)
    }

    fn occupy(&mut self, topic: &Arc<str>) {
        self.in_use += 1;
        *self.by_topic.entry(Arc::clone(topic)).or_default() += 1;
    }

    fn vacate(&mut self, topic: &str) {
        self.in_use = self.in_use.saturating_sub(1);
        if let Some(running) = self.by_topic.get_mut(topic) {
            *running = running.saturating_sub(1);
            if *running == 0 {
                self.by_topic.remove(topic);
            }
        }
    }
}

/// One job's slot, freed when this is dropped.
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
    /// Closes the job's breakers after it made progress.
    pub fn close_breakers(&self) {
        self.slots.close_breakers(&self.topic);
    }

    /// Opens a breaker, after the job ended with an outage and without progress.
    pub fn open_breaker(&self, dependency: Dependency) {
        self.slots.open_breaker(dependency, &self.topic);
    }

    /// Gives the slot to another job while this one waits for acknowledgements, or takes it back.
    /// After taking it back, more jobs than the limit may run for a while.
    pub fn set_parked(&self, parked: bool) {
        let mut is_parked = self.is_parked.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_parked == parked {
            return;
        }
        *is_parked = parked;
        if parked {
            self.slots.state().vacate(&self.topic);
            self.notify(SlotFreed::Parked);
        } else {
            self.slots.state().occupy(&self.topic);
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
        self.notify(SlotFreed::Released(self.number));
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
            Self { slots: Arc::new(WorkerSlots::new(4, None)), freed, _receiver: receiver }
        }

        fn acquire(&self, topic: &str) -> SlotGuard {
            self.slots.acquire(&topic.into(), false, &self.freed)
        }

        fn limits(&self) -> (usize, Option<usize>) {
            let limits = self.slots.claim_limits();
            (limits.jobs, limits.topics.get("failing").copied())
        }
    }

    #[test]
    fn an_open_topic_breaker_admits_one_job_and_other_topics_are_not_affected() {
        let pool = Pool::new();
        pool.acquire("failing").open_breaker(Dependency::Topic);
        assert_eq!(pool.limits(), (4, Some(1)));
        assert_eq!(pool.slots.open_breakers(), (false, 1));
        let probe = pool.acquire("failing");
        let healthy = pool.acquire("healthy");
        assert_eq!(pool.limits(), (2, Some(0)));
        healthy.close_breakers();
        assert_eq!(pool.limits(), (2, Some(0)), "a healthy topic does not close the breaker of another");
        probe.close_breakers();
        assert_eq!(pool.limits(), (2, None));
        assert_eq!(pool.slots.open_breakers(), (false, 0));
    }

    #[test]
    fn an_open_source_breaker_admits_one_job() {
        let pool = Pool::new();
        let first = pool.acquire("a");
        first.open_breaker(Dependency::Source);
        assert_eq!(pool.limits().0, 0);
        assert_eq!(pool.slots.open_breakers(), (true, 0));
        drop(first);
        assert_eq!(pool.limits().0, 1);
        pool.acquire("b").close_breakers();
        assert_eq!(pool.limits().0, 4);
    }

    #[test]
    fn a_parked_job_frees_its_slot() {
        let pool = Pool::new();
        let parked: Vec<_> = (0..4).map(|_| pool.acquire("failing")).collect();
        assert_eq!(pool.slots.free(), 0);
        for slot in &parked {
            slot.set_parked(true);
            slot.set_parked(true);
        }
        assert_eq!(pool.slots.free(), 4);
        parked[0].set_parked(false);
        assert_eq!(pool.slots.free(), 3);
        drop(parked);
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
