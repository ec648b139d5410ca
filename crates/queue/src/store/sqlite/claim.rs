//! Claiming jobs. Each claim is one transaction, and tasks take turns.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use uuid::Uuid;

use super::{
    sql::{self, DueRow, Suspects},
    update,
    writer::Tx,
};
use crate::{
    ClaimLimits, Job, TaskRow,
    policy::{
        claim::{History, Start, start},
        crash,
        job::unreadable_reason,
        millis,
        turns::{Leased, Turn, Turns},
    },
    store::{ClaimRequest, ClaimedJobs, report_start},
    task::{Event, JobState},
};

/// Leases due jobs.
pub fn claim(tx: &mut Tx<'_>, request: &ClaimRequest, limits: ClaimLimits) -> rusqlite::Result<ClaimedJobs> {
    let has_suspect = any_suspect(tx)?;
    let mut of_things = HashMap::new();
    if limits.jobs_per_thing.is_some() {
        add_up(&mut of_things, tx.rows(&sql::in_progress_of_tasks(tx.now_ms), sql::read_in_progress_of_task)?);
    }
    let tasks = tasks_due(tx, &limits, &limits.closed_things(&of_things))?;
    let mut turns = Turns::new(limits, &of_things, tasks.iter().map(|task| (task.topic.as_str(), task.thing)));
    if has_suspect {
        turns.limit_suspects();
    }
    let mut transaction = ClaimTransaction { tx, request, turns, claimed: ClaimedJobs::default() };
    while let Some(turn) = transaction.turns.next() {
        let Some(task) = tasks.get(turn.task) else { break };
        transaction.take(turn, task)?;
    }
    Ok(transaction.claimed)
}

/// Expires the leases of an instance that end by `until_ms` and assigns the blame for the crash to
/// its jobs. Returns the number of leases.
pub fn end_leases_after_crash(tx: &Tx<'_>, owner: &str, until_ms: i64) -> rusqlite::Result<usize> {
    let mut jobs = tx.rows(&sql::in_progress(owner, until_ms), sql::read_in_progress)?;
    crash::blame(&mut jobs);
    for job in &jobs {
        tx.run(&sql::end_lease_after_crash(job, tx.now_ms))?;
    }
    Ok(jobs.len())
}

fn any_suspect(tx: &Tx<'_>) -> rusqlite::Result<bool> {
    Ok(!tx.rows(&sql::any_suspect(), |_| Ok(()))?.is_empty())
}

/// Adds the jobs in progress of tasks to those of their things.
pub fn add_up(of_things: &mut HashMap<Uuid, usize>, of_tasks: Vec<(Uuid, usize)>) {
    for (thing, jobs) in of_tasks {
        *of_things.entry(thing).or_default() += jobs;
    }
}

/// The tasks of this claim. Each counts as served, even if it gets no job.
fn tasks_due(tx: &Tx<'_>, limits: &ClaimLimits, closed_things: &[Uuid]) -> rusqlite::Result<Vec<Arc<TaskRow>>> {
    let mut served_seq = tx.rows(&sql::max_served_seq(), sql::read_max_served_seq)?.pop().unwrap_or(0);
    let due = sql::tasks_due(tx.now_ms, limits.jobs as u64, &limits.closed_topics(), closed_things);
    let due = tx.rows(&due, sql::read_task_or_id)?;
    let mut tasks = Vec::with_capacity(due.len());
    for task in due {
        match task {
            Ok(task) => {
                served_seq += 1;
                tx.run(&sql::set_task_served(task.id, served_seq))?;
                tasks.push(Arc::new(task));
            }
            Err((id, error)) => fail_unreadable_task(tx, id, &error)?,
        }
    }
    Ok(tasks)
}

/// The state of one claim.
struct ClaimTransaction<'c, 'tx, 'db> {
    tx: &'tx mut Tx<'db>,
    request: &'c ClaimRequest,
    turns: Turns<'c>,
    claimed: ClaimedJobs,
}

impl ClaimTransaction<'_, '_, '_> {
    /// Takes the turn of a task.
    fn take(&mut self, turn: Turn, task: &Arc<TaskRow>) -> rusqlite::Result<()> {
        let rows = self.lease_due_jobs(task, turn.jobs)?;
        let suspects = rows.iter().filter(|row| row.suspected >= crash::ISOLATE_AFTER).count();
        let mut leased = Leased { jobs: rows.len(), suspects, ended: 0 };
        for row in rows {
            if !self.start(task, row)? {
                leased.ended += 1;
            }
        }
        self.turns.record(turn, leased);
        Ok(())
    }

    /// Leases at most `limit` due jobs of a task.
    fn lease_due_jobs(&mut self, task: &TaskRow, limit: usize) -> rusqlite::Result<Vec<DueRow>> {
        let mut due = self.due_jobs(task, limit)?;
        let lost_owners: BTreeSet<String> = due.iter_mut().filter_map(|job| job.lost_owner.take()).collect();
        if !lost_owners.is_empty() {
            // These leases expired although their instances are alive or cannot be proven dead. All
            // expired leases of an instance are handled together, because the blame depends on
            // which jobs ran together.
            for owner in lost_owners {
                end_leases_after_crash(self.tx, &owner, self.tx.now_ms)?;
            }
            if self.turns.suspects_left().is_none() && any_suspect(self.tx)? {
                self.turns.limit_suspects();
            }
            due = self.due_jobs(task, limit)?;
        }
        // The jobs that are due longest were selected; they are leased and returned in the order of
        // the request.
        due.sort_by_key(|job| job.ordinal);
        let until_ms = self.tx.now_ms + millis(self.request.lease);
        for job in &due {
            self.tx.run(&sql::lease(job, &self.request.owner, until_ms))?;
        }
        Ok(due)
    }

    /// At most `limit` jobs of a task that are due and may run now.
    fn due_jobs(&mut self, task: &TaskRow, limit: usize) -> rusqlite::Result<Vec<DueRow>> {
        let Some(suspects) = self.turns.suspects_left() else { return self.read_due_jobs(task, limit, Suspects::Included) };
        let mut due = self.read_due_jobs(task, limit.min(suspects), Suspects::Only)?;
        due.extend(self.read_due_jobs(task, limit - due.len(), Suspects::Excluded)?);
        Ok(due)
    }

    fn read_due_jobs(&mut self, task: &TaskRow, limit: usize, suspects: Suspects) -> rusqlite::Result<Vec<DueRow>> {
        let mut jobs = Vec::with_capacity(limit.min(128));
        let due = sql::due_jobs(task.id, self.tx.now_ms, limit as u64, suspects);
        for job in self.tx.rows(&due, sql::read_due_or_id)? {
            match job {
                Ok(job) => jobs.push(job),
                Err((id, error)) => fail_unreadable_job(self.tx, task, id, &error)?,
            }
        }
        Ok(jobs)
    }

    /// Adds a leased job to the result, unless it ends here. Returns whether it was added.
    fn start(&mut self, task: &Arc<TaskRow>, row: DueRow) -> rusqlite::Result<bool> {
        let (history, suspected) = (History { lost: row.lost, crashes: row.crashes }, row.suspected);
        let job = row.into_job(Arc::clone(task), Arc::clone(&self.request.owner));
        let start = start(&job, history, self.request.max_crashes);
        report_start(&job, &start, history, suspected);
        let now_ms = self.tx.now_ms;
        match start {
            Start::Run => {}
            Start::Resume(event) => _ = self.tx.log(task.id, vec![event], None)?,
            Start::CrashLoop(update) => {
                self.claimed.failed_crash_looping += 1;
                return update::apply(self.tx, &job, &update, now_ms).map(|_| false);
            }
            Start::Cancelled(update) => return update::apply(self.tx, &job, &update, now_ms).map(|_| false),
        }
        self.claimed.leased.push(job);
        Ok(true)
    }
}

/// Fails a job whose row cannot be read, so that it does not block other claims.
fn fail_unreadable_job(tx: &mut Tx<'_>, task: &TaskRow, id: i64, error: &rusqlite::Error) -> rusqlite::Result<()> {
    let reason = unreadable_reason(id, error);
    tracing::error!(task = %task.id, job = id, %error, "a job's entry in the queue cannot be read; the job is failed, its task continues");
    tx.run(&sql::end_job(id, JobState::Failed, Some(&reason)))?;
    let mut events = vec![Event::Failed { device: None, name: None, reason }];
    let final_state = update::finish_task_if_done(tx, task, &mut events)?;
    tx.log(task.id, events, final_state).map(|_| ())
}

fn fail_unreadable_task(tx: &Tx<'_>, id: String, error: &rusqlite::Error) -> rusqlite::Result<()> {
    tracing::error!(task = id, %error, "a task's entry in the queue cannot be read; the task is failed, other tasks continue. Submit it again");
    tx.run(&sql::fail_jobs_of_unreadable_task(id.clone(), "the task's entry in the queue cannot be read"))?;
    tx.run(&sql::fail_unreadable_task(id, tx.wall_ms)).map(|_| ())
}

impl DueRow {
    fn into_job(self, task: Arc<TaskRow>, owner: Arc<str>) -> Job {
        Job {
            id: self.id,
            task,
            device: self.device,
            name: self.device_name,
            attempt: self.attempt,
            owner,
            outages: self.outages,
            is_suspect: self.suspected >= crash::ISOLATE_AFTER,
            total: self.total,
            progress: self.progress,
            layout: self.layout,
        }
    }
}
