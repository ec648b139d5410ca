//! The queue in an SQLite file, shared by the services of one machine.
//!
//! All SQL is in `sql/`, all table and column names are in `schema.rs`, and all writes go through
//! `writer/`: one thread with one connection, many changes in one transaction. Reads have
//! connections of their own.

mod claim;
mod clock;
mod connection;
mod copy;
mod error;
mod instance;
mod list;
mod open;
mod probe;
mod schema;
mod sql;
mod submit;
mod update;
mod writer;

use std::{
    collections::{BTreeMap, HashMap},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::{ClaimRequest, ClaimedJobs, Store};
use crate::{
    Backlog, ClaimLimits, InstanceRow, Job, JobRow, OverlapQuery, ProbeError, QuarantineCursor, QueueError, Steer, Steered,
    Steering, Submission, Submitted, TaskDetail, TaskFilter, TaskPage, TaskRow,
    instances::Place,
    lease::JobUpdate,
    policy::millis,
    task::{JobState, LogEntry, QuarantinedRow, Requester, TaskId},
};
pub(crate) use copy::SqliteEnd;
use writer::Tx;

/// An open queue file.
pub(crate) struct SqliteStore {
    writer: writer::Writer,
    readers: connection::Readers,
    clock: clock::QueueClock,
    instance: instance::ServiceInstance,
    file: probe::Identity,
}

impl Store for SqliteStore {
    async fn submit(&self, submission: Submission) -> Result<Submitted, QueueError> {
        /// A task with this many devices is a large change.
        const LARGE_TASK_DEVICES: usize = 100;
        let is_large = submission.task.devices.len() >= LARGE_TASK_DEVICES;
        let submit = move |tx: &mut Tx<'_>| submit::submit(tx, &submission);
        if is_large { self.writer.write_large(submit).await } else { self.writer.write(submit).await }
    }

    async fn steer(&self, task: TaskId, steer: Steer, by: Option<Requester>) -> Result<Option<Steered>, QueueError> {
        self.writer.write(move |tx| submit::steer(tx, task, steer, by.clone())).await
    }

    /// Claims at the end of its transaction, after the updates that free slots.
    async fn claim(
        &self,
        request: ClaimRequest,
        limits: impl Fn() -> ClaimLimits + Send + Sync + 'static,
    ) -> Result<ClaimedJobs, QueueError> {
        self.writer.write_at_end_of_batch(move |tx| claim::claim(tx, &request, limits())).await
    }

    async fn update_job(&self, job: Arc<Job>, update: JobUpdate, lease: Duration) -> Result<bool, QueueError> {
        self.writer.write(move |tx| update::apply(tx, &job, &update, tx.now_ms + millis(lease))).await
    }

    fn owner(&self) -> &Arc<str> {
        self.instance.id()
    }

    async fn release_all(&self) -> Result<usize, QueueError> {
        let owner = Arc::clone(self.owner());
        let released = self.writer.write(move |tx| tx.run(&sql::release_all(&owner, tx.now_ms))).await;
        if released.as_ref().is_err_and(|error| !matches!(error, QueueError::Closed)) {
            self.instance.keep_lock_file();
        }
        released
    }

    async fn end_leases_of_dead_instances(&self) -> Result<usize, QueueError> {
        let dead = self.instance.find_dead().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot look for dead services; their leases end by timeout");
            Vec::new()
        });
        let mut expired = 0;
        for dead in dead {
            let id = dead.id.clone();
            let leases = self.writer.write(move |tx| claim::end_leases_after_crash(tx, &id, i64::MAX)).await?;
            if leases > 0 {
                tracing::warn!(service = dead.id, leases, "a service on this queue died; its jobs resume from their checkpoints");
            }
            expired += leases;
            dead.remove();
        }
        Ok(expired)
    }

    /// A lock tells the living from the dead: nobody is taken for dead for his silence.
    fn alive_for(&self, _confirmed_at: Instant) -> Duration {
        Duration::MAX
    }

    async fn instances(&self) -> Result<Vec<InstanceRow>, QueueError> {
        let mut tasks = BTreeMap::<String, Vec<String>>::from([(self.owner().to_string(), Vec::new())]);
        for (owner, task) in self.readers.rows(sql::owners(), sql::read_owner).await? {
            tasks.entry(owner).or_default().push(task);
        }
        let instances = tasks.into_iter().map(|(id, mut tasks)| {
            let is_own = *id == **self.owner();
            let running = tasks.len() as u64;
            tasks.sort_unstable();
            tasks.dedup();
            let process = is_own.then(|| self.instance.process(self.clock.wall_ms()));
            InstanceRow { id, process, is_draining: is_own && self.is_draining(), running, tasks: tasks.len() as u64 }
        });
        Ok(instances.collect())
    }

    /// The file tells other services nothing.
    async fn drain_instance(&self, id: &str, drains: bool) -> Result<bool, QueueError> {
        let is_own = *id == **self.owner();
        if is_own {
            self.instance.drain(drains);
        }
        Ok(is_own)
    }

    fn is_draining(&self) -> bool {
        self.instance.is_draining()
    }

    fn place(&self) -> &Place {
        &self.instance.place
    }

    /// A file tells nothing: it is polled.
    fn others_logged(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }

    async fn task(&self, id: TaskId) -> Result<Option<TaskRow>, QueueError> {
        Ok(self.readers.rows(sql::task(id), sql::read_task).await?.pop())
    }

    async fn log_after(&self, task: TaskId, seq: u64, limit: u64) -> Result<Vec<LogEntry>, QueueError> {
        self.readers.rows(sql::log_after(task, seq, limit), move |row| sql::read_log_entry(task, row)).await
    }

    async fn last_seqs(&self, tasks: &[TaskId]) -> Result<Vec<(TaskId, u64)>, QueueError> {
        /// Far below SQLite's limit on the variables of a statement.
        const MAX_TASKS_PER_QUERY: usize = 500;
        let mut lengths = Vec::with_capacity(tasks.len());
        for tasks in tasks.chunks(MAX_TASKS_PER_QUERY) {
            lengths.extend(self.readers.rows(sql::last_seqs(tasks), sql::read_log_length).await?);
        }
        Ok(lengths)
    }

    async fn tasks_due(&self, limits: &ClaimLimits) -> Result<Vec<TaskId>, QueueError> {
        let now_ms = self.clock.steady_ms();
        let mut of_things = HashMap::new();
        if limits.jobs_per_thing.is_some() {
            let of_tasks = self.readers.rows(sql::in_progress_of_tasks(now_ms), sql::read_in_progress_of_task).await?;
            claim::add_up(&mut of_things, of_tasks);
        }
        let due = sql::tasks_due(now_ms, limits.jobs as u64, &limits.closed_topics(), &limits.closed_things(&of_things));
        self.readers.rows(due, sql::read_task_id).await
    }

    async fn steering(&self) -> Result<Vec<Steering>, QueueError> {
        self.readers.rows(sql::steering(), sql::read_steering).await
    }

    async fn tasks(&self, filter: &TaskFilter, before: Option<TaskId>, limit: u32) -> Result<TaskPage, QueueError> {
        list::tasks(&self.readers, filter, before, limit).await
    }

    async fn task_detail(&self, id: TaskId) -> Result<Option<TaskDetail>, QueueError> {
        list::detail(&self.readers, id).await
    }

    async fn jobs(&self, task: TaskId, states: &[JobState], after: Option<u64>, limit: u32) -> Result<Vec<JobRow>, QueueError> {
        let to_wall_ms = self.clock.wall_ms() - self.clock.steady_ms();
        let jobs = sql::jobs(task, states, after, limit);
        self.readers.rows(jobs, move |row| sql::read_job(row, to_wall_ms)).await
    }

    async fn quarantine_page(
        &self,
        task: TaskId,
        after: Option<&QuarantineCursor>,
        limit: u32,
    ) -> Result<Vec<(Uuid, QuarantinedRow)>, QueueError> {
        self.readers.rows(sql::quarantine_page(task, after, limit), sql::read_quarantined).await
    }

    async fn overlaps(&self, query: OverlapQuery, limit: u32) -> Result<Vec<TaskRow>, QueueError> {
        list::overlaps(&self.readers, query, limit).await
    }

    async fn quarantined_rows(&self, task: TaskId) -> Result<Vec<(Uuid, QuarantinedRow)>, QueueError> {
        self.readers.rows(sql::quarantined_rows(task), sql::read_quarantined).await
    }

    async fn backlog(&self) -> Result<Backlog, QueueError> {
        let (jobs, due_at) = self.readers.rows(sql::backlog(), sql::read_backlog).await?.pop().unwrap_or_default();
        // The `due_at` of a running job is the end of its lease. It lies in the future, so it
        // counts as no wait.
        let waited_ms = due_at.map_or(0, |due_at| self.clock.steady_ms().saturating_sub(due_at));
        Ok(Backlog { jobs, oldest_due: Duration::from_millis(waited_ms.try_into().unwrap_or(0)) })
    }

    async fn prune(&self, before_ms: i64) -> Result<u64, QueueError> {
        let mut removed = 0;
        loop {
            // One task at a time: a task may have one row or many thousands.
            let prune = move |tx: &mut Tx<'_>| {
                let mut tasks = 0;
                while !tx.is_full() && tx.run(&sql::prune(before_ms, 1))? > 0 {
                    tasks += 1;
                }
                Ok((tasks, tx.is_full()))
            };
            let (tasks, is_full) = self.writer.write_large(prune).await?;
            removed += tasks;
            if !is_full {
                return Ok(removed);
            }
        }
    }

    async fn probe(&self) -> Result<(), ProbeError> {
        let touch = |tx: &mut Tx<'_>| tx.touch().and_then(|()| tx.newest_migration());
        let version = self.writer.write(touch).await?;
        let file = self.file.clone();
        if version > open::newest_known() {
            return Err(ProbeError::Newer { queue: file.display(), version });
        }
        spawn_blocking(move || file.check()).await.map_err(|_| QueueError::Closed)?
    }

    async fn disk_bytes(&self) -> u64 {
        let file = self.file.clone();
        spawn_blocking(move || file.bytes()).await.unwrap_or_default()
    }

    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn now_ms(&self) -> i64 {
        self.clock.wall_ms()
    }

    async fn died(&self) {
        self.writer.died().await;
    }

    async fn close(&self) {
        self.writer.close().await;
        self.readers.close();
    }
}
