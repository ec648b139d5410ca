//! The cost of a claim with many waiting jobs, which must not grow with their number.

use std::time::{Duration, Instant};

use data_patch::queue::{Checkpoint, Queue};
use sqlx::{Connection, PgConnection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    LEASE, MAX_CRASHES,
    common::{self, Args},
    postgres,
};

const CLAIMS: usize = 300;

/// Fills the queue, and prints the time of claiming and finishing for claims of 8 and of 1.
pub async fn run(args: &Args, queue: Queue) {
    let one_task = args.has("--backlog-one-task");
    let filled = match postgres() {
        Some(url) => fill_postgres(&url, args, one_task).await,
        None => fill(args, one_task).await,
    };
    filled.expect("filling the queue");
    for limit in [8, 1] {
        let (mut claims, mut finishes) = (Vec::with_capacity(CLAIMS), Vec::with_capacity(CLAIMS));
        for _ in 0..CLAIMS.min(args.jobs / 16) {
            let start = Instant::now();
            let leases = queue.claim(&queue.owner(), move || limit, LEASE, MAX_CRASHES).await.expect("claiming").leases;
            claims.push(start.elapsed());
            assert_eq!(leases.len(), limit, "the backlog has run dry");
            let start = Instant::now();
            let ends = leases.iter().map(|lease| lease.succeed(Checkpoint::default()));
            futures_util::future::try_join_all(ends).await.expect("finishing");
            finishes.push(start.elapsed());
        }
        let line = serde_json::json!({
            "backlog": args.jobs, "tasks": if one_task { 1 } else { args.jobs }, "dead": args.has("--dead"), "limit": limit, "claims": claims.len(),
            "claim_ms": spread(&mut claims), "finish_ms": spread(&mut finishes), "peak_rss_kb": common::peak_rss_kb(),
        });
        println!("{line}");
    }
    queue.close().await;
}

/// Inserts the rows directly: a million durable submissions would take minutes.
async fn fill(args: &Args, one_task: bool) -> sqlx::Result<()> {
    let options = SqliteConnectOptions::new().filename(args.dir.join("queue.db"));
    let mut connection = SqliteConnection::connect_with(&options).await?;
    // Ids sort by creation time, as the queue's do.
    const TASKS: &str = "
        WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?)
        INSERT INTO task (id, thing_id, topic, range_from, range_to, state, served_seq, created_at)
        SELECT printf('01999999-0000-7000-8000-%012x', i), '00000000-0000-4000-8000-000000000000', 'bench',
            '2019-01-11T00:00:00Z', '2019-01-11T00:00:00Z', 'queued', 0, 0 FROM n";
    const JOBS: &str = "
        WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?)
        INSERT INTO job (task_id, ordinal, device_id, state, due_at)
        SELECT printf('01999999-0000-7000-8000-%012x', i % ?), i, printf('00000000-0000-4000-8000-%012x', i), 'queued', 0 FROM n";
    let (jobs, tasks) = (args.jobs as i64, if one_task { 1 } else { args.jobs as i64 });
    sqlx::query(TASKS).bind(tasks).execute(&mut connection).await?;
    sqlx::query(JOBS).bind(jobs).bind(tasks).execute(&mut connection).await?;
    sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await?;
    connection.close().await
}

/// As [`fill`]. With `--dead`, every row has a predecessor that nobody has vacuumed yet, with entries of its own in the indexes.
async fn fill_postgres(url: &str, args: &Args, one_task: bool) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    if args.has("--dead") {
        sqlx::raw_sql("ALTER TABLE task SET (autovacuum_enabled = off); ALTER TABLE job SET (autovacuum_enabled = off)")
            .execute(&mut connection)
            .await?;
    }
    let (jobs, tasks) = (args.jobs as i64, if one_task { 1 } else { args.jobs as i64 });
    sqlx::query(
        "INSERT INTO task (id, thing_id, topic, range_from, range_to, state, created_at)
         SELECT ('01999999-0000-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid, '00000000-0000-4000-8000-000000000000', 'bench',
             '2019-01-11T00:00:00.000000000Z', '2019-01-11T00:00:00.000000000Z', 'queued', 0
         FROM generate_series(0, $1 - 1) AS i",
    )
    .bind(tasks)
    .execute(&mut connection)
    .await?;
    sqlx::query(
        "INSERT INTO job (task_id, ordinal, device_id, state, due_at)
         SELECT ('01999999-0000-7000-8000-' || lpad(to_hex(i % $2), 12, '0'))::uuid, i,
             ('00000000-0000-4000-8000-' || lpad(to_hex(i), 12, '0'))::uuid, 'queued', 0
         FROM generate_series(0, $1 - 1) AS i",
    )
    .bind(jobs)
    .bind(tasks)
    .execute(&mut connection)
    .await?;
    if args.has("--dead") {
        sqlx::raw_sql("UPDATE task SET served_seq = nextval('task_served'); UPDATE job SET due_at = due_at + 1")
            .execute(&mut connection)
            .await?;
    }
    sqlx::raw_sql("CHECKPOINT").execute(&mut connection).await?;
    connection.close().await
}

/// Median and 99th percentile, in milliseconds.
pub fn spread(times: &mut [Duration]) -> serde_json::Value {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1_000.0;
    serde_json::json!({ "median": at(0.5), "p99": at(0.99) })
}
