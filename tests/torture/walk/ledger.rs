//! The queue file, looked at again and again while services fight over it: nothing in it ever goes backwards.

use std::{collections::HashMap, path::Path};

use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::support::PATIENCE;

/// What is remembered of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Job {
    attempt: i64,
    state: String,
    owner: Option<String>,
    published: i64,
    held: i64,
    position: Option<i64>,
}

impl Job {
    fn is_over(&self) -> bool {
        !matches!(self.state.as_str(), "queued" | "running")
    }

    /// Whether `next` can have come of it by writes of lease holders only. A stale worker's write would put an older position
    /// back, change a job that has ended, or give it to another owner without a new attempt.
    fn may_become(&self, next: &Self) -> bool {
        if self.is_over() {
            return self == next;
        }
        let onward = next.attempt >= self.attempt
            && next.published >= self.published
            && next.held >= self.held
            && next.position >= self.position;
        // The lease of a service that is dead, or frozen for too long, is ended; what it wrote before may be seen together with
        // that. Until another attempt begins, one that was only frozen may still write: nobody else has the job.
        let is_orphaned = self.state == "running" && next.state == "running" && next.owner.is_none();
        let by_its_holder = next.owner == self.owner && (self.state == "running" || self == next);
        onward && (next.attempt > self.attempt || by_its_holder || is_orphaned)
    }
}

/// What the file says of all jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sums {
    pub open: usize,
    pub published: i64,
    pub held: i64,
}

pub struct Ledger {
    file: SqliteConnection,
    jobs: HashMap<i64, Job>,
}

impl Ledger {
    pub async fn open(folder: &Path) -> Self {
        let options = SqliteConnectOptions::new().filename(folder.join("queue.db")).busy_timeout(PATIENCE);
        Self { file: SqliteConnection::connect_with(&options).await.unwrap(), jobs: HashMap::new() }
    }

    /// Reads all jobs, and holds each against what it was.
    pub async fn look(&mut self) -> Sums {
        let sql = "SELECT id, attempt, state, owner, published, quarantined, cursor_time FROM job";
        let mut sums = Sums { open: 0, published: 0, held: 0 };
        for row in sqlx::query(sql).fetch_all(&mut self.file).await.unwrap() {
            let job = Job {
                attempt: row.get(1),
                state: row.get(2),
                owner: row.get(3),
                published: row.get(4),
                held: row.get(5),
                position: row.get(6),
            };
            sums.open += usize::from(!job.is_over());
            sums.published += job.published;
            sums.held += job.held;
            if let Some(before) = self.jobs.insert(row.get(0), job.clone()) {
                assert!(before.may_become(&job), "somebody wrote without the lease: {before:?} has become {job:?}");
            }
        }
        sums
    }

    /// Jobs that are leased by the service of this name; none by one that has no name yet.
    pub fn leases(&self, owner: Option<&str>) -> usize {
        self.jobs.values().filter(|job| job.state == "running" && owner.is_some() && job.owner.as_deref() == owner).count()
    }
}

/// The name that a service's leases bear: it holds the lock of a file of that name. One that has just started has none yet.
pub fn owner(pid: u32) -> Option<String> {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        // One that was closed meanwhile is none of these.
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .find_map(|path| Some(path.to_str()?.split_once("-owner-")?.1.to_owned()))
}
