//! apalis-sqlite: `push` puts a job in, one worker with a limit of jobs at a time takes batches.
//!
//! Its `setup` sets `synchronous = OFF` on one connection of the pool it is given; so the tables are made by that on a
//! pool of their own, which is closed, and the real pool opens each connection with WAL and FULL. A push returns after its
//! commit. The end of a job does not: the worker collects ends and writes them in one transaction before its next
//! batch, and nobody is told. Jobs are counted as done when the table says so.

#[path = "../../common.rs"]
mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use apalis::prelude::*;
use apalis_sqlite::{Config, SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteStorage};
use common::{Args, Phases};
use sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use tokio::{sync::Notify, task::JoinSet};

type Storage = SqliteStorage<u64>;

/// 32 and 128 came out alike, 8 and 512 slower.
const BATCH: usize = 128;

#[tokio::main]
async fn main() {
    let args = Args::read();
    let shipped = args.has("--as-shipped");
    let pool = open(&args, shipped).await;
    // The claim is the fetch itself (`lock_by` is set by it, and asked for at the end), so the second lock is left out.
    let config = Config::default().queue("bench").batch_size(BATCH).lock_tasks(false);
    let storage = Storage::new(&pool).with_config(config);

    let mut phases = Phases::begin();
    let mut submitters = JoinSet::new();
    for share in args.shares() {
        let mut storage = storage.clone();
        submitters.spawn(async move {
            for job in 0..share as u64 {
                storage.push(job).await.expect("pushing");
            }
        });
    }
    submitters.join_all().await;
    phases.enqueued();
    work(storage, &args, &pool).await;
    let durability = if shipped {
        "as shipped: WAL, synchronous=OFF on one connection; ends written later, in batches"
    } else {
        "WAL, synchronous=FULL; a push answered after its commit, ends written later, in batches"
    };
    phases.finish(&args, if shipped { "apalis-sqlite (as shipped)" } else { "apalis-sqlite" }, "1.0.0", durability);
}

async fn open(args: &Args, shipped: bool) -> SqlitePool {
    let options = SqliteConnectOptions::new().filename(args.dir.join("apalis.db")).create_if_missing(true);
    if shipped {
        // The setup's settings reach every connection only where there is one.
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.expect("opening");
        SqliteStorage::setup(&pool).await.expect("making the tables");
        return pool;
    }
    let first = SqlitePool::connect_with(options.clone()).await.expect("opening");
    SqliteStorage::setup(&first).await.expect("making the tables");
    first.close().await;
    let options =
        options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full).busy_timeout(Duration::from_secs(60));
    // One connection was quicker than five, which wait for each other's lock by sleeping.
    SqlitePoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_secs(60))
        .connect_with(options)
        .await
        .expect("opening")
}

/// Runs one worker until the table says that all is done.
async fn work(storage: Storage, args: &Args, pool: &SqlitePool) {
    let (ran, all_ran) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (jobs, counter, told) = (args.jobs, Arc::clone(&ran), Arc::clone(&all_ran));
    let worker = WorkerBuilder::new("bench").backend(storage).concurrency(args.workers).build(move |_job: u64| {
        let (counter, told) = (Arc::clone(&counter), Arc::clone(&told));
        async move {
            if counter.fetch_add(1, Ordering::Relaxed) + 1 == jobs {
                told.notify_one();
            }
            Ok::<(), BoxDynError>(())
        }
    });
    let running = tokio::spawn(worker.run());
    all_ran.notified().await;
    loop {
        let (done,): (i64,) =
            sqlx::query_as("SELECT count(*) FROM Jobs WHERE status = 'Done'").fetch_one(pool).await.expect("counting");
        if done as usize == jobs {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    running.abort();
}
