//! The worker pool: claims jobs and runs several of them at a time.

mod aligned_interval;
mod failure_log;
mod heartbeat;
mod rate;
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
    queue::{ClaimLimits, Lease, Queue},
    replay::ReplayRunner,
    task::TaskId,
    telemetry::{Metrics, Traces},
};
use aligned_interval::AlignedInterval;
use failure_log::FailureLog;
use rate::TaskRates;
use runner::JobSignals;
use slots::{SlotFreed, WorkerSlots};

/// How often the queue is polled for work that sends no notification: backoffs that are over,
/// expired leases, and tasks that another process submitted.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// How often the queue is polled for tasks that other processes cancel, pause or limit.
const STEERING_POLL_INTERVAL: Duration = Duration::from_millis(250);

/// While less than an eighth of the slots is free, the next claim waits this long for more slots.
/// Small jobs end in bursts, and one claim then serves them all.
const CLAIM_COALESCE_DELAY: Duration = Duration::from_millis(1);

/// How long the final checkpoints may take after the drain timeout.
const FINAL_CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the pool looks for dead services on the same queue.
const DEAD_INSTANCE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The worker pool and its dependencies.
#[derive(Clone)]
pub struct Pool {
    pub queue: Queue,
    pub replay_runner: ReplayRunner,
    pub config: config::Worker,
    pub metrics: Metrics,
    pub traces: Traces,
}

/// A job that runs in this pool.
struct Running {
    task: TaskId,
    since: Instant,
    /// Asks the job to release its lease.
    stop: CancellationToken,
    /// Set together with `stop` if the task is cancelled.
    cancel: CancellationToken,
}

impl Running {
    fn new(lease: &Lease, signals: &JobSignals) -> Self {
        let (stop, cancel) = (signals.stop.clone(), signals.cancel.clone());
        Self { task: lease.job.task.id, since: Instant::now(), stop, cancel }
    }
}

/// Waits for the jobs to stop. Aborts them after `drain_timeout`.
async fn drain(mut workers: JoinSet<()>, drain_timeout: Duration, abort: &CancellationToken) {
    if timeout(drain_timeout, join_all(&mut workers)).await.is_ok() {
        return;
    }
    tracing::warn!(
        jobs = workers.len(),
        "rows in flight were not acknowledged in time; their jobs are released, and the rows are sent again after the next start"
    );
    abort.cancel();
    if timeout(FINAL_CHECKPOINT_TIMEOUT, join_all(&mut workers)).await.is_err() {
        workers.shutdown().await;
    }
}

async fn join_all(workers: &mut JoinSet<()>) {
    while workers.join_next().await.is_some() {}
}

impl Pool {
    /// Runs until `stop`, then releases all leases. Waits for rows in flight for `drain_timeout` at
    /// most, and two seconds longer for the last checkpoints.
    pub async fn run(self, stop: CancellationToken, drain_timeout: Duration) {
        // One pointer for each job, since the pool consists of many.
        let pool = Arc::new(self);
        let owner = pool.queue.owner();
        let jobs_per_thing = Some(pool.config.max_jobs_per_thing).filter(|jobs| *jobs > 0);
        let slots = Arc::new(WorkerSlots::new(pool.config.concurrency, jobs_per_thing));
        let mut readers = None;
        let (mut running, mut workers) = (HashMap::<u64, Running>::new(), JoinSet::new());
        let (freed_tx, mut freed) = mpsc::unbounded_channel();
        let abort = CancellationToken::new();
        let started_at = Instant::now();
        let checkpoints = AlignedInterval::new(started_at, Duration::from_millis(pool.config.checkpoint_interval_ms));
        // Shared by all jobs, so that the progress entries of a task are committed and sent
        // together.
        let progress_logs = AlignedInterval::new(started_at, Duration::from_millis(pool.config.progress_log_interval_ms));
        let rates = TaskRates::default();
        let mut steering_polls = tokio::time::interval(STEERING_POLL_INTERVAL);
        steering_polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut claim_failures, mut expiry_failures) = (FailureLog::default(), FailureLog::default());
        let mut dead_instances_checked_at = Instant::now().checked_sub(DEAD_INSTANCE_CHECK_INTERVAL).unwrap_or_else(Instant::now);
        'working: loop {
            if dead_instances_checked_at.elapsed() >= DEAD_INSTANCE_CHECK_INTERVAL {
                dead_instances_checked_at = Instant::now();
                pool.expire_leases_of_dead_instances(&mut expiry_failures).await;
            }
            let may_read = pool.share_readers(&mut readers);
            if pool.queue.is_draining() || !may_read {
                for job in running.values() {
                    job.stop.cancel();
                }
            } else if slots.free() > 0 {
                for lease in pool.claim(&owner, &slots, &mut claim_failures).await {
                    failpoint::hit("claimed");
                    let signals = JobSignals {
                        stop: stop.child_token(),
                        cancel: CancellationToken::new(),
                        abort: abort.child_token(),
                        checkpoints,
                        progress_logs,
                        rate: rates.of(lease.job.task.id, lease.job.task.rate),
                    };
                    let slot = slots.acquire(&lease.job.task.topic.as_str().into(), lease.job.is_suspect, &freed_tx);
                    running.insert(slot.number, Running::new(&lease, &signals));
                    // Boxed: the future is large, and spawning moves it several times.
                    workers.spawn(Box::pin(runner::run(Arc::clone(&pool), lease, signals, slot)));
                }
                pool.metrics.jobs_running.set(i64::try_from(running.len()).unwrap_or(i64::MAX));
            } else {
                pool.preempt_longest(&running, &slots).await;
            }
            let (source, topics) = slots.open_breakers();
            pool.metrics.set_circuit_breakers_open(source, topics);
            // Wait until there may be a job to claim and a slot for it.
            let poll_at = Instant::now() + POLL_INTERVAL;
            loop {
                tokio::select! {
                    () = stop.cancelled() => break 'working,
                    () = pool.queue.steering_changed() => pool.steer_running(&running, &rates).await,
                    _ = steering_polls.tick() => pool.steer_running(&running, &rates).await,
                    Some(first) = freed.recv() => {
                        if slots.free() < slots.limit() / 8 {
                            tokio::time::sleep(CLAIM_COALESCE_DELAY).await;
                        }
                        for freed in std::iter::once(first).chain(std::iter::from_fn(|| freed.try_recv().ok())) {
                            if let SlotFreed::Released(slot) = freed {
                                running.remove(&slot);
                            }
                        }
                        break;
                    }
                    Some(ended) = workers.join_next() => if let Err(error) = ended {
                        tracing::error!(%error, "a worker panicked; another one takes its job over when the lease expires");
                    },
                    () = pool.queue.work_arrived(), if slots.free() > 0 => break,
                    () = tokio::time::sleep_until(poll_at.into()) => break,
                }
            }
        }
        drain(workers, drain_timeout, &abort).await;
        pool.metrics.jobs_running.set(0);
    }

    /// Takes this instance's part of `worker.max_readers`, and returns whether there is one. `known`
    /// is the part until now.
    fn share_readers(&self, known: &mut Option<u32>) -> bool {
        let total = self.config.max_readers;
        if total == 0 {
            return true;
        }
        let part = self.queue.part_of(total);
        if known.replace(part) != Some(part) {
            self.replay_runner.source.limit_readers(part as usize);
            if part == 0 {
                tracing::warn!(
                    max_readers = total,
                    "other instances have all of worker.max_readers: no job runs here until one of them ends"
                );
            } else {
                tracing::info!(readers = part, max_readers = total, "this instance has its part of worker.max_readers");
            }
        }
        part > 0
    }

    /// Claims as many jobs as there are free slots when the claim commits.
    async fn claim(&self, owner: &Arc<str>, slots: &Arc<WorkerSlots>, failures: &mut FailureLog) -> Vec<Lease> {
        let slots = Arc::clone(slots);
        match self.queue.claim(owner, move || slots.claim_limits(), self.config.lease(), self.config.max_crashes).await {
            Ok(claimed) => {
                if let Some(lasted) = failures.record_success(Instant::now()) {
                    tracing::info!(?lasted, "jobs can be claimed again: the queue can be written");
                }
                claimed.leases
            }
            Err(error) => {
                if let Some(lasted) = failures.record_failure(Instant::now()) {
                    tracing::error!(%error, ?lasted, "no job can be claimed: the queue cannot be written; the claim is retried");
                }
                Vec::new()
            }
        }
    }

    async fn expire_leases_of_dead_instances(&self, failures: &mut FailureLog) {
        match self.queue.expire_leases_of_dead_instances().await {
            Ok(_) => _ = failures.record_success(Instant::now()),
            Err(error) => {
                if let Some(lasted) = failures.record_failure(Instant::now()) {
                    tracing::warn!(%error, ?lasted, "leases of dead services cannot be expired; they end by timeout");
                }
            }
        }
    }

    /// Asks the running jobs of cancelled and paused tasks to stop, and applies the rates.
    async fn steer_running(&self, running: &HashMap<u64, Running>, rates: &TaskRates) {
        if running.is_empty() {
            return;
        }
        // A failed read is retried at the next poll.
        let Ok(steering) = self.queue.steering().await else { return };
        rates.update(&steering);
        let stopping: HashMap<_, _> =
            steering.iter().filter(|task| task.is_cancelled || task.is_paused).map(|task| (task.task, task)).collect();
        if stopping.is_empty() {
            return;
        }
        for job in running.values() {
            let Some(task) = stopping.get(&job.task) else { continue };
            if task.is_cancelled {
                job.cancel.cancel();
            }
            job.stop.cancel();
        }
    }

    /// If another task has due jobs and no slot here, stops one job that has run for
    /// `worker.preempt_after_seconds`: the longest-running one of the task with the most slots.
    async fn preempt_longest(&self, running: &HashMap<u64, Running>, slots: &WorkerSlots) {
        let preempt_after = Duration::from_secs(self.config.preempt_after_seconds);
        if running.values().any(|job| job.stop.is_cancelled())
            || !running.values().any(|job| job.since.elapsed() >= preempt_after)
        {
            return;
        }
        let limits = ClaimLimits { jobs: running.len() + 1, ..slots.claim_limits() };
        let Ok(due) = self.queue.tasks_due(&limits).await else { return };
        if due.iter().all(|task| running.values().any(|job| job.task == *task)) {
            return;
        }
        let mut shares = HashMap::<TaskId, usize>::new();
        for job in running.values() {
            *shares.entry(job.task).or_default() += 1;
        }
        let longest = running
            .values()
            .filter(|job| job.since.elapsed() >= preempt_after)
            .max_by_key(|job| (shares.get(&job.task).copied(), job.since.elapsed()));
        if let Some(job) = longest {
            tracing::debug!(task = %job.task, "a job is preempted for another task");
            job.stop.cancel();
        }
    }
}
