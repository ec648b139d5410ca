//! Handing out leases: fair between tasks, in one transaction.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Lease, Queue, QueueError, TaskRow,
    lease::{self, Job, Write},
    sql,
    writer::Tx,
};
use crate::task::{JobChange, line};

/// What a claim brought.
#[derive(Debug, Default)]
pub struct Claimed {
    pub leases: Vec<Lease>,
    /// Jobs that were failed instead, since they ended their worker again and again.
    pub given_up: usize,
}

/// What a claim asks for.
struct Claim {
    owner: Arc<str>,
    limit: usize,
    lease: Duration,
    max_crashes: u32,
}

impl Queue {
    /// Leases jobs that are due: new ones, those whose backoff is over, and those whose worker has died. Tasks take turns.
    ///
    /// `limit` tells how many at the most. It is asked at the end of the transaction: the places that come free by the jobs
    /// that end in it are filled in it. A job whose worker died more than `max_crashes` times in a row, with nothing published
    /// in between, is failed.
    ///
    /// # Errors
    /// The file can't be written; nothing was leased.
    pub async fn claim(
        &self,
        owner: &Arc<str>,
        limit: impl Fn() -> usize + Send + 'static,
        lease: Duration,
        max_crashes: u32,
    ) -> Result<Claimed, QueueError> {
        let owner = Arc::clone(owner);
        // From before the commit: the worker thinks its lease shorter than the queue does, never longer.
        let asked = Instant::now();
        let claim = move |tx: &mut Tx<'_>| take(tx, &Claim { owner: Arc::clone(&owner), limit: limit(), lease, max_crashes });
        let (jobs, given_up) = self.inner.writer.write_last(claim).await?;
        let leases = jobs.into_iter().map(|job| Lease::new(self.clone(), job, asked, lease)).collect();
        Ok(Claimed { leases, given_up })
    }

    /// Ends the leases of services on this file that are dead, so that nobody waits until they expire. Returns how many.
    ///
    /// # Errors
    /// The file can't be written.
    pub async fn end_leases_of_the_dead(&self) -> Result<usize, QueueError> {
        let dead = self.inner.owner.dead().unwrap_or_else(|error| {
            tracing::warn!(%error, "dead services can't be looked for; their leases expire");
            Vec::new()
        });
        let mut ended = 0;
        for dead in dead {
            let id = dead.id.clone();
            let leases = self.inner.writer.write(move |tx| tx.run(&sql::end_leases(&id, tx.now_ms))).await?;
            if leases > 0 {
                tracing::warn!(service = dead.id, leases, "a service on this queue has died; its jobs go on from their cursors");
            }
            ended += leases;
            dead.bury();
        }
        Ok(ended)
    }

    /// The name that this service's leases bear.
    pub fn owner(&self) -> Arc<str> {
        Arc::clone(self.inner.owner.id())
    }

    /// The tasks that have something to claim, at most `limit`, the one served longest ago first.
    ///
    /// # Errors
    /// The file can't be read.
    pub async fn tasks_due(&self, limit: u64) -> Result<Vec<crate::task::TaskId>, QueueError> {
        self.inner.readers.rows(sql::tasks_due(self.now_ms(), limit), sql::read_task_id).await
    }
}

fn take(tx: &mut Tx<'_>, claim: &Claim) -> rusqlite::Result<(Vec<Job>, usize)> {
    let (mut jobs, mut given_up) = (Vec::new(), 0);
    let mut turn = tx.rows(&sql::last_turn(), sql::read_turn)?.pop().unwrap_or(0);
    let mut tasks = tx.rows(&sql::tasks_due(tx.now_ms, claim.limit as u64), |row| sql::read_task(row).map(Arc::new))?;
    for task in &tasks {
        turn += 1;
        tx.run(&sql::set_task_served(task.id, turn))?;
    }
    // A task that has less than its share leaves the rest to those that may have more.
    while jobs.len() < claim.limit && !tasks.is_empty() {
        let (mut left, mut with_more) = (claim.limit - jobs.len(), Vec::new());
        for (index, task) in tasks.iter().enumerate() {
            // What is left, shared between the tasks that are left; rounded up so that nothing is left over.
            let share = left.div_ceil(tasks.len() - index);
            if share == 0 {
                break;
            }
            left -= share;
            let rows = claim_of(tx, task, share, claim)?;
            if rows.len() == share {
                with_more.push(Arc::clone(task));
            }
            for row in rows {
                let crashes = row.crashes;
                let job = Job::new(Arc::clone(task), row);
                if crashes > claim.max_crashes {
                    give_up(tx, &job, crashes)?;
                    given_up += 1;
                    continue;
                }
                if crashes > 0 {
                    tracing::warn!(task = %task.id, device = %job.device, published = job.progress.published, "a job goes on from its cursor: its worker was gone");
                    tx.log(task.id, vec![line::taken_over(job.device, job.progress.published)], None)?;
                }
                jobs.push(job);
            }
        }
        tasks = with_more;
    }
    Ok((jobs, given_up))
}

/// Leases up to `share` jobs of a task.
fn claim_of(tx: &Tx<'_>, task: &TaskRow, share: usize, claim: &Claim) -> rusqlite::Result<Vec<sql::DueRow>> {
    let until_ms = tx.now_ms + lease::millis(claim.lease);
    let mut due = tx.rows(&sql::due_jobs(task.id, tx.now_ms, share as u64), sql::read_due)?;
    // Those due longest, in the order of the request.
    due.sort_by_key(|job| job.ordinal);
    for job in &due {
        tx.run(&sql::lease(job, &claim.owner, until_ms))?;
    }
    Ok(due)
}

fn give_up(tx: &mut Tx<'_>, job: &Job, crashes: u32) -> rusqlite::Result<()> {
    tracing::error!(task = %job.task.id, device = %job.device, crashes, "the job is given up: its worker died again and again");
    let reason = format!(
        "its worker died {crashes} times in a row with no row published in between; see the service's log of those moments, then submit it again"
    );
    let write = Write {
        change: Some((JobChange::Fail, None)),
        lines: vec![line::failed(job.device, job.name.as_deref(), &reason)],
        reason: Some(reason),
        ..Write::default()
    };
    lease::apply(tx, job, &write, tx.now_ms).map(|_| ())
}

impl Job {
    fn new(task: Arc<TaskRow>, row: sql::DueRow) -> Self {
        Self {
            id: row.id,
            task,
            device: row.device,
            name: row.device_name,
            attempt: row.attempt,
            outages: row.outages,
            total: row.total,
            progress: row.progress,
        }
    }
}
