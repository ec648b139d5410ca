//! Where the queue is kept: the operations of a store, and the kinds of store.
//!
//! A store keeps tasks, jobs, logs and quarantined rows, and changes them in transactions. What it
//! writes is decided by [`policy`](crate::policy). Waking workers, counting lost leases and
//! following logs is done above it, once for all kinds.

mod claiming;
pub(crate) mod copy;
pub mod postgres;
pub mod sqlite;

use std::{pin::Pin, sync::Arc, time::Duration};

use uuid::Uuid;

use crate::{
    Backlog, ClaimLimits, Clock, CopyError, InstanceRow, Job, JobRow, OpenError, OverlapQuery, ProbeError, QuarantineCursor,
    QueueError, QueueOptions, Steer, Steered, Steering, Submission, Submitted, TaskDetail, TaskFilter, TaskPage, TaskRow,
    instances::Place,
    lease::JobUpdate,
    log_hub::LogHub,
    metrics::QueueMetrics,
    task::{JobState, LogEntry, QuarantinedRow, Requester, TaskId},
};
pub(crate) use claiming::{ClaimRequest, ClaimedJobs, report_start};
use copy::{CopyEnd, Role};
use postgres::PostgresStore;
use sqlite::SqliteStore;

/// The operations of a store. All guarantee that
///
/// - a change is durable before it is answered, and an error means that nothing was changed (or is, if the answer of a server was lost);
/// - events are appended to a task's log in the transaction of the change that they tell of, with
///   sequence numbers without a gap, and after the commit, and only then, each entry is handed to
///   the store's [`LogHub`] ([`publish`](LogHub::publish)), in the order of its task's log;
/// - a failed transaction is counted in [`QueueMetrics::errors`], and the duration of a commit is
///   observed in [`QueueMetrics::commit_seconds`];
/// - several instances may work on one store at once, and one that ends in the middle of an
///   operation leaves the store as it was before or after it.
///
/// Dropping the future of an operation does not undo it: it is applied as a whole or not at all.
pub(crate) trait Store {
    /// Stores a task with one job per device, each due at once, and the beginning of its log. The task is served before those that were served already. If a task with the same
    /// `request_id` exists, nothing is stored; of several at once, one creates the task.
    fn submit(&self, submission: Submission) -> impl Future<Output = Result<Submitted, QueueError>> + Send;

    /// Writes what [`steer`](crate::policy::task::steer) says. A cancellation also ends the queued
    /// jobs of the task, and finishes it if it has no running one.
    fn steer(
        &self,
        task: TaskId,
        steer: Steer,
        by: Option<Requester>,
    ) -> impl Future<Output = Result<Option<Steered>, QueueError>> + Send;

    /// Leases due jobs as the [turns](crate::policy::turns) say, each to one owner only, and counts
    /// up its attempt. Before a job is leased whose lease has expired, all expired leases of its
    /// owner end with [`blame`](crate::policy::crash::blame). All due tasks count as served. A task
    /// or job whose row cannot be read fails and keeps no other from being claimed.
    ///
    /// `limits` is called in the transaction, as late as possible: see [`crate::Queue::claim`].
    fn claim(
        &self,
        request: ClaimRequest,
        limits: impl Fn() -> ClaimLimits + Send + Sync + 'static,
    ) -> impl Future<Output = Result<ClaimedJobs, QueueError>> + Send;

    /// Writes what [`transition`](crate::policy::job::transition) and
    /// [`events`](crate::policy::job::events) say, and renews the lease for `lease` if the job goes
    /// on. Returns `false`, and changes nothing, unless the job is running with this attempt. The
    /// update that ends a task's last job also finishes the task.
    ///
    /// A row that is quarantined already is kept as it is.
    fn update_job(
        &self,
        job: Arc<Job>,
        update: JobUpdate,
        lease: Duration,
    ) -> impl Future<Output = Result<bool, QueueError>> + Send;

    /// The owner of this instance's leases, unlike that of any other instance.
    fn owner(&self) -> &Arc<str>;

    /// Returns the running jobs of this instance to the queue, to be claimed at once and without
    /// blame, and returns their number. If it fails, others find this instance dead once it has
    /// ended.
    fn release_all(&self) -> impl Future<Output = Result<usize, QueueError>> + Send;

    /// Ends the leases of instances that are dead, with [`blame`](crate::policy::crash::blame),
    /// and returns the number of leases. An instance whose death is not certain is left alone.
    fn end_leases_of_dead_instances(&self) -> impl Future<Output = Result<usize, QueueError>> + Send;

    /// For how long the other instances certainly do not take this one for dead, and a lease that was
    /// claimed or renewed at `confirmed_at` for lost. Zero if they may have done so since.
    fn alive_for(&self, confirmed_at: std::time::Instant) -> Duration;

    /// See [`crate::Queue::instances`].
    fn instances(&self) -> impl Future<Output = Result<Vec<InstanceRow>, QueueError>> + Send;

    /// See [`crate::Queue::drain_instance`].
    fn drain_instance(&self, id: &str, drains: bool) -> impl Future<Output = Result<bool, QueueError>> + Send;

    /// Whether this instance was asked to hand its jobs back.
    fn is_draining(&self) -> bool;

    /// Set again at least once a second, while instances look for dead ones.
    fn place(&self) -> &Place;

    /// Waits for a hint that another instance has appended to a log which is followed here. Hints
    /// may be lost, or never come. The future does not keep the store open.
    fn others_logged(&self) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    /// The task, if it exists. Sees every change that was answered before, as do the other reads.
    fn task(&self, id: TaskId) -> impl Future<Output = Result<Option<TaskRow>, QueueError>> + Send;

    /// At most `limit` entries of a task's log after `seq`, in order.
    fn log_after(&self, task: TaskId, seq: u64, limit: u64) -> impl Future<Output = Result<Vec<LogEntry>, QueueError>> + Send;

    /// The last sequence numbers of the logs of `tasks`, however many these are; those of tasks
    /// that do not exist are left out.
    fn last_seqs(&self, tasks: &[TaskId]) -> impl Future<Output = Result<Vec<(TaskId, u64)>, QueueError>> + Send;

    /// See [`crate::Queue::tasks_due`].
    fn tasks_due(&self, limits: &ClaimLimits) -> impl Future<Output = Result<Vec<TaskId>, QueueError>> + Send;

    /// The unfinished tasks that are being cancelled, are paused, or have a rate.
    fn steering(&self) -> impl Future<Output = Result<Vec<Steering>, QueueError>> + Send;

    /// See [`crate::Queue::tasks`].
    fn tasks(
        &self,
        filter: &TaskFilter,
        before: Option<TaskId>,
        limit: u32,
    ) -> impl Future<Output = Result<TaskPage, QueueError>> + Send;

    /// A task with its counts, if it exists.
    fn task_detail(&self, id: TaskId) -> impl Future<Output = Result<Option<TaskDetail>, QueueError>> + Send;

    /// See [`crate::Queue::jobs`].
    fn jobs(
        &self,
        task: TaskId,
        states: &[JobState],
        after: Option<u64>,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<JobRow>, QueueError>> + Send;

    /// See [`crate::Queue::quarantine_page`].
    fn quarantine_page(
        &self,
        task: TaskId,
        after: Option<&QuarantineCursor>,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<(Uuid, QuarantinedRow)>, QueueError>> + Send;

    /// See [`crate::Queue::overlaps`].
    fn overlaps(&self, query: OverlapQuery, limit: u32) -> impl Future<Output = Result<Vec<TaskRow>, QueueError>> + Send;

    /// The quarantined rows of a task, each with its device, ordered by device, time and key.
    fn quarantined_rows(&self, task: TaskId) -> impl Future<Output = Result<Vec<(Uuid, QuarantinedRow)>, QueueError>> + Send;

    /// The number of unfinished jobs, and how long the oldest due one has been waiting.
    fn backlog(&self) -> impl Future<Output = Result<Backlog, QueueError>> + Send;

    /// Removes tasks that finished before `before_ms` with all that belongs to them, in several
    /// transactions, and returns their number.
    fn prune(&self, before_ms: i64) -> impl Future<Output = Result<u64, QueueError>> + Send;

    /// Commits a small change and checks that what is written will be found again.
    fn probe(&self) -> impl Future<Output = Result<(), ProbeError>> + Send;

    /// The size of the store on disk in bytes.
    fn disk_bytes(&self) -> impl Future<Output = u64> + Send;

    /// The kind of database, to be shown.
    fn kind(&self) -> &'static str;

    /// The wall-clock time in milliseconds since 1970.
    fn now_ms(&self) -> i64;

    /// Waits until the store has failed for good, so that the process should exit.
    fn died(&self) -> impl Future<Output = ()> + Send;

    /// Completes the pending operations. Later ones fail with [`QueueError::Closed`].
    fn close(&self) -> impl Future<Output = ()> + Send;
}

/// What a store is opened with, beside its options.
#[derive(Debug, Clone)]
pub(crate) struct StoreContext {
    pub clock: Clock,
    pub hub: LogHub,
    pub metrics: QueueMetrics,
}

/// An open store of any kind.
pub(crate) enum AnyStore {
    Sqlite(SqliteStore),
    Postgres(PostgresStore),
}

impl AnyStore {
    /// Opens the store that `options` name; creates its tables if there are none, and migrates them.
    pub async fn open(options: &QueueOptions, context: StoreContext) -> Result<Self, OpenError> {
        if options.is_postgres() {
            let open: Pin<Box<dyn Future<Output = _> + Send + '_>> = Box::pin(PostgresStore::open(options, context));
            return open.await.map(Self::Postgres);
        }
        SqliteStore::open(options, context).await.map(Self::Sqlite)
    }
}

/// Opens a queue to be copied, or to be copied to.
pub(crate) async fn open_for_copy(options: &QueueOptions, clock: Clock, role: Role) -> Result<Box<dyn CopyEnd>, CopyError> {
    if options.is_postgres() {
        return Ok(Box::new(postgres::PostgresEnd::open(options, clock, role).await?));
    }
    Ok(Box::new(sqlite::SqliteEnd::open(options, clock, role).await?))
}

/// Calls the same operation on whatever kind of store it is.
macro_rules! dispatch {
    ($any:expr, $store:ident => $call:expr) => {
        match $any {
            AnyStore::Sqlite($store) => $call,
            AnyStore::Postgres($store) => $call,
        }
    };
}

/// As `dispatch!`, for an operation that is awaited. The futures of PostgreSQL are boxed: an
/// allocation is nothing beside a way to the server, and those of SQLite stay small.
macro_rules! dispatch_async {
    ($any:expr, $store:ident => $call:expr) => {
        match $any {
            AnyStore::Sqlite($store) => $call,
            AnyStore::Postgres($store) => {
                let call: Pin<Box<dyn Future<Output = _> + Send + '_>> = Box::pin(async move { $call });
                call.await
            }
        }
    };
}

impl Store for AnyStore {
    async fn submit(&self, submission: Submission) -> Result<Submitted, QueueError> {
        dispatch_async!(self, store => store.submit(submission).await)
    }

    async fn steer(&self, task: TaskId, steer: Steer, by: Option<Requester>) -> Result<Option<Steered>, QueueError> {
        dispatch_async!(self, store => store.steer(task, steer, by).await)
    }

    async fn claim(
        &self,
        request: ClaimRequest,
        limits: impl Fn() -> ClaimLimits + Send + Sync + 'static,
    ) -> Result<ClaimedJobs, QueueError> {
        dispatch_async!(self, store => store.claim(request, limits).await)
    }

    async fn update_job(&self, job: Arc<Job>, update: JobUpdate, lease: Duration) -> Result<bool, QueueError> {
        dispatch_async!(self, store => store.update_job(job, update, lease).await)
    }

    fn owner(&self) -> &Arc<str> {
        dispatch!(self, store => store.owner())
    }

    async fn release_all(&self) -> Result<usize, QueueError> {
        dispatch_async!(self, store => store.release_all().await)
    }

    async fn end_leases_of_dead_instances(&self) -> Result<usize, QueueError> {
        dispatch_async!(self, store => store.end_leases_of_dead_instances().await)
    }

    fn alive_for(&self, confirmed_at: std::time::Instant) -> Duration {
        dispatch!(self, store => store.alive_for(confirmed_at))
    }

    async fn instances(&self) -> Result<Vec<InstanceRow>, QueueError> {
        dispatch_async!(self, store => store.instances().await)
    }

    async fn drain_instance(&self, id: &str, drains: bool) -> Result<bool, QueueError> {
        dispatch_async!(self, store => store.drain_instance(id, drains).await)
    }

    fn is_draining(&self) -> bool {
        dispatch!(self, store => store.is_draining())
    }

    fn place(&self) -> &Place {
        dispatch!(self, store => store.place())
    }

    fn others_logged(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        dispatch!(self, store => store.others_logged())
    }

    async fn task(&self, id: TaskId) -> Result<Option<TaskRow>, QueueError> {
        dispatch_async!(self, store => store.task(id).await)
    }

    async fn log_after(&self, task: TaskId, seq: u64, limit: u64) -> Result<Vec<LogEntry>, QueueError> {
        dispatch_async!(self, store => store.log_after(task, seq, limit).await)
    }

    async fn last_seqs(&self, tasks: &[TaskId]) -> Result<Vec<(TaskId, u64)>, QueueError> {
        dispatch_async!(self, store => store.last_seqs(tasks).await)
    }

    async fn tasks_due(&self, limits: &ClaimLimits) -> Result<Vec<TaskId>, QueueError> {
        dispatch_async!(self, store => store.tasks_due(limits).await)
    }

    async fn steering(&self) -> Result<Vec<Steering>, QueueError> {
        dispatch_async!(self, store => store.steering().await)
    }

    async fn tasks(&self, filter: &TaskFilter, before: Option<TaskId>, limit: u32) -> Result<TaskPage, QueueError> {
        dispatch_async!(self, store => store.tasks(filter, before, limit).await)
    }

    async fn task_detail(&self, id: TaskId) -> Result<Option<TaskDetail>, QueueError> {
        dispatch_async!(self, store => store.task_detail(id).await)
    }

    async fn jobs(&self, task: TaskId, states: &[JobState], after: Option<u64>, limit: u32) -> Result<Vec<JobRow>, QueueError> {
        dispatch_async!(self, store => store.jobs(task, states, after, limit).await)
    }

    async fn quarantine_page(
        &self,
        task: TaskId,
        after: Option<&QuarantineCursor>,
        limit: u32,
    ) -> Result<Vec<(Uuid, QuarantinedRow)>, QueueError> {
        dispatch_async!(self, store => store.quarantine_page(task, after, limit).await)
    }

    async fn overlaps(&self, query: OverlapQuery, limit: u32) -> Result<Vec<TaskRow>, QueueError> {
        dispatch_async!(self, store => store.overlaps(query, limit).await)
    }

    async fn quarantined_rows(&self, task: TaskId) -> Result<Vec<(Uuid, QuarantinedRow)>, QueueError> {
        dispatch_async!(self, store => store.quarantined_rows(task).await)
    }

    async fn backlog(&self) -> Result<Backlog, QueueError> {
        dispatch_async!(self, store => store.backlog().await)
    }

    async fn prune(&self, before_ms: i64) -> Result<u64, QueueError> {
        dispatch_async!(self, store => store.prune(before_ms).await)
    }

    async fn probe(&self) -> Result<(), ProbeError> {
        dispatch_async!(self, store => store.probe().await)
    }

    async fn disk_bytes(&self) -> u64 {
        dispatch_async!(self, store => store.disk_bytes().await)
    }

    fn kind(&self) -> &'static str {
        dispatch!(self, store => store.kind())
    }

    fn now_ms(&self) -> i64 {
        dispatch!(self, store => store.now_ms())
    }

    async fn died(&self) {
        dispatch_async!(self, store => store.died().await);
    }

    async fn close(&self) {
        dispatch_async!(self, store => store.close().await);
    }
}
