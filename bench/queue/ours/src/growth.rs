//! The throughput of a queue with many ended tasks, before and after a restart, which must not fall
//! with their number.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use data_patch::queue::Queue;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::task::JoinSet;

use crate::{
    common::{self, Args},
    task, work,
};

/// Fills the queue with `args.jobs` ended tasks, then submits and ends `TASKS` more; then again
/// after a restart.
pub async fn run(args: &Args, queue: Queue, reopen: impl AsyncFn(&Args) -> Queue) {
    const TASKS: usize = 2_000;
    // One task first: a version that collected statistics on close would have them of this task
    // only.
    queue.submit(task()).await.expect("submitting");
    work(&queue, 1, args.workers).await;
    queue.close().await;
    drop(queue);
    if args.jobs > 0 {
        fill(args).await.expect("filling the queue");
    }
    for restarts in [1, 2] {
        let queue = reopen(args).await;
        let start = Instant::now();
        submit(&queue, TASKS, args.submitters).await;
        let submits = per_second(TASKS, start.elapsed());
        let start = Instant::now();
        work(&queue, TASKS, args.workers).await;
        let ends = per_second(TASKS, start.elapsed());
        queue.close().await;
        let line = serde_json::json!({
            "ended_tasks": args.jobs, "restarts": restarts, "submits_per_s": submits, "ends_per_s": ends,
            "peak_rss_kb": common::peak_rss_kb(),
        });
        println!("{line}");
    }
}

fn per_second(tasks: usize, took: Duration) -> f64 {
    tasks as f64 / took.as_secs_f64()
}

async fn submit(queue: &Queue, tasks: usize, submitters: usize) {
    let (queue, mut working) = (Arc::new(queue.clone()), JoinSet::new());
    for _ in 0..submitters {
        let queue = Arc::clone(&queue);
        working.spawn(async move {
            for _ in 0..tasks / submitters {
                queue.submit(task()).await.expect("submitting");
            }
        });
    }
    working.join_all().await;
}

/// Inserts ended tasks of one device, with one log line each.
async fn fill(args: &Args) -> sqlx::Result<()> {
    let mut connection =
        SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(args.dir.join("queue.db"))).await?;
    const TASKS: &str = "
        WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?)
        INSERT INTO task (id, thing_id, topic, range_from, range_to, state, turn, last_seq, created_at, finished_at)
        SELECT printf('01999999-0000-7000-8000-%012x', i), '00000000-0000-4000-8000-000000000000', 'bench',
            '2019-01-11T00:00:00Z', '2019-01-11T00:00:00Z', 'succeeded', i, 1, 0, 4102444800000 FROM n";
    const JOBS: &str = "
        INSERT INTO job (task_id, ordinal, device_id, state, due_at, published)
        SELECT id, 0, '00000000-0000-4000-8000-000000000000', 'succeeded', NULL, 178 FROM task
        WHERE id LIKE '01999999-0000-7000-8000-%'";
    const EVENTS: &str = "
        INSERT INTO event (task_id, seq, at, ok, message, ends)
        SELECT id, 1, 0, 1, 'task finished: 1 of 1 devices, 178 rows published', 'succeeded' FROM task
        WHERE id LIKE '01999999-0000-7000-8000-%'";
    sqlx::query(TASKS).bind(args.jobs as i64).execute(&mut connection).await?;
    for statement in [JOBS, EVENTS, "PRAGMA wal_checkpoint(TRUNCATE)"] {
        sqlx::query(statement).execute(&mut connection).await?;
    }
    connection.close().await
}
