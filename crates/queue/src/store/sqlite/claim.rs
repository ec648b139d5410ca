//! Claiming jobs. Each claim is one transaction, and tasks take turns.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    sql::{self, DueRow, Suspects},
    writer::Tx,
};
use crate::{
    Lease, Queue, QueueError, TaskRow,
    lease::{self, Job, JobUpdate},
    policy::crash,
    task::{Event, JobChange, JobState, TaskId},
};

/// The limits of a claim.
///
/// ```
/// use std::collections::HashMap;
///
/// use data_patch_queue::ClaimLimits;
///
/// // Eight jobs, but none of the topic `readings`.
/// let topics = HashMap::from([("readings".to_owned(), 0)]);
/// let limits = ClaimLimits { jobs: 8, topics, suspects: 1 };
/// assert_eq!(limits.closed_topics(), ["readings"]);
/// ```
#[derive(Debug, Clone, Default)]
pub struct ClaimLimits {
    /// Jobs in total.
    pub jobs: usize,
    /// Jobs per topic, for topics with a limit below `jobs`.
    pub topics: HashMap<String, usize>,
    /// Jobs that are suspected of crashing their instance. Running one at a time shows which of
    /// them is the cause.
    pub suspects: usize,
}

impl ClaimLimits {
    /// Topics of which no job may be claimed.
    pub fn closed_topics(&self) -> Vec<&str> {
        self.topics.iter().filter(|(_, limit)| **limit == 0).map(|(topic, _)| topic.as_str()).collect()
    }
}

impl From<usize> for ClaimLimits {
    /// `jobs` jobs of any topic, at most one of them a suspect.
    fn from(jobs: usize) -> Self {
        Self { jobs, topics: HashMap::new(), suspects: 1 }
    }
}

/// The result of a claim.
#[derive(Debug, Default)]
pub struct Claimed {
    /// One lease per claimed job.
    pub leases: Vec<Lease>,
    /// Jobs that were failed instead of leased, because they crashed their worker repeatedly.
    pub failed_crash_looping: usize,
}

/// The parameters of a claim.
struct Claim {
    owner: Arc<str>,
    limits: ClaimLimits,
    lease: Duration,
    max_crashes: u32,
}

impl Queue {
    /// Leases jobs that are due: queued jobs whose backoff is over, and running jobs whose lease
    /// has expired. Tasks take turns. Each lease is valid for `lease`.
    ///
    /// `limits` is called at the end of the transaction, so that the claim also fills the slots of
    /// jobs that end in the same transaction. A job that is the likely cause of `max_crashes`
    /// consecutive crashes, with no row published in between, is failed.
    ///
    /// # Errors
    /// The file cannot be written; nothing was leased.
    pub async fn claim<L: Into<ClaimLimits>>(
        &self,
        owner: &Arc<str>,
        limits: impl Fn() -> L + Send + 'static,
        lease: Duration,
        max_crashes: u32,
    ) -> Result<Claimed, QueueError> {
        let owner = Arc::clone(owner);
        // Taken before the commit: the worker must never believe that its lease ends later than the
        // queue does.
        let requested_at = Instant::now();
        let claim = move |tx: &mut Tx<'_>| {
            let claim = Claim { owner: Arc::clone(&owner), limits: limits().into(), lease, max_crashes };
            ClaimTransaction::new(tx, &claim)?.run()
        };
        let (jobs, failed_crash_looping) = self.inner.writer.write_at_end_of_batch(claim).await?;
        self.inner.metrics.claim_seconds.observe(requested_at.elapsed().as_secs_f64());
        let leases = jobs.into_iter().map(|job| Lease::new(self.clone(), job, requested_at, lease)).collect();
        Ok(Claimed { leases, failed_crash_looping })
    }

    /// Expires the leases of dead services on this file, so that their jobs need not wait for the
    /// end of the lease. Returns the number of leases.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn expire_leases_of_dead_instances(&self) -> Result<usize, QueueError> {
        let dead = self.inner.instance.find_dead().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot look for dead services; their leases end by timeout");
            Vec::new()
        });
        let mut expired = 0;
        for dead in dead {
            let id = dead.id.clone();
            let leases = self.inner.writer.write(move |tx| end_leases_after_crash(tx, &id, i64::MAX)).await?;
            if leases > 0 {
                tracing::warn!(service = dead.id, leases, "a service on this queue died; its jobs resume from their checkpoints");
            }
            expired += leases;
            dead.remove();
        }
        Ok(expired)
    }

    /// The owner id of this service's leases.
    pub fn owner(&self) -> Arc<str> {
        Arc::clone(self.inner.instance.id())
    }

    /// At most `limit` tasks with claimable jobs, the least recently served first. Tasks of
    /// `closed_topics` are left out.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn tasks_due(&self, limit: u64, closed_topics: &[&str]) -> Result<Vec<TaskId>, QueueError> {
        let due = sql::tasks_due(self.inner.clock.steady_ms(), limit, closed_topics);
        self.inner.readers.rows(due, sql::read_task_id).await
    }
}

/// Expires the leases of an instance that end by `until_ms` and assigns the blame for the crash to
/// its jobs. Returns the number of leases.
fn end_leases_after_crash(tx: &Tx<'_>, owner: &str, until_ms: i64) -> rusqlite::Result<usize> {
    let mut jobs = tx.rows(&sql::in_progress(owner, until_ms), sql::read_in_progress)?;
    crash::blame(&mut jobs);
    for job in &jobs {
        tx.run(&sql::end_lease_after_crash(job, tx.now_ms))?;
    }
    Ok(jobs.len())
}

/// The state of one claim.
struct ClaimTransaction<'c, 'tx, 'db> {
    tx: &'tx mut Tx<'db>,
    claim: &'c Claim,
    /// Suspects that may still be leased. `None` while the queue has no suspect, which is the usual
    /// case and needs fewer statements.
    suspects_left: Option<usize>,
    topics_left: HashMap<String, usize>,
    jobs: Vec<Job>,
    failed_crash_looping: usize,
}

impl<'c, 'tx, 'db> ClaimTransaction<'c, 'tx, 'db> {
    fn new(tx: &'tx mut Tx<'db>, claim: &'c Claim) -> rusqlite::Result<Self> {
        let mut transaction = Self {
            tx,
            claim,
            suspects_left: None,
            topics_left: claim.limits.topics.clone(),
            jobs: Vec::new(),
            failed_crash_looping: 0,
        };
        transaction.check_for_suspects()?;
        Ok(transaction)
    }

    fn check_for_suspects(&mut self) -> rusqlite::Result<()> {
        if self.suspects_left.is_none() && !self.tx.rows(&sql::any_suspect(), |_| Ok(()))?.is_empty() {
            self.suspects_left = Some(self.claim.limits.suspects);
        }
        Ok(())
    }

    fn run(mut self) -> rusqlite::Result<(Vec<Job>, usize)> {
        let limit = self.claim.limits.jobs;
        let mut tasks = self.tasks_due()?;
        // A task with fewer due jobs than its share leaves the rest to the others.
        while self.jobs.len() < limit && !tasks.is_empty() {
            let (mut left, mut unexhausted) = (limit - self.jobs.len(), Vec::new());
            for (index, task) in tasks.iter().enumerate() {
                // An equal share of the remaining slots, rounded up so that none stays unused.
                let fair = left.div_ceil(tasks.len() - index);
                let share = self.topics_left.get(&task.topic).map_or(fair, |left| fair.min(*left));
                if share == 0 {
                    continue;
                }
                left -= share;
                let rows = self.lease_due_jobs(task, share)?;
                if let Some(left) = self.topics_left.get_mut(&task.topic) {
                    *left -= rows.len().min(*left);
                }
                if rows.len() == share {
                    unexhausted.push(Arc::clone(task));
                }
                for row in rows {
                    self.add_claimed(task, row)?;
                }
            }
            tasks = unexhausted;
        }
        Ok((self.jobs, self.failed_crash_looping))
    }

    /// The tasks of this claim. Each counts as served, even if it gets no job.
    fn tasks_due(&mut self) -> rusqlite::Result<Vec<Arc<TaskRow>>> {
        let limits = &self.claim.limits;
        let mut served_seq = self.tx.rows(&sql::max_served_seq(), sql::read_max_served_seq)?.pop().unwrap_or(0);
        let due = sql::tasks_due(self.tx.now_ms, limits.jobs as u64, &limits.closed_topics());
        let due = self.tx.rows(&due, sql::read_task_or_id)?;
        let mut tasks = Vec::with_capacity(due.len());
        for task in due {
            match task {
                Ok(task) => {
                    served_seq += 1;
                    self.tx.run(&sql::set_task_served(task.id, served_seq))?;
                    tasks.push(Arc::new(task));
                }
                Err((id, error)) => fail_unreadable_task(self.tx, id, &error)?,
            }
        }
        Ok(tasks)
    }

    /// Leases at most `share` due jobs of a task.
    fn lease_due_jobs(&mut self, task: &TaskRow, share: usize) -> rusqlite::Result<Vec<DueRow>> {
        let mut due = self.due_jobs(task, share)?;
        let lost_owners: BTreeSet<String> = due.iter_mut().filter_map(|job| job.lost_owner.take()).collect();
        if !lost_owners.is_empty() {
            // These leases expired although their instances are alive or cannot be proven dead. All
            // expired leases of an instance are handled together, because the blame depends on
            // which jobs ran together.
            for owner in lost_owners {
                end_leases_after_crash(self.tx, &owner, self.tx.now_ms)?;
            }
            self.check_for_suspects()?;
            due = self.due_jobs(task, share)?;
        }
        if let Some(left) = &mut self.suspects_left {
            let suspects = due.iter().filter(|job| job.suspected >= crash::ISOLATE_AFTER).count();
            *left -= suspects.min(*left);
        }
        // The jobs that are due longest were selected; they are leased and returned in the order of
        // the request.
        due.sort_by_key(|job| job.ordinal);
        let until_ms = self.tx.now_ms + lease::millis(self.claim.lease);
        for job in &due {
            self.tx.run(&sql::lease(job, &self.claim.owner, until_ms))?;
        }
        Ok(due)
    }

    /// At most `limit` jobs of a task that are due and may run now.
    fn due_jobs(&mut self, task: &TaskRow, limit: usize) -> rusqlite::Result<Vec<DueRow>> {
        let Some(suspects) = self.suspects_left else { return self.read_due_jobs(task, limit, Suspects::Included) };
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

    /// Adds a leased job to the result, unless the job ends here: its task is cancelled, or it
    /// crashed too often.
    fn add_claimed(&mut self, task: &Arc<TaskRow>, row: DueRow) -> rusqlite::Result<()> {
        let (lost, crashes, suspected) = (row.lost, row.crashes, row.suspected);
        let job = Job::new(Arc::clone(task), row);
        if task.cancel_requested {
            return cancel_after_crash(self.tx, &job);
        }
        if crashes >= self.claim.max_crashes {
            self.failed_crash_looping += 1;
            return fail_crash_looping(self.tx, &job, crashes);
        }
        if lost {
            tracing::warn!(
                task = %task.id, device = %job.device, published = job.progress.published, crashes, suspected,
                "a job resumes from its checkpoint: its previous worker was lost"
            );
            let event = Event::TakenOver { device: job.device, published: job.progress.published };
            self.tx.log(task.id, vec![event], None)?;
        }
        self.jobs.push(job);
        Ok(())
    }
}

fn fail_crash_looping(tx: &mut Tx<'_>, job: &Job, crashes: u32) -> rusqlite::Result<()> {
    tracing::error!(task = %job.task.id, device = %job.device, crashes, "the job is failed: its worker died repeatedly");
    let reason = format!(
        "its worker died {crashes} times in a row with no row published in between, and no other job is as likely the cause; see the \
         service's log of those moments, then submit it again"
    );
    let update = JobUpdate {
        change: Some((JobChange::Fail, None)),
        events: vec![Event::Failed { device: Some(job.device), name: job.name.clone(), reason: reason.clone() }],
        reason: Some(reason),
        ..JobUpdate::default()
    };
    lease::apply(tx, job, &update, tx.now_ms).map(|_| ())
}

/// Ends the job of a cancelled task whose worker was lost before it could store its progress.
fn cancel_after_crash(tx: &mut Tx<'_>, job: &Job) -> rusqlite::Result<()> {
    let update = JobUpdate {
        change: Some((JobChange::Cancel, None)),
        events: vec![Event::Cancelled {
            device: job.device,
            published: job.progress.published,
            unanswered: 0,
            worker_died: true,
        }],
        ..JobUpdate::default()
    };
    lease::apply(tx, job, &update, tx.now_ms).map(|_| ())
}

/// Fails a job whose row cannot be read, so that it does not block other claims.
fn fail_unreadable_job(tx: &mut Tx<'_>, task: &TaskRow, id: i64, error: &rusqlite::Error) -> rusqlite::Result<()> {
    let reason = format!("its entry in the queue (job {id}) cannot be read: {error}. Submit the device again");
    tracing::error!(task = %task.id, job = id, %error, "a job's entry in the queue cannot be read; the job is failed, its task continues");
    tx.run(&sql::end_job(id, JobState::Failed, Some(&reason)))?;
    let mut events = vec![Event::Failed { device: None, name: None, reason }];
    let final_state = lease::finish_task_if_done(tx, task, &mut events)?;
    tx.log(task.id, events, final_state).map(|_| ())
}

fn fail_unreadable_task(tx: &Tx<'_>, id: String, error: &rusqlite::Error) -> rusqlite::Result<()> {
    tracing::error!(task = id, %error, "a task's entry in the queue cannot be read; the task is failed, other tasks continue. Submit it again");
    tx.run(&sql::fail_jobs_of_unreadable_task(id.clone(), "the task's entry in the queue cannot be read"))?;
    tx.run(&sql::fail_unreadable_task(id, tx.wall_ms)).map(|_| ())
}

impl Job {
    fn new(task: Arc<TaskRow>, row: DueRow) -> Self {
        Self {
            id: row.id,
            task,
            device: row.device,
            name: row.device_name,
            attempt: row.attempt,
            outages: row.outages,
            is_suspect: row.suspected >= crash::ISOLATE_AFTER,
            total: row.total,
            progress: row.progress,
            layout: row.layout,
        }
    }
}
