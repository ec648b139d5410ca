//! What the queue says of itself.

use std::time::Duration;

use data_patch_queue::{Checkpoint, LeaseError};

use crate::support::{Bench, LEASE, TestStore, on_every_store};

async fn the_oldest_waiting_job_is_the_one_that_no_worker_takes<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    bench.submit(2).await;
    let oldest = async || bench.queue.backlog().await.unwrap().oldest_due;
    bench.pass(Duration::from_secs(5));
    assert_eq!(oldest().await, Duration::from_secs(5));
    let first = bench.claim_one().await;
    assert_eq!(oldest().await, Duration::from_secs(5), "the other one waits");
    let _second = bench.claim_one().await;
    assert_eq!(oldest().await, Duration::ZERO, "both are worked on");
    first.retry(Checkpoint::default(), Duration::from_secs(3)).await.unwrap();
    bench.pass(Duration::from_secs(4));
    assert_eq!(oldest().await, Duration::from_secs(1), "it waits since its backoff is over");
    assert_eq!(bench.queue.backlog().await.unwrap().jobs, 2);
}

async fn a_lease_is_lost_once<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    bench.submit(1).await;
    let stale = bench.claim_one().await;
    bench.pass(LEASE * 2);
    let _fresh = bench.claim_one().await;
    for _ in 0..2 {
        assert!(matches!(stale.checkpoint(Checkpoint::default()).await, Err(LeaseError::Lost)));
    }
    assert_eq!(bench.queue.metrics().leases_lost.get(), 1);
}

on_every_store! {
    the_oldest_waiting_job_is_the_one_that_no_worker_takes,
    a_lease_is_lost_once,
}
