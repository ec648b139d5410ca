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

pub use driver::Task;

use driver::Driver;
use fixture::Fixture;

use crate::seeded;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn a_random_walk() {
    let walk = async |mut rng, folder, rounds| {
        let fixture = Fixture::new(&mut rng, folder).await;
        let mut driver = Driver::new(fixture, rng).await;
        for round in 1..=rounds {
            driver.round(round).await;
        }
        driver.finish().await
    };
    seeded::run("random walk", 200, walk).await;
}
