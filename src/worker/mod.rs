//! The way in by lease: a pool that claims jobs, and works on several at a time.

mod job;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    task::{Id, JoinError, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config, kill,
    patch::Patcher,
    queue::{Lease, Queue},
    task::TaskId,
    telemetry::Metrics,
};
use job::Signals;

/// How often the queue is asked for work of which nobody told: backoffs that are over, leases that have expired, tasks
/// that another process took in.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// While most places are taken, one that has come free waits so long for others: small jobs end in swarms, and are claimed
/// in one commit then.
const GATHER: Duration = Duration::from_millis(1);

/// What storing the last cursors may take when the time for rows in flight is over.
const LAST_WRITES: Duration = Duration::from_secs(2);

/// How often other services on the same queue are looked for that have died.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the pool works with.
#[derive(Clone)]
pub struct Pool {
    pub queue: Queue,
    pub patcher: Patcher,
    pub config: config::Worker,
    pub metrics: Metrics,
}

/// A job that is worked on here.
struct Place {
    task: TaskId,
    since: Instant,
    /// Asks it to hand its lease back.
    stop: CancellationToken,
}

impl Pool {
    /// Works until `stop`; then hands all leases back, within `drain` at the most.
    pub async fn run(self, stop: CancellationToken, drain: Duration) {
        let owner = self.queue.owner();
        let (mut places, mut workers) = (HashMap::<Id, Place>::new(), JoinSet::new());
        let (leave, mut left) = mpsc::unbounded_channel();
        let abandon = CancellationToken::new();
        // After an outage one job at a time tries whether it is over: the others would only say the same.
        let outage = Arc::new(AtomicBool::new(false));
        let mut looked = Instant::now().checked_sub(LOOK_EVERY).unwrap_or_else(Instant::now);
        'working: loop {
            if looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                if let Err(error) = self.queue.end_leases_of_the_dead().await {
                    tracing::warn!(%error, "leases of dead services can't be ended; they expire");
                }
            }
            let allowed = if outage.load(Ordering::Relaxed) { 1 } else { self.config.concurrency };
            let free = allowed.saturating_sub(places.len());
            if free > 0 {
                for lease in self.claim(&owner, free).await {
                    kill::point("claimed");
                    let place = Place { task: lease.job.task.id, since: Instant::now(), stop: stop.child_token() };
                    let signals = Signals {
                        stop: place.stop.clone(),
                        abandon: abandon.clone(),
                        outage: Arc::clone(&outage),
                        leave: leave.clone(),
                    };
                    // Boxed: it is large, and spawning moves it four times.
                    let worker = workers.spawn(Box::pin(job::run(self.clone(), lease, signals)));
                    places.insert(worker.id(), place);
                }
                self.metrics.jobs_running.set(i64::try_from(places.len()).unwrap_or(i64::MAX));
            } else {
                self.make_way(&places).await;
            }
            // Until there may be something to claim, and a place for it.
            loop {
                tokio::select! {
                    () = stop.cancelled() => break 'working,
                    Some(worker) = left.recv() => {
                        places.remove(&worker);
                        if places.len() > allowed / 2 {
                            tokio::time::sleep(GATHER).await;
                        }
                        // All that have come free meanwhile, so that they are filled in one claim.
                        while let Ok(worker) = left.try_recv() {
                            places.remove(&worker);
                        }
                        break;
                    }
                    Some(ended) = workers.join_next_with_id() => {
                        if Self::ended(ended, &mut places) {
                            break;
                        }
                    }
                    () = self.queue.work_arrived(), if free > 0 => break,
                    () = tokio::time::sleep(ASK_EVERY) => break,
                }
            }
        }
        let drained = timeout(drain, async { while workers.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::warn!(
                jobs = workers.len(),
                "rows in flight were not acknowledged in time; they go out again after the next start"
            );
            abandon.cancel();
            if timeout(LAST_WRITES, async { while workers.join_next().await.is_some() {} }).await.is_err() {
                workers.shutdown().await;
            }
        }
        self.metrics.jobs_running.set(0);
    }

    async fn claim(&self, owner: &Arc<str>, free: usize) -> Vec<Lease> {
        match self.queue.claim(owner, free, self.config.lease(), self.config.max_crashes).await {
            Ok(claimed) => claimed.leases,
            Err(error) => {
                tracing::error!(%error, "no job can be claimed: the queue can't be written; asking again");
                Vec::new()
            }
        }
    }

    /// A worker has ended; tells whether it had not left its place before.
    fn ended(ended: Result<(Id, ()), JoinError>, places: &mut HashMap<Id, Place>) -> bool {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
        if let Err(error) = ended {
            tracing::error!(%error, "a worker died; its job is taken over when its lease expires");
        }
        places.remove(&id).is_some()
    }

    /// When a task has no place here, and work to be done, and another has more than its share: that gives one up.
    async fn make_way(&self, places: &HashMap<Id, Place>) {
        let slice = Duration::from_secs(self.config.slice_seconds);
        if places.values().any(|place| place.stop.is_cancelled()) || !places.values().any(|place| place.since.elapsed() >= slice)
        {
            return;
        }
        let Ok(due) = self.queue.tasks_due(places.len() as u64 + 1).await else { return };
        if due.iter().all(|task| places.values().any(|place| place.task == *task)) {
            return;
        }
        let mut shares = HashMap::<TaskId, usize>::new();
        for place in places.values() {
            *shares.entry(place.task).or_default() += 1;
        }
        let longest = places
            .values()
            .filter(|place| place.since.elapsed() >= slice)
            .max_by_key(|place| (shares.get(&place.task).copied(), place.since.elapsed()));
        if let Some(place) = longest {
            tracing::debug!(task = %place.task, "a job makes way for another task's");
            place.stop.cancel();
        }
    }
}
