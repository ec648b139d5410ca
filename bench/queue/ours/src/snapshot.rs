//! What it costs that somebody holds a snapshot of the database, so that nothing that has died since can be vacuumed.

use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use data_patch::queue::{Checkpoint, Queue};
use futures_util::future::try_join_all;
use sqlx::{Connection, PgConnection};

use crate::{
    LEASE, MAX_CRASHES,
    backlog::spread,
    common::Args,
    postgres, task,
};

/// Tasks of a device each that are submitted, claimed and ended in one go.
const BATCH: usize = 256;

/// Works for `--jobs` seconds before a snapshot is taken and for as long with it, and prints each part of ten.
pub async fn run(args: &Args, queue: Queue) {
    let url = postgres().expect("--snapshot is for PostgreSQL");
    let part = Duration::from_secs(NonZeroUsize::new(args.jobs / 10).map_or(1, NonZeroUsize::get) as u64);
    let mut holder = PgConnection::connect(&url).await.expect("connecting");
    for is_held in [false, true] {
        if is_held {
            let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM instance";
            sqlx::raw_sql(begin).execute(&mut holder).await.expect("taking the snapshot");
        }
        let began = Instant::now();
        for number in 1..=10 {
            let (mut claims, mut jobs, until) = (Vec::new(), 0, began + part * number);
            let started = Instant::now();
            while Instant::now() < until {
                try_join_all((0..BATCH).map(|_| queue.submit(task()))).await.expect("submitting");
                jobs += BATCH;
                let mut left = BATCH;
                while left > 0 {
                    let start = Instant::now();
                    let leases = queue.claim(&queue.owner(), || 64, LEASE, MAX_CRASHES).await.expect("claiming").leases;
                    claims.push(start.elapsed());
                    left -= leases.len();
                    try_join_all(leases.iter().map(|lease| lease.succeed(Checkpoint::default()))).await.expect("finishing");
                }
            }
            let line = serde_json::json!({
                "snapshot": is_held, "after_s": (part * number).as_secs(), "jobs_per_s": jobs as f64 / started.elapsed().as_secs_f64(),
                "claim_ms": spread(&mut claims),
            });
            println!("{line}");
        }
    }
    queue.close().await;
}
