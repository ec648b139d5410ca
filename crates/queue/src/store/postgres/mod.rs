//! The queue in PostgreSQL, shared by any number of instances on any number of machines.
//!
//! All times are the server's. Changes of jobs and new tasks are committed many at once (`lane.rs`),
//! in statements over arrays; claims of all instances take turns (`claim.rs`). `transaction.rs` has
//! the order of locks, and how logs are numbered.

mod claim;
mod connections;
mod copy;
mod copy_rows;
mod due;
mod error;
mod hints;
mod instance;
mod lane;
mod open;
mod read;
mod rows;
mod submit;
mod transaction;
mod update;

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{Postgres, Transaction, query, query_scalar};
use uuid::Uuid;

use super::{ClaimRequest, ClaimedJobs, Store};
use crate::{
    Backlog, ClaimLimits, Clock, InstanceRow, Job, JobRow, OverlapQuery, ProbeError, QuarantineCursor, QueueError, Steer,
    Steered, Steering, Submission, Submitted, TaskDetail, TaskFilter, TaskPage, TaskRow,
    instances::Place,
    lease::JobUpdate,
    log_hub::LogHub,
    metrics::QueueMetrics,
    task::{JobState, LogEntry, QuarantinedRow, Requester, TaskId},
};
use connections::{Connections, lend};
pub(crate) use copy::PostgresEnd;
use error::Failure;
use lane::Lane;
use submit::SubmitRequest;
use update::UpdateRequest;

/// An open queue in PostgreSQL.
pub(crate) struct PostgresStore {
    shared: Arc<Shared>,
    updates: Lane<UpdateRequest>,
    submits: Lane<SubmitRequest>,
}

/// What all operations need.
struct Shared {
    connections: Connections,
    clock: Clock,
    hub: LogHub,
    metrics: QueueMetrics,
    instance: instance::Instance,
    hints: Arc<hints::Hints>,
    /// The last id that was given to a task.
    last_task: Mutex<TaskId>,
    /// The server and the database, to be shown.
    name: String,
}

impl Shared {
    /// The id of a task that is created now.
    fn new_task_id(&self, now_ms: i64) -> TaskId {
        // No code panics while it holds this lock.
        let mut last = self.last_task.lock().unwrap_or_else(PoisonError::into_inner);
        *last = TaskId::created_at(now_ms, *last);
        *last
    }

    async fn commit(&self, transaction: Transaction<'_, Postgres>) -> sqlx::Result<()> {
        let committing = Instant::now();
        transaction.commit().await?;
        self.metrics.commit_seconds.observe(committing.elapsed().as_secs_f64());
        Ok(())
    }

    /// Tells the subscribers of this process, and the other instances, about committed entries.
    fn publish(&self, entries: Vec<LogEntry>) {
        if entries.is_empty() {
            return;
        }
        self.hints.add(&entries);
        for entry in entries {
            self.hub.publish(entry);
        }
    }

    fn count_failure<T>(&self, result: Result<T, Failure>) -> Result<T, QueueError> {
        result.map_err(|failure| {
            self.metrics.count_error(&failure.error);
            failure.error
        })
    }
}

/// As `lend!`, for an operation of the store.
macro_rules! read {
    ($self:ident, $connection:ident => $read:expr) => {
        lend!($self.shared.connections, $connection => $read).map_err(|failure| failure.error)
    };
}

impl Store for PostgresStore {
    async fn submit(&self, submission: Submission) -> Result<Submitted, QueueError> {
        self.submits.commit(submission.into()).await
    }

    async fn steer(&self, task: TaskId, steer: Steer, by: Option<Requester>) -> Result<Option<Steered>, QueueError> {
        let steer = || submit::steer(&self.shared, task, steer, by.as_ref());
        self.shared.count_failure(lane::repeated(steer).await)
    }

    async fn claim(
        &self,
        request: ClaimRequest,
        limits: impl Fn() -> ClaimLimits + Send + Sync + 'static,
    ) -> Result<ClaimedJobs, QueueError> {
        let claim = || claim::claim(&self.shared, &request, &limits);
        self.shared.count_failure(lane::repeated(claim).await)
    }

    async fn update_job(&self, job: Arc<Job>, update: JobUpdate, lease: Duration) -> Result<bool, QueueError> {
        self.updates.commit(UpdateRequest { job, update, lease }).await
    }

    fn owner(&self) -> &Arc<str> {
        &self.shared.instance.id
    }

    async fn release_all(&self) -> Result<usize, QueueError> {
        Ok(self.shared.instance.leave(&self.shared).await?)
    }

    async fn end_leases_of_dead_instances(&self) -> Result<usize, QueueError> {
        let end = || self.shared.instance.end_leases_of_the_dead(&self.shared);
        self.shared.count_failure(lane::repeated(end).await)
    }

    fn alive_for(&self, confirmed_at: Instant) -> Duration {
        self.shared.instance.alive_for(&self.shared.clock, confirmed_at)
    }

    async fn instances(&self) -> Result<Vec<InstanceRow>, QueueError> {
        read!(self, connection => instance::list(connection, &self.shared.clock))
    }

    async fn drain_instance(&self, id: &str, drains: bool) -> Result<bool, QueueError> {
        read!(self, connection => instance::drain(connection, id, drains))
    }

    fn is_draining(&self) -> bool {
        self.shared.instance.is_draining()
    }

    fn place(&self) -> &Place {
        &self.shared.instance.place
    }

    fn others_logged(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let hints = Arc::clone(&self.shared.hints);
        Box::pin(async move { hints.heard().await })
    }

    async fn task(&self, id: TaskId) -> Result<Option<TaskRow>, QueueError> {
        read!(self, connection => read::task(connection, id))
    }

    async fn log_after(&self, task: TaskId, seq: u64, limit: u64) -> Result<Vec<LogEntry>, QueueError> {
        read!(self, connection => read::log_after(connection, task, seq, limit))
    }

    async fn last_seqs(&self, tasks: &[TaskId]) -> Result<Vec<(TaskId, u64)>, QueueError> {
        read!(self, connection => read::last_seqs(connection, tasks))
    }

    async fn tasks_due(&self, limits: &ClaimLimits) -> Result<Vec<TaskId>, QueueError> {
        read!(self, connection => due::tasks_due(connection, &self.shared.clock, limits, limits.jobs))
    }

    async fn steering(&self) -> Result<Vec<Steering>, QueueError> {
        read!(self, connection => read::steering(connection))
    }

    async fn tasks(&self, filter: &TaskFilter, before: Option<TaskId>, limit: u32) -> Result<TaskPage, QueueError> {
        read!(self, connection => read::tasks(connection, filter, before, limit))
    }

    async fn task_detail(&self, id: TaskId) -> Result<Option<TaskDetail>, QueueError> {
        read!(self, connection => read::detail(connection, id))
    }

    async fn jobs(&self, task: TaskId, states: &[JobState], after: Option<u64>, limit: u32) -> Result<Vec<JobRow>, QueueError> {
        read!(self, connection => read::jobs(connection, task, states, after, limit))
    }

    async fn quarantine_page(
        &self,
        task: TaskId,
        after: Option<&QuarantineCursor>,
        limit: u32,
    ) -> Result<Vec<(Uuid, QuarantinedRow)>, QueueError> {
        read!(self, connection => read::quarantine_page(connection, task, after, Some(limit)))
    }

    async fn overlaps(&self, query: OverlapQuery, limit: u32) -> Result<Vec<TaskRow>, QueueError> {
        read!(self, connection => read::overlaps(connection, &query, limit))
    }

    async fn quarantined_rows(&self, task: TaskId) -> Result<Vec<(Uuid, QuarantinedRow)>, QueueError> {
        read!(self, connection => read::quarantine_page(connection, task, None, None))
    }

    async fn backlog(&self) -> Result<Backlog, QueueError> {
        read!(self, connection => async {
            let now_ms = transaction::now(connection, &self.shared.clock).await?;
            read::backlog(connection, now_ms).await
        })
    }

    async fn prune(&self, before_ms: i64) -> Result<u64, QueueError> {
        let mut removed = 0;
        loop {
            // One task a transaction: it may have ten thousand jobs. Another instance may prune too.
            let sql = "DELETE FROM task WHERE id = (
                           SELECT id FROM task WHERE finished_at < $1 ORDER BY finished_at LIMIT 1 FOR UPDATE SKIP LOCKED)";
            let tasks: Result<u64, QueueError> = read!(self, connection => async {
                Ok(query(sql).bind(before_ms).execute(connection).await?.rows_affected())
            });
            match tasks? {
                0 => return Ok(removed),
                tasks => removed += tasks,
            }
        }
    }

    async fn probe(&self) -> Result<(), ProbeError> {
        self.shared.instance.renew(&self.shared).await.map_err(QueueError::from)?;
        let newest: Result<Option<i64>, QueueError> = read!(self, connection => {
            query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(connection)
        });
        match newest?.filter(|newest| *newest > open::newest_known()) {
            Some(version) => Err(ProbeError::Newer { queue: self.shared.name.clone(), version }),
            None => Ok(()),
        }
    }

    async fn disk_bytes(&self) -> u64 {
        let sql = "SELECT sum(pg_total_relation_size(name))::bigint
                   FROM unnest(ARRAY['task', 'job', 'event', 'quarantine', 'instance']::regclass[]) AS name";
        let bytes: Result<i64, QueueError> = read!(self, connection => query_scalar(sql).fetch_one(connection));
        bytes.map_or(0, |bytes| bytes.try_into().unwrap_or(0))
    }

    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn now_ms(&self) -> i64 {
        self.shared.clock.wall_ms()
    }

    async fn died(&self) {
        tokio::select! {
            () = self.updates.died() => {}
            () = self.submits.died() => {}
        }
    }

    async fn close(&self) {
        tokio::join!(self.updates.close(), self.submits.close());
        self.shared.connections.close();
    }
}
