//! Reads the jobs in the queue repeatedly, and checks each change: only the holder of a lease
//! may change a job, and progress never goes backwards.

use std::{collections::HashMap, path::Path};

use crate::{
    queue_reader::{QueueReader, is_postgres},
    support::{Client, Process},
};

/// The last known state of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Job {
    attempt: i64,
    state: String,
    owner: Option<String>,
    /// The last known owner of this attempt.
    holder: Option<String>,
    published: i64,
    quarantined: i64,
    position: Option<i64>,
}

impl Job {
    fn is_final(&self) -> bool {
        !matches!(self.state.as_str(), "queued" | "running")
    }

    /// Whether lease holders alone can have changed the job to `next`. A stale worker's write would
    /// restore an older position, change a finished job, or change the owner without a new attempt.
    fn allows(&self, next: &Self) -> bool {
        if self.is_final() {
            return self == next;
        }
        let has_no_regression = next.attempt >= self.attempt
            && next.published >= self.published
            && next.quarantined >= self.quarantined
            && next.position >= self.position;
        // The lease of a service that is dead or frozen is expired, possibly together with its last
        // write. Until the next attempt begins, a service that was only frozen may still write.
        let is_orphaned = self.state == "running" && next.state == "running" && next.owner.is_none();
        // Its lease then belongs to it again.
        let is_renewed = self.owner.is_none() && (self.holder.is_none() || next.owner == self.holder);
        let is_of_holder = next.owner == self.owner || is_renewed;
        let is_by_holder = is_of_holder && (self.state == "running" || self == next);
        has_no_regression && (next.attempt > self.attempt || is_by_holder || is_orphaned)
    }
}

/// The totals of all jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobTotals {
    pub open: usize,
    pub published: i64,
    pub quarantined: i64,
}

/// A row of `job`: id, attempt, state, owner, published, quarantined, position.
type JobRow = (i64, i64, String, Option<String>, i64, i64, Option<i64>);

pub struct JobHistory {
    queue: QueueReader,
    jobs: HashMap<i64, Job>,
    /// PostgreSQL only: the process of each instance that was ever seen.
    instances: HashMap<String, u32>,
}

impl JobHistory {
    pub async fn open(folder: &Path) -> Self {
        Self { queue: QueueReader::open(folder).await, jobs: HashMap::new(), instances: HashMap::new() }
    }

    /// Reads all jobs, and checks how each has changed.
    pub async fn update(&mut self) -> JobTotals {
        let sql = "SELECT id, attempt, state, owner, published, quarantined, cursor_time FROM job";
        let mut totals = JobTotals { open: 0, published: 0, quarantined: 0 };
        for (id, attempt, state, owner, published, quarantined, position) in self.queue.rows::<JobRow>(sql).await {
            let before = self.jobs.get(&id).filter(|before| before.attempt == attempt);
            let holder = owner.clone().or_else(|| before?.holder.clone());
            let job = Job { attempt, state, owner, holder, published, quarantined, position };
            totals.open += usize::from(!job.is_final());
            totals.published += job.published;
            totals.quarantined += job.quarantined;
            if let Some(before) = self.jobs.insert(id, job.clone()) {
                assert!(before.allows(&job), "a job was changed without its lease: {before:?} became {job:?}");
            }
        }
        totals
    }

    /// Number of jobs leased by the instance of this name, if it has one yet.
    pub fn leases(&self, owner: Option<&str>) -> usize {
        self.jobs.values().filter(|job| job.state == "running" && owner.is_some() && job.owner.as_deref() == owner).count()
    }

    /// Learns the instance name of a service that was started after all others were learnt.
    pub async fn learn_instance(&mut self, service: &Process) {
        if !is_postgres() {
            return;
        }
        // It answers once its queue is open.
        Client::connect(&service.url).await;
        for (id,) in self.queue.rows::<(String,)>("SELECT id FROM instance").await {
            self.instances.entry(id).or_insert_with(|| service.pid());
        }
    }

    /// The instance name of a service. `None` if it has just started.
    pub fn owner(&self, pid: u32) -> Option<String> {
        if is_postgres() {
            return self.instances.iter().find(|(_, of)| **of == pid).map(|(id, _)| id.clone());
        }
        lock_file_owner(pid)
    }
}

/// The instance name of a service, from the lock file that it holds open.
fn lock_file_owner(pid: u32) -> Option<String> {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        // A file may have been closed meanwhile.
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .find_map(|path| Some(path.to_str()?.split_once("-owner-")?.1.to_owned()))
}
