//! Large tasks do not delay small changes of the queue.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use data_patch_queue::{Checkpoint, Clock, Submitted};
use futures_util::future::join_all;

use crate::support::{TestStore, on_every_store, task};

async fn a_heartbeat_does_not_wait_for_all_large_submits<S: TestStore>() {
    let store = S::create().await;
    let queue = store.open(Clock::System).await;
    queue.submit(task(1, None)).await.unwrap();
    let lease = queue.claim(&queue.owner(), || 1, Duration::from_mins(1), 5).await.unwrap().leases.pop().unwrap();
    let stored = AtomicUsize::new(0);
    // Created before, since the following submits must be sent at the same time.
    let tasks: Vec<_> = (0..32).map(|_| task(5_000, None)).collect();
    let submits = join_all(tasks.into_iter().map(|task| async {
        let submitted = queue.submit(task).await;
        stored.fetch_add(1, Ordering::SeqCst);
        submitted
    }));
    let heartbeat = async {
        lease.checkpoint(Checkpoint::default()).await.unwrap();
        stored.load(Ordering::SeqCst)
    };
    let (submitted, before) = tokio::join!(submits, heartbeat);
    assert!(submitted.iter().all(|submitted| matches!(submitted, Ok(Submitted::Created(_)))));
    assert!(before <= 2, "{before} large submits were stored before a heartbeat that came just after them");
}

on_every_store! {
    a_heartbeat_does_not_wait_for_all_large_submits,
}
