//! Three instances on one queue in PostgreSQL, each behind a network of its own: they are killed,
//! frozen and cut off from the queue's PostgreSQL, for longer than after which an instance counts as
//! dead, and PostgreSQL ends all connections, while tasks are submitted on one instance and watched
//! on another. In the end source, topics, queue and logs must agree; and from a table that records
//! each change of a job it must follow that no attempt has written after a later one began.
//!
//! All choices come from one seed, as in the walk.

mod driver;
mod history;

use driver::Driver;

use crate::{queue_reader::is_postgres, seeded, walk::fixture::Fixture};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn instances_die_freeze_and_are_cut_off() {
    if !is_postgres() {
        println!("NOT RUN: several instances need a queue in PostgreSQL: DATA_PATCH_TEST_QUEUE=postgres://…");
        return;
    }
    let test = async |mut rng, folder, rounds| {
        let fixture = Fixture::new(&mut rng, folder).await;
        let mut driver = Driver::new(fixture, rng).await;
        for round in 1..=rounds {
            driver.round(round).await;
        }
        driver.finish().await
    };
    seeded::run("three instances on one PostgreSQL", 40, test).await;
}
