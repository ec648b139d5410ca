//! Three instances on one queue in PostgreSQL, each behind a network of its own: they are killed,
//! frozen and cut off from the queue's PostgreSQL, for longer than after which an instance counts as
//! dead, and PostgreSQL ends all connections, while tasks are submitted on one instance and watched
//! on another. In the end source, topics, queue and logs must agree; and from a table that records
//! each change of a job it must follow that no attempt has written after a later one began.
//!
//! All choices come from one seed, as in the walk.

mod driver;
mod history;

use std::sync::Arc;

use driver::Driver;
use fastrand::Rng;

use crate::{
    queue_reader::is_postgres,
    table::TestResult,
    walk::{fixture::Fixture, number},
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn instances_die_freeze_and_are_cut_off() {
    if !is_postgres() {
        println!("NOT RUN: several instances need a queue in PostgreSQL: DATA_PATCH_TEST_QUEUE=postgres://…");
        return;
    }
    let seed = number("TORTURE_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    let rounds = number("TORTURE_ROUNDS").unwrap_or(40) as usize;
    println!("three instances, {rounds} rounds: TORTURE_SEED={seed} repeats it");
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let kept = Arc::clone(&folder);
    // A separate task, so that a panic is reported with the seed.
    let driven = tokio::spawn(async move {
        let mut rng = Rng::with_seed(seed);
        let fixture = Fixture::new(&mut rng, folder).await;
        let mut driver = Driver::new(fixture, rng).await;
        for round in 1..=rounds {
            driver.round(round).await;
        }
        driver.finish().await
    });
    let (counts, note) = match driven.await {
        Ok(found) => found,
        Err(error) => {
            let path = kept.path().to_owned();
            // The logs of the instances are kept for diagnosis.
            std::mem::forget(kept);
            panic!("three instances, TORTURE_SEED={seed}, {rounds} rounds, see {}: {error}", path.display());
        }
    };
    TestResult::of(&format!("three instances on one PostgreSQL, seed {seed}"), rounds, counts, note).write();
    assert_eq!(counts.lost, 0, "three instances, TORTURE_SEED={seed}");
}
