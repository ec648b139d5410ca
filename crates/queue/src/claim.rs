//! Handing out leases: fair between tasks, in one transaction.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Lease, Queue, QueueError, TaskRow, crash,
    lease::{self, Job, JobUpdate},
    sql::{self, DueRow, Suspects},
    writer::Tx,
};
use crate::task::{Event, JobChange, JobState, TaskId};

/// What a claim may lease.
#[derive(Debug, Clone, Default)]
pub struct ClaimLimits {
    /// Jobs in all.
    pub jobs: usize,
    /// Jobs of a topic, for topics that may have fewer than `jobs`.
    pub topics: HashMap<String, usize>,
    /// Jobs that are suspected of having ended their instance; they are told apart by running one at a time.
    pub suspects: usize,
}

impl ClaimLimits {
    /// Topics that may have no job now.
    pub fn closed_topics(&self) -> Vec<&str> {
        self.topics.iter().filter(|(_, left)| **left == 0).map(|(topic, _)| topic.as_str()).collect()
    }
}

impl From<usize> for ClaimLimits {
    /// So many jobs, of any topic, and one suspect.
    fn from(jobs: usize) -> Self {
        Self { jobs, topics: HashMap::new(), suspects: 1 }
    }
}

/// What a claim brought.
#[derive(Debug, Default)]
pub struct Claimed {
    pub leases: Vec<Lease>,
    /// Jobs that were failed instead, since they ended their worker again and again.
    pub failed_crash_looping: usize,
}

/// What a claim asks for.
struct Claim {
    owner: Arc<str>,
    limits: ClaimLimits,
    lease: Duration,
    max_crashes: u32,
}

impl Queue {
    /// Leases jobs that are due: new ones, those whose backoff is over, and those whose worker has died. Tasks take turns.
    ///
    /// `limits` is asked at the end of the transaction: the places that come free by the jobs that end in it are filled in it.
    /// A job that is the likely cause of `max_crashes` crashes in a row, with nothing published in between, is failed.
    ///
    /// # Errors
    /// The file can't be written; nothing was leased.
    pub async fn claim<L: Into<ClaimLimits>>(
        &self,
        owner: &Arc<str>,
        limits: impl Fn() -> L + Send + 'static,
        lease: Duration,
        max_crashes: u32,
    ) -> Result<Claimed, QueueError> {
        let owner = Arc::clone(owner);
        // From before the commit: the worker thinks its lease shorter than the queue does, never longer.
        let asked = Instant::now();
        let claim = move |tx: &mut Tx<'_>| {
            let claim = Claim { owner: Arc::clone(&owner), limits: limits().into(), lease, max_crashes };
            ClaimTransaction::new(tx, &claim)?.run()
        };
        let (jobs, given_up) = self.inner.writer.write_at_end_of_batch(claim).await?;
        self.inner.metrics.claim_seconds.observe(asked.elapsed().as_secs_f64());
        let leases = jobs.into_iter().map(|job| Lease::new(self.clone(), job, asked, lease)).collect();
        Ok(Claimed { leases, failed_crash_looping: given_up })
    }

    /// Ends the leases of services on this file that are dead, so that nobody waits until they expire. Returns how many.
    ///
    /// # Errors
    /// The file can't be written.
    pub async fn expire_leases_of_dead_instances(&self) -> Result<usize, QueueError> {
        let dead = self.inner.owner.find_dead().unwrap_or_else(|error| {
            tracing::warn!(%error, "dead services can't be looked for; their leases expire");
            Vec::new()
        });
        let mut ended = 0;
        for dead in dead {
            let id = dead.id.clone();
            let leases = self.inner.writer.write(move |tx| end_leases_after_crash(tx, &id, i64::MAX)).await?;
            if leases > 0 {
                tracing::warn!(service = dead.id, leases, "a service on this queue has died; its jobs go on from their cursors");
            }
            ended += leases;
            dead.remove();
        }
        Ok(ended)
    }

    /// The name that this service's leases bear.
    pub fn owner(&self) -> Arc<str> {
        Arc::clone(self.inner.owner.id())
    }

    /// The tasks that have something to claim, at most `limit`, the one served longest ago first; not those of `closed_topics`.
    ///
    /// # Errors
    /// The file can't be read.
    pub async fn tasks_due(&self, limit: u64, closed_topics: &[&str]) -> Result<Vec<TaskId>, QueueError> {
        let due = sql::tasks_due(self.inner.clock.steady_ms(), limit, closed_topics);
        self.inner.readers.rows(due, sql::read_task_id).await
    }
}

/// Ends the leases of an instance that end by `until_ms` anyway, and decides which of its jobs is to blame. Returns how many.
fn end_leases_after_crash(tx: &Tx<'_>, owner: &str, until_ms: i64) -> rusqlite::Result<usize> {
    let mut jobs = tx.rows(&sql::in_progress(owner, until_ms), sql::read_in_progress)?;
    crash::blame(&mut jobs);
    for job in &jobs {
        tx.run(&sql::end_lease_after_crash(job, tx.now_ms))?;
    }
    Ok(jobs.len())
}

/// One claim on its way.
struct ClaimTransaction<'c, 'tx, 'db> {
    tx: &'tx mut Tx<'db>,
    claim: &'c Claim,
    /// Suspects that may still be leased; `None` where no job is suspected, which is nearly always.
    suspects_left: Option<usize>,
    topics_left: HashMap<String, usize>,
    jobs: Vec<Job>,
    given_up: usize,
}

impl<'c, 'tx, 'db> ClaimTransaction<'c, 'tx, 'db> {
    fn new(tx: &'tx mut Tx<'db>, claim: &'c Claim) -> rusqlite::Result<Self> {
        let mut claiming =
            Self { tx, claim, suspects_left: None, topics_left: claim.limits.topics.clone(), jobs: Vec::new(), given_up: 0 };
        claiming.check_for_suspects()?;
        Ok(claiming)
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
        // A task that has less than its share leaves the rest to those that may have more.
        while self.jobs.len() < limit && !tasks.is_empty() {
            let (mut left, mut with_more) = (limit - self.jobs.len(), Vec::new());
            for (index, task) in tasks.iter().enumerate() {
                // What is left, shared between the tasks that are left; rounded up so that nothing is left over.
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
                    with_more.push(Arc::clone(task));
                }
                for row in rows {
                    self.add_claimed(task, row)?;
                }
            }
            tasks = with_more;
        }
        Ok((self.jobs, self.given_up))
    }

    /// The tasks of this claim. Each has been served by it, whatever it gets.
    fn tasks_due(&mut self) -> rusqlite::Result<Vec<Arc<TaskRow>>> {
        let limits = &self.claim.limits;
        let mut turn = self.tx.rows(&sql::last_turn(), sql::read_turn)?.pop().unwrap_or(0);
        let due = sql::tasks_due(self.tx.now_ms, limits.jobs as u64, &limits.closed_topics());
        let due = self.tx.rows(&due, sql::read_task_or_id)?;
        let mut tasks = Vec::with_capacity(due.len());
        for task in due {
            match task {
                Ok(task) => {
                    turn += 1;
                    self.tx.run(&sql::set_task_served(task.id, turn))?;
                    tasks.push(Arc::new(task));
                }
                Err((id, error)) => fail_unreadable_task(self.tx, id, &error)?,
            }
        }
        Ok(tasks)
    }

    /// Leases up to `share` jobs of a task.
    fn lease_due_jobs(&mut self, task: &TaskRow, share: usize) -> rusqlite::Result<Vec<DueRow>> {
        let mut due = self.due_jobs(task, share)?;
        let lost: BTreeSet<String> = due.iter_mut().filter_map(|job| job.lost_owner.take()).collect();
        if !lost.is_empty() {
            // Their leases expired though their instances live, or cannot be told dead. All of an instance are looked at
            // together: of one job alone nobody could say whether it was to blame.
            for owner in lost {
                end_leases_after_crash(self.tx, &owner, self.tx.now_ms)?;
            }
            self.check_for_suspects()?;
            due = self.due_jobs(task, share)?;
        }
        if let Some(left) = &mut self.suspects_left {
            let suspects = due.iter().filter(|job| job.suspected >= crash::ISOLATE_AFTER).count();
            *left -= suspects.min(*left);
        }
        // Those due longest, in the order of the request.
        due.sort_by_key(|job| job.ordinal);
        let until_ms = self.tx.now_ms + lease::millis(self.claim.lease);
        for job in &due {
            self.tx.run(&sql::lease(job, &self.claim.owner, until_ms))?;
        }
        Ok(due)
    }

    /// Up to `limit` jobs of a task that are due and that may run now.
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

    /// Makes a job of what was leased, unless it ends here.
    fn add_claimed(&mut self, task: &Arc<TaskRow>, row: DueRow) -> rusqlite::Result<()> {
        let (lost, crashes, suspected) = (row.lost, row.crashes, row.suspected);
        let job = Job::new(Arc::clone(task), row);
        if task.cancel_requested {
            return cancel_after_crash(self.tx, &job);
        }
        if crashes >= self.claim.max_crashes {
            self.given_up += 1;
            return fail_crash_looping(self.tx, &job, crashes);
        }
        if lost {
            tracing::warn!(
                task = %task.id, device = %job.device, published = job.progress.published, crashes, suspected,
                "a job goes on from its cursor: its worker was gone"
            );
            let event = Event::TakenOver { device: job.device, published: job.progress.published };
            self.tx.log(task.id, vec![event], None)?;
        }
        self.jobs.push(job);
        Ok(())
    }
}

fn fail_crash_looping(tx: &mut Tx<'_>, job: &Job, crashes: u32) -> rusqlite::Result<()> {
    tracing::error!(task = %job.task.id, device = %job.device, crashes, "the job is given up: its worker died again and again");
    let reason = format!(
        "its worker died {crashes} times in a row with no row published in between, and no other job is as likely the cause; see the \
         service's log of those moments, then submit it again"
    );
    let write = JobUpdate {
        change: Some((JobChange::Fail, None)),
        events: vec![Event::Failed { device: Some(job.device), name: job.name.clone(), reason: reason.clone() }],
        reason: Some(reason),
        ..JobUpdate::default()
    };
    lease::apply(tx, job, &write, tx.now_ms).map(|_| ())
}

/// The worker of a job was gone before it could say how far it had got when its task was cancelled.
fn cancel_after_crash(tx: &mut Tx<'_>, job: &Job) -> rusqlite::Result<()> {
    let write = JobUpdate {
        change: Some((JobChange::Cancel, None)),
        events: vec![Event::Cancelled {
            device: job.device,
            published: job.progress.published,
            unanswered: 0,
            worker_died: true,
        }],
        ..JobUpdate::default()
    };
    lease::apply(tx, job, &write, tx.now_ms).map(|_| ())
}

/// An entry that cannot be read must not keep others from being claimed.
fn fail_unreadable_job(tx: &mut Tx<'_>, task: &TaskRow, id: i64, error: &rusqlite::Error) -> rusqlite::Result<()> {
    let reason = format!("its entry in the queue (job {id}) cannot be read: {error}. Submit the device again");
    tracing::error!(task = %task.id, job = id, %error, "a job's entry in the queue cannot be read; the job is failed, its task goes on");
    tx.run(&sql::end_job(id, JobState::Failed, Some(&reason)))?;
    let mut events = vec![Event::Failed { device: None, name: None, reason }];
    let final_state = lease::finish_task_if_done(tx, task, &mut events)?;
    tx.log(task.id, events, final_state).map(|_| ())
}

fn fail_unreadable_task(tx: &Tx<'_>, id: String, error: &rusqlite::Error) -> rusqlite::Result<()> {
    tracing::error!(task = id, %error, "a task's entry in the queue cannot be read; the task is failed, others go on. Submit it again");
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
