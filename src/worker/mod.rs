//! The way in by lease: a pool that claims jobs, and works on several at a time.

mod aligned_interval;
mod heartbeat;
mod runner;
mod slots;
mod waiting;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config, failpoint,
    queue::{Lease, Queue},
    replay::ReplayRunner,
    task::TaskId,
    telemetry::Metrics,
};
use aligned_interval::AlignedInterval;
use runner::JobSignals;
use slots::{SlotFreed, WorkerSlots};

/// How often the queue is asked for work of which nobody told: backoffs that are over, leases that have expired, tasks
/// that another process took in or cancelled.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// How often the queue is asked whether another process cancelled a task that runs here.
const STEERING_POLL_INTERVAL: Duration = Duration::from_millis(250);

/// While less than an eighth of the places is free, they wait so long for others: small jobs end in swarms, and are claimed in
/// one commit then.
const CLAIM_COALESCE_DELAY: Duration = Duration::from_millis(1);

/// What storing the last cursors may take when the time for rows in flight is over.
const FINAL_CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often other services on the same queue are looked for that have died.
const DEAD_INSTANCE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What the pool works with.
#[derive(Clone)]
pub struct Pool {
    pub queue: Queue,
    pub patcher: ReplayRunner,
    pub config: config::Worker,
    pub metrics: Metrics,
}

/// A job that is worked on here.
struct Running {
    task: TaskId,
    since: Instant,
    /// Asks it to hand its lease back.
    stop: CancellationToken,
    /// With `stop`: its task is cancelled.
    cancel: CancellationToken,
}

impl Pool {
    /// Works until `stop`; then hands all leases back, within `drain` at the most.
    pub async fn run(self, stop: CancellationToken, drain: Duration) {
        let owner = self.queue.owner();
        let slots = Arc::new(WorkerSlots::new(self.config.concurrency));
        let (mut running, mut workers) = (HashMap::<u64, Running>::new(), JoinSet::new());
        let (freed_tx, mut freed) = mpsc::unbounded_channel();
        let abandon = CancellationToken::new();
        let begun = Instant::now();
        let checkpoints = AlignedInterval::new(begun, Duration::from_millis(self.config.checkpoint_interval_ms));
        // The lines of a task's devices then go to each of its watchers together.
        let progress_logs = AlignedInterval::new(begun, Duration::from_millis(self.config.progress_log_interval_ms));
        let mut steering_polls = tokio::time::interval(STEERING_POLL_INTERVAL);
        steering_polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looked = Instant::now().checked_sub(DEAD_INSTANCE_CHECK_INTERVAL).unwrap_or_else(Instant::now);
        'working: loop {
            if looked.elapsed() >= DEAD_INSTANCE_CHECK_INTERVAL {
                looked = Instant::now();
                if let Err(error) = self.queue.expire_leases_of_dead_instances().await {
                    tracing::warn!(%error, "leases of dead services can't be ended; they expire");
                }
            }
            if slots.free() > 0 {
                for lease in self.claim(&owner, &slots).await {
                    failpoint::hit("claimed");
                    let (task, stop, cancel) = (lease.job.task.id, stop.child_token(), CancellationToken::new());
                    let signals = JobSignals {
                        stop: stop.clone(),
                        cancel: cancel.clone(),
                        abort: abandon.child_token(),
                        checkpoints,
                        progress_logs,
                    };
                    let slot = slots.acquire(&lease.job.task.topic.as_str().into(), lease.job.is_suspect, &freed_tx);
                    running.insert(slot.number, Running { task, since: Instant::now(), stop, cancel });
                    // Boxed: it is large, and spawning moves it four times.
                    workers.spawn(Box::pin(runner::run(self.clone(), lease, signals, slot)));
                }
                self.metrics.jobs_running.set(i64::try_from(running.len()).unwrap_or(i64::MAX));
            } else {
                self.preempt_longest(&running, &slots).await;
            }
            // Until there may be something to claim, and a place for it.
            let ask_at = Instant::now() + POLL_INTERVAL;
            loop {
                tokio::select! {
                    () = stop.cancelled() => break 'working,
                    () = self.queue.cancel_requested() => self.cancel_running(&running).await,
                    _ = steering_polls.tick() => self.cancel_running(&running).await,
                    Some(first) = freed.recv() => {
                        if slots.free() < slots.limit() / 8 {
                            tokio::time::sleep(CLAIM_COALESCE_DELAY).await;
                        }
                        for freed in std::iter::once(first).chain(std::iter::from_fn(|| freed.try_recv().ok())) {
                            if let SlotFreed::Left(slot) = freed {
                                running.remove(&slot);
                            }
                        }
                        break;
                    }
                    Some(ended) = workers.join_next() => if let Err(error) = ended {
                        tracing::error!(%error, "a worker died; its job is taken over when its lease expires");
                    },
                    () = self.queue.work_arrived(), if slots.free() > 0 => break,
                    () = tokio::time::sleep_until(ask_at.into()) => break,
                }
            }
        }
        let drained = timeout(drain, async { while workers.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::warn!(
                jobs = workers.len(),
                "rows in flight were not acknowledged in time; their jobs are handed back, and they go out again after the next start"
            );
            abandon.cancel();
            if timeout(FINAL_CHECKPOINT_TIMEOUT, async { while workers.join_next().await.is_some() {} }).await.is_err() {
                workers.shutdown().await;
            }
        }
        self.metrics.jobs_running.set(0);
    }

    /// As many jobs as there are places free by then.
    async fn claim(&self, owner: &Arc<str>, slots: &Arc<WorkerSlots>) -> Vec<Lease> {
        let slots = Arc::clone(slots);
        match self.queue.claim(owner, move || slots.claim_limits(), self.config.lease(), self.config.max_crashes).await {
            Ok(claimed) => claimed.leases,
            Err(error) => {
                tracing::error!(%error, "no job can be claimed: the queue can't be written; asking again");
                Vec::new()
            }
        }
    }

    /// Tells the jobs of cancelled tasks to stop.
    async fn cancel_running(&self, running: &HashMap<u64, Running>) {
        if running.is_empty() {
            return;
        }
        // A file that cannot be read now can be in a moment, and is asked again.
        let cancelled = self.queue.tasks_being_cancelled().await.unwrap_or_default();
        for job in running.values().filter(|job| cancelled.contains(&job.task)) {
            job.cancel.cancel();
            job.stop.cancel();
        }
    }

    /// When a task has no place here, and work to be done, and another has more than its share: that gives one up.
    async fn preempt_longest(&self, running: &HashMap<u64, Running>, slots: &WorkerSlots) {
        let slice = Duration::from_secs(self.config.preempt_after_seconds);
        if running.values().any(|job| job.stop.is_cancelled()) || !running.values().any(|job| job.since.elapsed() >= slice) {
            return;
        }
        let limits = slots.claim_limits();
        let Ok(due) = self.queue.tasks_due(running.len() as u64 + 1, &limits.closed_topics()).await else { return };
        if due.iter().all(|task| running.values().any(|job| job.task == *task)) {
            return;
        }
        let mut shares = HashMap::<TaskId, usize>::new();
        for job in running.values() {
            *shares.entry(job.task).or_default() += 1;
        }
        let longest = running
            .values()
            .filter(|job| job.since.elapsed() >= slice)
            .max_by_key(|job| (shares.get(&job.task).copied(), job.since.elapsed()));
        if let Some(job) = longest {
            tracing::debug!(task = %job.task, "a job makes way for another task's");
            job.stop.cancel();
        }
    }
}
