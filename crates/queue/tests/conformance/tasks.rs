//! Tasks and their jobs, from the submit to the end, on a clock that is moved by hand.

use std::time::Duration;

use data_patch_protocol::task::{Position, QuarantinedRow, TaskState};
use data_patch_queue::{Checkpoint, LeaseError, Queue, Submitted};

use crate::support::{Bench, LEASE, TestStore, counted, on_every_store, progress, task};

const NEARLY_A_LEASE: Duration = Duration::from_millis(9_999);

async fn a_task_goes_its_way<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let task = bench.submit(2).await;
    assert_eq!(bench.state(task).await, TaskState::Queued);
    let leases = bench.claim(5).await;
    assert_eq!(leases.len(), 2);
    assert_eq!(bench.state(task).await, TaskState::Running);
    leases[0].checkpoint(counted(Some("水"), 3)).await.unwrap();
    leases[0].succeed(progress(3)).await.unwrap();
    assert_eq!(bench.state(task).await, TaskState::Running);
    leases[1].fail(Checkpoint::default(), "no such device".to_owned()).await.unwrap();
    assert_eq!(bench.state(task).await, TaskState::Failed);
    let log = bench.log(task).await;
    assert!(log[0].ends_with("水 has 3 rows to publish"), "{log:?}");
    assert!(log[1].starts_with("task finished: 1 of 2 devices, 3 rows published"), "{log:?}");
    assert_eq!(bench.queue.backlog().await.unwrap().jobs, 0);
}

async fn a_stale_worker_changes_nothing<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let task = bench.submit(1).await;
    let stale = bench.claim_one().await;
    bench.pass(LEASE);
    let fresh = bench.claim_one().await;
    fresh.checkpoint(progress(5)).await.unwrap();
    let before = bench.log(task).await;
    let lost = |result: Result<(), LeaseError>| assert!(matches!(result, Err(LeaseError::Lost)), "{result:?}");
    lost(stale.checkpoint(counted(None, 9)).await);
    lost(stale.checkpoint(progress(9)).await);
    lost(stale.succeed(progress(9)).await);
    lost(stale.fail(progress(9), "stale".to_owned()).await);
    lost(stale.retry(progress(9), Duration::ZERO).await);
    lost(stale.release(progress(9)).await);
    assert!(stale.remaining().is_zero());
    assert_eq!(bench.log(task).await, before);
    fresh.release(progress(5)).await.unwrap();
    let next = bench.claim_one().await;
    assert_eq!((next.job.progress.published, next.job.attempt), (5, 3));
    lost(fresh.checkpoint(progress(9)).await);
}

async fn a_lease_lasts_until_it_is_over_and_longer_when_it_is_renewed<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    bench.submit(1).await;
    let lease = bench.claim_one().await;
    bench.pass(NEARLY_A_LEASE);
    assert!(bench.claim(1).await.is_empty());
    lease.checkpoint(progress(1)).await.unwrap();
    bench.pass(NEARLY_A_LEASE);
    assert!(bench.claim(1).await.is_empty());
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.claim(1).await.len(), 1);
}

async fn a_job_that_waits_after_an_outage_comes_back_when_it_is_time<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    bench.submit(1).await;
    let wait = Duration::from_secs(30);
    let lease = bench.claim_one().await;
    assert_eq!(lease.job.outages, 0);
    lease.retry(Checkpoint::default(), wait).await.unwrap();
    assert!(bench.claim(1).await.is_empty());
    bench.pass(wait);
    let lease = bench.claim_one().await;
    assert_eq!(lease.job.outages, 1);
    lease.retry(Checkpoint::default(), Duration::ZERO).await.unwrap();
    let lease = bench.claim_one().await;
    assert_eq!(lease.job.outages, 2);
    lease.retry(progress(1), Duration::ZERO).await.unwrap();
    assert_eq!(bench.claim_one().await.job.outages, 1, "rows were published in between");
}

async fn tasks_take_turns<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let large = bench.submit(1_000).await;
    bench.claim(10).await;
    let small = bench.submit(3).await;
    let mut of_small = 0;
    for claims in 1.. {
        of_small += usize::from(bench.claim_one().await.job.task.id == small);
        if of_small == 3 {
            assert!(claims <= 6, "the small task had to wait for {claims} claims");
            break;
        }
    }
    let third = bench.submit(10).await;
    let of: Vec<_> = bench.claim(8).await.iter().map(|lease| lease.job.task.id).collect();
    assert_eq!(of.iter().filter(|task| **task == third).count(), 4, "half of a claim for each of two");
    assert_eq!(of.iter().filter(|task| **task == large).count(), 4);
}

async fn jobs_are_leased_once_however_many_ask<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    bench.submit(200).await;
    let other = bench.open().await;
    let claim = |queue: Queue, owner: &'static str| {
        tokio::spawn(async move {
            let mut ids = Vec::new();
            for _ in 0..40 {
                let claimed = queue.claim(&owner.into(), || 5, LEASE, 2).await.unwrap();
                ids.extend(claimed.leases.iter().map(|lease| lease.job.id));
            }
            ids
        })
    };
    let askers = [claim(bench.queue.clone(), "one"), claim(bench.queue.clone(), "two"), claim(other, "three")];
    let mut ids = Vec::new();
    for asker in askers {
        ids.extend(asker.await.unwrap());
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 200);
}

async fn a_request_id_makes_one_task_however_many_send_it<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let same = task(1, Some("same"));
    let submits = (0..20).map(|_| bench.queue.submit(same.clone()));
    let created = futures_util::future::join_all(submits)
        .await
        .into_iter()
        .filter(|submitted| matches!(submitted, Ok(Submitted::Created(_))));
    assert_eq!(created.count(), 1);
    assert_eq!(bench.queue.backlog().await.unwrap().jobs, 1);
}

async fn quarantined_rows_are_written_once_in_a_rerun<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let task = bench.submit(1).await;
    let quarantined = vec![QuarantinedRow { position: Position { time_us: 5, key: "k".into() }, reason: "no JSON".to_owned() }];
    for _ in 0..2 {
        let lease = bench.claim_one().await;
        lease.checkpoint(Checkpoint { quarantined: quarantined.clone(), ..Checkpoint::default() }).await.unwrap();
        bench.pass(LEASE);
    }
    assert_eq!(bench.queue.quarantined_rows(task).await.unwrap().len(), 1);
}

async fn ended_tasks_are_pruned_and_others_kept<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let mut ended = Vec::new();
    for _ in 0..10 {
        ended.push(bench.submit(1).await);
        bench.claim_one().await.succeed(Checkpoint::default()).await.unwrap();
    }
    bench.pass(Duration::from_hours(1));
    let young = bench.submit(1).await;
    bench.claim_one().await.succeed(Checkpoint::default()).await.unwrap();
    let open = bench.submit(1).await;
    assert_eq!(bench.queue.prune(bench.queue.now_ms()).await.unwrap(), 10);
    for task in ended {
        assert!(bench.queue.task(task).await.unwrap().is_none());
        assert!(bench.queue.log_after(task, 0, 10).await.unwrap().is_empty());
    }
    assert!(bench.queue.task(young).await.unwrap().is_some() && bench.queue.task(open).await.unwrap().is_some());
}

async fn a_watch_sees_each_line_once_while_they_are_written<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let task = bench.submit(1).await;
    let lease = bench.claim_one().await;
    let mut watches: Vec<_> = (0..5).map(|_| bench.queue.tail(task, 0)).collect();
    let writing = tokio::spawn(async move {
        for rows in 0..600 {
            lease.checkpoint(counted(None, rows)).await.unwrap();
        }
        lease.succeed(Checkpoint::default()).await.unwrap();
    });
    for watch in &mut watches {
        let mut seqs = Vec::new();
        while let Some(told) = watch.next().await.unwrap() {
            seqs.push(told.entry.seq);
        }
        assert_eq!(seqs, (1..=601).collect::<Vec<_>>());
    }
    writing.await.unwrap();
}

on_every_store! {
    a_task_goes_its_way,
    a_stale_worker_changes_nothing,
    a_lease_lasts_until_it_is_over_and_longer_when_it_is_renewed,
    a_job_that_waits_after_an_outage_comes_back_when_it_is_time,
    tasks_take_turns,
    jobs_are_leased_once_however_many_ask,
    a_request_id_makes_one_task_however_many_send_it,
    quarantined_rows_are_written_once_in_a_rerun,
    ended_tasks_are_pruned_and_others_kept,
    a_watch_sees_each_line_once_while_they_are_written,
}
