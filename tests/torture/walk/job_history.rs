//! Reads the jobs in the queue file repeatedly, and checks each change: only the holder of a lease
//! may change a job, and progress never goes backwards.

use std::{collections::HashMap, path::Path};

use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::support::TIMEOUT;

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

pub struct JobHistory {
    file: SqliteConnection,
    jobs: HashMap<i64, Job>,
}

impl JobHistory {
    pub async fn open(folder: &Path) -> Self {
        let options = SqliteConnectOptions::new().filename(folder.join("queue.db")).busy_timeout(TIMEOUT);
        Self { file: SqliteConnection::connect_with(&options).await.unwrap(), jobs: HashMap::new() }
    }

    /// Reads all jobs, and checks how each has changed.
    pub async fn update(&mut self) -> JobTotals {
        let sql = "SELECT id, attempt, state, owner, published, quarantined, cursor_time FROM job";
        let mut totals = JobTotals { open: 0, published: 0, quarantined: 0 };
        for row in sqlx::query(sql).fetch_all(&mut self.file).await.unwrap() {
            let (attempt, owner): (i64, Option<String>) = (row.get(1), row.get(3));
            let before = self.jobs.get(&row.get(0)).filter(|before| before.attempt == attempt);
            let job = Job {
                attempt,
                state: row.get(2),
                holder: owner.clone().or_else(|| before?.holder.clone()),
                owner,
                published: row.get(4),
                quarantined: row.get(5),
                position: row.get(6),
            };
            totals.open += usize::from(!job.is_final());
            totals.published += job.published;
            totals.quarantined += job.quarantined;
            if let Some(before) = self.jobs.insert(row.get(0), job.clone()) {
                assert!(before.allows(&job), "a job was changed without its lease: {before:?} became {job:?}");
            }
        }
        totals
    }

    /// Number of jobs leased by the instance of this name, if it has one yet.
    pub fn leases(&self, owner: Option<&str>) -> usize {
        self.jobs.values().filter(|job| job.state == "running" && owner.is_some() && job.owner.as_deref() == owner).count()
    }
}

/// The instance name of a service, from the lock file that it holds open. `None` if it has just
/// started.
pub fn owner(pid: u32) -> Option<String> {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        // A file may have been closed meanwhile.
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .find_map(|path| Some(path.to_str()?.split_once("-owner-")?.1.to_owned()))
}
