//! Claiming jobs: what a caller asks for and gets.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{Lease, Queue, QueueError};
use crate::{
    store::{ClaimRequest, ClaimedJobs, Store},
    task::TaskId,
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
/// let limits = ClaimLimits { topics, ..8.into() };
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
    /// Jobs of a thing that are in progress at the same time, on all instances together. `None`: any
    /// number.
    pub jobs_per_thing: Option<usize>,
}

impl ClaimLimits {
    /// Topics of which no job may be claimed.
    pub fn closed_topics(&self) -> Vec<&str> {
        self.topics.iter().filter(|(_, limit)| **limit == 0).map(|(topic, _)| topic.as_str()).collect()
    }

    /// Things of which no job may be claimed, while so many jobs of each are in progress.
    pub(crate) fn closed_things(&self, in_progress: &HashMap<Uuid, usize>) -> Vec<Uuid> {
        let is_closed = |jobs: usize| self.jobs_per_thing.is_some_and(|limit| jobs >= limit);
        in_progress.iter().filter(|(_, jobs)| is_closed(**jobs)).map(|(thing, _)| *thing).collect()
    }
}

impl From<usize> for ClaimLimits {
    /// `jobs` jobs of any topic, at most one of them a suspect.
    fn from(jobs: usize) -> Self {
        Self { jobs, topics: HashMap::new(), suspects: 1, jobs_per_thing: None }
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
        limits: impl Fn() -> L + Send + Sync + 'static,
        lease: Duration,
        max_crashes: u32,
    ) -> Result<Claimed, QueueError> {
        // Taken before the commit: the worker must never believe that its lease ends later than the
        // queue does.
        let requested_at = Instant::now();
        let request = ClaimRequest { owner: Arc::clone(owner), requested_at, lease, max_crashes };
        let claimed = self.inner.store.claim(request, move || limits().into()).await?;
        let ClaimedJobs { leased, failed_crash_looping } = claimed;
        self.inner.metrics.claim_seconds.observe(requested_at.elapsed().as_secs_f64());
        let leases = leased.into_iter().map(|job| Lease::new(self.clone(), job, requested_at, lease)).collect();
        Ok(Claimed { leases, failed_crash_looping })
    }

    /// Expires the leases of dead services on this file, so that their jobs need not wait for the
    /// end of the lease. Returns the number of leases.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn expire_leases_of_dead_instances(&self) -> Result<usize, QueueError> {
        self.inner.store.end_leases_of_dead_instances().await
    }

    /// The owner id of this service's leases.
    pub fn owner(&self) -> Arc<str> {
        Arc::clone(self.inner.store.owner())
    }

    /// The tasks of which a claim with these limits could lease a job, the least recently served
    /// first; at most as many as the jobs that it could lease.
    ///
    /// # Errors
    /// The queue cannot be read.
    pub async fn tasks_due(&self, limits: &ClaimLimits) -> Result<Vec<TaskId>, QueueError> {
        self.inner.store.tasks_due(limits).await
    }
}
