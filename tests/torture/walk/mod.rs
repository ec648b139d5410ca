//! A random walk: services on one queue file are killed, stopped, frozen, joined by another, while clients submit, follow
//! and are cut off. Whatever happens, in whatever order: store, topic, queue file and logs agree in the end.
//!
//! All choices come from one seed, and none depends on time, so TORTURE_SEED replays what was done (not when).

mod driver;
mod end;
mod ledger;
mod site;
mod watcher;

use std::sync::Arc;

use driver::Driver;
use fastrand::Rng;
use site::Site;

use crate::table::Found;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn a_random_walk() {
    let seed = number("TORTURE_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    let rounds = number("TORTURE_ROUNDS").unwrap_or(200) as usize;
    println!("random walk of {rounds} rounds: TORTURE_SEED={seed} replays it");
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let kept = Arc::clone(&folder);
    // In a task of its own, so that whatever fails, the seed is said with it.
    let walked = tokio::spawn(async move {
        let mut rng = Rng::with_seed(seed);
        let site = Site::new(&mut rng, folder).await;
        let mut driver = Driver::new(site, rng).await;
        for round in 1..=rounds {
            driver.round(round).await;
        }
        driver.end().await
    });
    let (account, note) = match walked.await {
        Ok(found) => found,
        Err(error) => {
            let path = kept.path().to_owned();
            // Queue file and log of the services stay, to be looked at.
            std::mem::forget(kept);
            panic!("random walk, TORTURE_SEED={seed}, {rounds} rounds, see {}: {error}", path.display());
        }
    };
    let (what, lost) = (format!("random walk, seed {seed}"), account.lost);
    Found { what: &what, times: rounds, rows: account.rows, lost, repeated: account.repeated, note }.write();
    assert_eq!(lost, 0, "random walk, TORTURE_SEED={seed}");
}
