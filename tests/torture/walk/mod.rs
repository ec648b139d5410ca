//! A random walk: services on one queue file are killed, stopped and frozen, and a further one
//! joins and leaves, while clients submit, attach and are disconnected. In the end source, topics,
//! queue file and logs must agree.
//!
//! All choices come from one seed and none depends on time, so TORTURE_SEED repeats the same
//! actions (but not their timing).

mod driver;
pub mod final_checks;
pub mod fixture;
mod job_history;
pub mod watcher;

use std::sync::Arc;

pub use driver::Task;

use driver::Driver;
use fastrand::Rng;
use fixture::Fixture;

use crate::table::TestResult;

pub fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn a_random_walk() {
    let seed = number("TORTURE_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    let rounds = number("TORTURE_ROUNDS").unwrap_or(200) as usize;
    println!("random walk of {rounds} rounds: TORTURE_SEED={seed} repeats it");
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let kept = Arc::clone(&folder);
    // A separate task, so that a panic is reported with the seed.
    let walked = tokio::spawn(async move {
        let mut rng = Rng::with_seed(seed);
        let fixture = Fixture::new(&mut rng, folder).await;
        let mut driver = Driver::new(fixture, rng).await;
        for round in 1..=rounds {
            driver.round(round).await;
        }
        driver.finish().await
    });
    let (counts, note) = match walked.await {
        Ok(found) => found,
        Err(error) => {
            let path = kept.path().to_owned();
            // Queue file and service logs are kept for diagnosis.
            std::mem::forget(kept);
            panic!("random walk, TORTURE_SEED={seed}, {rounds} rounds, see {}: {error}", path.display());
        }
    };
    let (what, lost) = (format!("random walk, seed {seed}"), counts.lost);
    TestResult { what: &what, times: rounds, rows: counts.rows, lost, repeated: counts.repeated, note }.write();
    assert_eq!(lost, 0, "random walk, TORTURE_SEED={seed}");
}
