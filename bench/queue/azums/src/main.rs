//! azums on SQLite: its storage interface, as its own worker loop uses it, with several jobs at a time.
//!
//! `make_sqlite_pool` sets `synchronous = NORMAL`, with which a commit in WAL mode is not flushed; so the pool is made
//! here, with FULL, and given to `SqliteBackend::new`. Each enqueue and each end is a transaction of its own, and answered
//! after it. Its own loop (`QuickstartFlow::run`) works on one job of a batch after the other; here each of W loops
//! leases a batch of 32, as that loop does.

#[path = "../../common.rs"]
mod common;

use std::{sync::Arc, time::Duration};

use azums::{Job, SqliteBackend, StorageBackend};
use common::{Args, Phases};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tokio::task::JoinSet;

/// As its own loop has it.
const BATCH: i64 = 32;
const LEASE_SECONDS: i64 = 60;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::read();
    let shipped = args.has("--as-shipped");
    let backend = Arc::new(open(&args, shipped).await?);

    let mut phases = Phases::begin();
    let mut submitters = JoinSet::new();
    for share in args.shares() {
        let backend = Arc::clone(&backend);
        submitters.spawn(async move {
            for job in 0..share {
                let job = Job::new("bench", serde_json::json!({ "n": job }));
                backend.enqueue(job.into()).await.expect("enqueueing");
            }
        });
    }
    submitters.join_all().await;
    phases.enqueued();
    work(&backend, &args).await;
    let durability = if shipped {
        "as shipped: WAL, synchronous=NORMAL (no flush at a commit)"
    } else {
        "WAL, synchronous=FULL, answered after the commit"
    };
    phases.finish(&args, if shipped { "azums (as shipped)" } else { "azums" }, "1.0.1", durability);
    Ok(())
}

async fn open(args: &Args, shipped: bool) -> anyhow::Result<SqliteBackend> {
    let file = args.dir.join("azums.db");
    let pool = if shipped {
        azums::make_sqlite_pool(&format!("sqlite://{}", file.display())).await?
    } else {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(60))
            .foreign_keys(true);
        // With more than one, its transactions that read before they write fail: "database is locked" (code 517).
        SqlitePoolOptions::new().max_connections(1).acquire_timeout(Duration::from_secs(60)).connect_with(options).await?
    };
    let backend = SqliteBackend::new(pool);
    backend.run_migrations().await?;
    Ok(backend)
}

/// W loops, each with a name of its own; a loop ends when there is nothing to lease.
async fn work(backend: &Arc<SqliteBackend>, args: &Args) {
    let mut workers = JoinSet::new();
    for worker in 0..args.workers {
        let backend = Arc::clone(backend);
        workers.spawn(async move { drain(&*backend, &format!("worker-{worker}")).await.expect("working") });
    }
    let done: usize = workers.join_all().await.into_iter().sum();
    assert_eq!(done, args.jobs, "every job was done once");
}

async fn drain(backend: &dyn StorageBackend, worker: &str) -> anyhow::Result<usize> {
    let mut done = 0;
    loop {
        let batch = backend.lease_jobs_batch("default", worker, LEASE_SECONDS, BATCH).await?;
        if batch.is_empty() {
            return Ok(done);
        }
        let datasets: Vec<String> = batch.iter().map(|job| job.dataset_id.clone()).collect();
        let ids: Vec<_> = batch.iter().map(|job| job.id).collect();
        for (job, attempt, _) in backend.start_attempts_batch(&datasets, &ids, worker).await? {
            backend.mark_succeeded(job, attempt, worker, 0).await?;
            done += 1;
        }
    }
}
