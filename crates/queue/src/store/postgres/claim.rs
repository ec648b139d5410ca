//! Claiming due jobs, and ending the leases of lost workers.
//!
//! Claims of all instances take turns (the claim lock), so that fair shares and the isolation of
//! suspects hold for all of them together.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use sqlx::{PgConnection, Result, Row, postgres::PgRow, query, query_scalar};
use uuid::Uuid;

use super::{
    Shared,
    connections::{lend, transact},
    due::{DueJob, due_jobs, in_progress_of_things, select_tasks_due, tasks_due},
    error::Failure,
    rows::{self, number, task_columns},
    transaction::{Locked, now_ms},
    update::JobColumns,
};
use crate::{
    ClaimLimits, Job, TaskRow,
    lease::JobUpdate,
    policy::{
        claim::{Start, start},
        crash::{self, InProgress},
        job::{events, transition, unreadable_reason},
        millis,
        turns::{Leased, Turn, Turns},
    },
    store::{ClaimRequest, ClaimedJobs, report_start},
    task::{Event, LogEntry, TaskId},
};

/// Leases due jobs.
pub async fn claim(
    shared: &Shared,
    request: &ClaimRequest,
    limits: &(impl Fn() -> ClaimLimits + Sync),
) -> std::result::Result<ClaimedJobs, Failure> {
    if shared.instance.needs_renewal(&shared.clock) {
        // Others may take this instance for dead. A lease that is claimed now would be over at once.
        shared.instance.renew(shared).await?;
        return Ok(ClaimedJobs::default());
    }
    // Most claims of an idle instance find nothing: one statement, and no lock.
    let first = limits();
    if first.jobs == 0 || lend!(shared.connections, connection => tasks_due(connection, &shared.clock, &first, 1))?.is_empty() {
        return Ok(ClaimedJobs::default());
    }
    let mut taken = Vec::new();
    let claimed = transact!(shared, transaction => {
        let claimed = ClaimTransaction::run(&mut transaction, shared, request, limits).await?;
        taken.extend(claimed.0.leased.iter().map(|job| (job.id, job.attempt)));
        claimed
    });
    let is_over = shared.instance.alive_for(&shared.clock, request.requested_at).is_zero();
    if is_over || claimed.is_err() {
        // It may have been committed although the answer was lost.
        shared.instance.abandon(taken);
    }
    let (claimed, entries) = claimed?;
    shared.publish(entries);
    Ok(if is_over { ClaimedJobs::default() } else { claimed })
}

/// Expires the leases of an instance that end by `until_ms`, or all of them, and assigns the blame
/// for the crash to its jobs. Returns the number of leases.
pub async fn end_leases_after_crash(
    connection: &mut PgConnection,
    owner: &str,
    until_ms: Option<i64>,
    now_ms: i64,
) -> Result<usize> {
    let sql = "SELECT id, crashes, suspected, waiting FROM job
               WHERE owner = $1 AND state = 'running' AND lease_until <= COALESCE($2, lease_until) ORDER BY id FOR UPDATE";
    let jobs = query(sql).bind(owner).bind(until_ms).fetch_all(&mut *connection).await?;
    let mut jobs = jobs.iter().map(in_progress).collect::<Result<Vec<_>>>()?;
    crash::blame(&mut jobs);
    // Without an owner, so that the crash counts only once.
    query(
        "UPDATE job SET crashes = new.crashes, suspected = new.suspected, waiting = FALSE, owner = NULL, due_at = $4, lease_until = NULL
         FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS new (id, crashes, suspected) WHERE job.id = new.id",
    )
    .bind(jobs.iter().map(|job| job.id).collect::<Vec<_>>())
    .bind(jobs.iter().map(|job| i64::from(job.crashes)).collect::<Vec<_>>())
    .bind(jobs.iter().map(|job| i64::from(job.suspected)).collect::<Vec<_>>())
    .bind(now_ms)
    .execute(connection)
    .await?;
    Ok(jobs.len())
}

fn in_progress(row: &PgRow) -> Result<InProgress> {
    Ok(InProgress {
        id: row.try_get("id")?,
        crashes: number(row, "crashes")?,
        suspected: number(row, "suspected")?,
        waiting: row.try_get("waiting")?,
    })
}

async fn any_suspect(connection: &mut PgConnection) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM job WHERE suspected > 1 AND state IN ('queued', 'running'))";
    query_scalar(sql).fetch_one(connection).await
}

/// The state of one claim.
struct ClaimTransaction<'c> {
    connection: &'c mut PgConnection,
    request: &'c ClaimRequest,
    limits: ClaimLimits,
    /// The jobs in progress of each thing.
    of_things: HashMap<Uuid, usize>,
    locked: Locked,
    /// The tasks of this claim, in the order of their turns.
    tasks: Vec<Arc<TaskRow>>,
    /// Their due jobs that are not taken, the longest due first.
    due: Vec<VecDeque<DueJob>>,
    taken: BTreeSet<i64>,
    /// Jobs have ended at once since `due` was read, and occupy no slot: there may be more to take.
    may_take_more: bool,
    claimed: ClaimedJobs,
    /// Jobs that end at once, and why.
    ending: Vec<(Job, JobUpdate)>,
}

impl<'c> ClaimTransaction<'c> {
    async fn run(
        connection: &'c mut PgConnection,
        shared: &Shared,
        request: &'c ClaimRequest,
        limits: &(impl Fn() -> ClaimLimits + Sync),
    ) -> Result<(ClaimedJobs, Vec<LogEntry>)> {
        // The key is of this schema: other queues in the database do not wait.
        query("SELECT pg_advisory_xact_lock(hashtextextended('data-patch claim ' || current_schema(), 0))")
            .execute(&mut *connection)
            .await?;
        let limits = limits();
        let of_things = in_progress_of_things(connection, &shared.clock, &limits).await?;
        let due = query(select_tasks_due!(task_columns!()))
            .bind(shared.clock.manual_ms())
            .bind(limits.closed_topics())
            .bind(limits.closed_things(&of_things))
            .bind(rows::stored(limits.jobs as u64))
            .fetch_all(&mut *connection)
            .await?;
        let ids = due.iter().map(|row| row.try_get("id")).collect::<Result<Vec<Uuid>>>()?;
        let locked = Locked::lock(connection, &shared.clock, &ids).await?;
        let mut claim = Self {
            connection,
            request,
            limits,
            of_things,
            locked,
            tasks: Vec::new(),
            due: Vec::new(),
            taken: BTreeSet::new(),
            may_take_more: false,
            claimed: ClaimedJobs::default(),
            ending: Vec::new(),
        };
        claim.serve(due).await?;
        claim.take_turns().await?;
        claim.store().await
    }

    /// Counts the tasks as served. A task whose row cannot be read fails.
    async fn serve(&mut self, due: Vec<PgRow>) -> Result<()> {
        for row in due {
            // It may have been finished or paused before it was locked.
            let Some(locked) = self.locked.tasks.get(&rows::task_id(&row)?).filter(|locked| locked.is_claimable) else {
                continue;
            };
            match rows::task(&row) {
                Ok(task) => self.tasks.push(Arc::new(TaskRow { cancel_requested: locked.is_cancelling, ..task })),
                Err(error) => self.fail_unreadable_task(row.try_get("id")?, &error).await?,
            }
        }
        query(
            "UPDATE task SET state = 'running', served_seq = served.number
             FROM (SELECT id, nextval('task_served') AS number FROM unnest($1::uuid[]) AS due (id)) AS served
             WHERE task.id = served.id",
        )
        .bind(self.tasks.iter().map(|task| task.id.0).collect::<Vec<_>>())
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    async fn take_turns(&mut self) -> Result<()> {
        let tasks = self.tasks.clone();
        let of_tasks = tasks.iter().map(|task| (task.topic.as_str(), task.thing));
        let mut turns = Turns::new(self.limits.clone(), &self.of_things, of_tasks);
        if any_suspect(self.connection).await? {
            turns.limit_suspects();
        }
        self.read_due(&turns).await?;
        while let Some(turn) = turns.next() {
            let Some(task) = tasks.get(turn.task) else { break };
            if self.may_take_more && self.due.get(turn.task).is_some_and(|due| due.len() < turn.jobs) {
                self.read_due(&turns).await?;
            }
            let mut jobs = self.select(turn, turns.suspects_left());
            let lost_owners: BTreeSet<String> = jobs.iter_mut().filter_map(|job| job.lost_owner.take()).collect();
            if !lost_owners.is_empty() {
                // These leases expired although their instances are alive or cannot be proven dead.
                // All expired leases of an instance are handled together, because the blame depends
                // on which jobs ran together.
                for owner in lost_owners {
                    end_leases_after_crash(self.connection, &owner, Some(self.locked.now_ms), self.locked.now_ms).await?;
                }
                if turns.suspects_left().is_none() && any_suspect(self.connection).await? {
                    turns.limit_suspects();
                }
                self.read_due(&turns).await?;
                jobs = self.select(turn, turns.suspects_left());
            }
            jobs.sort_by_key(|job| job.ordinal);
            let suspects = jobs.iter().filter(|job| job.is_suspect).count();
            let mut leased = Leased { jobs: jobs.len(), suspects, ended: 0 };
            for job in jobs {
                if !self.start(task, &job).await? {
                    leased.ended += 1;
                    self.may_take_more = true;
                }
            }
            turns.record(turn, leased);
        }
        Ok(())
    }

    /// Reads the due jobs of all tasks, as many of each as could be leased.
    async fn read_due(&mut self, turns: &Turns<'_>) -> Result<()> {
        let limit = self.limits.jobs + self.taken.len();
        let separates_suspects = turns.suspects_left().is_some();
        let mut due = due_jobs(self.connection, &self.tasks, self.locked.now_ms, limit, separates_suspects).await?;
        for of_task in &mut due {
            of_task.retain(|job| !self.taken.contains(&job.id));
        }
        (self.due, self.may_take_more) = (due, false);
        Ok(())
    }

    /// Takes the due jobs of a turn.
    fn select(&mut self, turn: Turn, suspects: Option<usize>) -> Vec<DueJob> {
        let Some(due) = self.due.get_mut(turn.task) else { return Vec::new() };
        let Some(suspects) = suspects else { return due.drain(..turn.jobs.min(due.len())).collect() };
        let (mut selected, mut left) = (Vec::new(), VecDeque::new());
        for is_suspect in [true, false] {
            let most = if is_suspect { turn.jobs.min(suspects) } else { turn.jobs };
            for job in std::mem::take(due) {
                if job.is_suspect == is_suspect && selected.len() < most { selected.push(job) } else { left.push_back(job) }
            }
            std::mem::swap(due, &mut left);
        }
        selected
    }

    /// Takes a job, and returns whether it is to be worked on.
    async fn start(&mut self, task: &Arc<TaskRow>, due: &DueJob) -> Result<bool> {
        let (job, history, suspected) = match due.job(task, &self.request.owner) {
            Ok(job) => job,
            Err(error) => return self.fail_unreadable_job(task, due.id, &error).await.map(|()| false),
        };
        self.taken.insert(due.id);
        let start = start(&job, history, self.request.max_crashes);
        report_start(&job, &start, history, suspected);
        match start {
            Start::Run => {}
            Start::Resume(event) => self.locked.log(task.id, [event]),
            Start::CrashLoop(update) => {
                self.claimed.failed_crash_looping += 1;
                self.ending.push((job, update));
                return Ok(false);
            }
            Start::Cancelled(update) => {
                self.ending.push((job, update));
                return Ok(false);
            }
        }
        self.claimed.leased.push(job);
        Ok(true)
    }

    /// Stores the leases, and the ends of the jobs that end at once.
    async fn store(mut self) -> Result<(ClaimedJobs, Vec<LogEntry>)> {
        let taken: Vec<i64> = self.taken.iter().copied().collect();
        if !taken.is_empty() {
            query(
                "UPDATE job SET state = 'running', attempt = attempt + 1, owner = $2, due_at = NULL, lease_until = $3
                 WHERE id = ANY ($1)",
            )
            .bind(&taken)
            .bind(&*self.request.owner)
            .bind(self.locked.now_ms + millis(self.request.lease))
            .execute(&mut *self.connection)
            .await?;
        }
        if !self.ending.is_empty() {
            let mut columns = JobColumns::default();
            for (job, update) in &self.ending {
                let transition = transition(job, update, false, self.locked.now_ms, self.locked.now_ms);
                columns.push(job, &transition.map_err(|error| sqlx::Error::Encode(error.into()))?)?;
                self.locked.log(job.task.id, events(job, update));
            }
            columns.write(self.connection).await?;
            let tasks: BTreeMap<TaskId, &TaskRow> = self.ending.iter().map(|(job, _)| (job.task.id, &*job.task)).collect();
            self.locked.finish_if_done(self.connection, tasks.into_values()).await?;
        }
        let entries = self.locked.write(self.connection).await?;
        Ok((self.claimed, entries))
    }

    /// Fails a job whose row cannot be read, so that it does not block other claims.
    async fn fail_unreadable_job(&mut self, task: &TaskRow, id: i64, error: &sqlx::Error) -> Result<()> {
        let reason = unreadable_reason(id, error);
        tracing::error!(task = %task.id, job = id, %error, "a job's entry in the queue cannot be read; the job is failed, its task continues");
        query("UPDATE job SET state = 'failed', due_at = NULL, lease_until = NULL, reason = $2 WHERE id = $1")
            .bind(id)
            .bind(&reason)
            .execute(&mut *self.connection)
            .await?;
        self.locked.log(task.id, [Event::Failed { device: None, name: None, reason }]);
        self.locked.finish_if_done(self.connection, [task]).await
    }

    async fn fail_unreadable_task(&mut self, id: Uuid, error: &sqlx::Error) -> Result<()> {
        tracing::error!(task = %id, %error, "a task's entry in the queue cannot be read; the task is failed, other tasks continue. Submit it again");
        let reason = "the task's entry in the queue cannot be read";
        query(
            "UPDATE job SET state = 'failed', due_at = NULL, lease_until = NULL, reason = $2
             WHERE task_id = $1 AND state IN ('queued', 'running')",
        )
        .bind(id)
        .bind(reason)
        .execute(&mut *self.connection)
        .await?;
        query("UPDATE task SET state = 'failed', finished_at = $2 WHERE id = $1")
            .bind(id)
            .bind(self.locked.now_ms)
            .execute(&mut *self.connection)
            .await?;
        Ok(())
    }
}
