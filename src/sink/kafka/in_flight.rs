//! The bytes in flight, shared by all jobs. The budget is fair between partitions, and a partition
//! that acknowledges nothing does not block the others.
//!
//! Jobs wait here; [`ByteBudget`] decides who gets what.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    KafkaError,
    byte_budget::{ByteBudget, Grant},
    lane::{Key, Lane, STALL_TIMEOUT},
    throttle::Throttle,
};

/// So many times the delay of a quota is added: the partitions of a broker wait for one another.
const THROTTLED_TURNS: u32 = 10;

/// A job waits this long for a stalled partition before it returns to the queue.
const STALLED_LANE_TIMEOUT: Duration = Duration::from_secs(2);

/// How often waiting jobs check for stalled partitions.
const STALL_CHECK_INTERVAL: Duration = Duration::from_millis(250);

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
        self.budget().reserved()
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
