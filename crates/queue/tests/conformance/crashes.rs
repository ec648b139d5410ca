//! What a crash says about the jobs that were in progress: a job is failed only where it is likely the cause.

use std::time::Duration;

use data_patch_protocol::task::{TaskId, TaskState};
use data_patch_queue::{Checkpoint, ClaimLimits};

use crate::support::{Bench, LEASE, MAX_CRASHES, TestStore, on_every_store, progress};

/// The service with all these leases dies.
fn crash<S>(bench: &Bench<S>) {
    bench.pass(LEASE);
}

async fn a_job_that_kills_its_worker_again_and_again_is_given_up<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let task = bench.submit(1).await;
    for _ in 0..MAX_CRASHES {
        bench.claim_one().await;
        crash(&bench);
    }
    let claimed = bench.queue.claim(&bench.owner, || 1, LEASE, MAX_CRASHES).await.unwrap();
    assert_eq!((claimed.leases.len(), claimed.failed_crash_looping), (0, 1));
    assert_eq!(bench.state(task).await, TaskState::Failed);
    let log = bench.log(task).await;
    assert!(log.iter().any(|line| line.contains("its worker died 2 times in a row")), "{log:?}");
}

async fn crashes_with_progress_in_between_do_not_count<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    bench.submit(1).await;
    for rows in 1..10 {
        bench.claim_one().await.checkpoint(progress(rows)).await.unwrap();
        crash(&bench);
    }
    assert_eq!(bench.claim_one().await.job.progress.published, 9);
}

async fn a_job_that_stood_still_is_not_to_blame<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let task = bench.submit(1).await;
    for _ in 0..3 * MAX_CRASHES {
        let waits = Checkpoint { waiting: Some(true), ..Checkpoint::default() };
        bench.claim_one().await.checkpoint(waits).await.unwrap();
        crash(&bench);
    }
    assert_eq!(bench.claim(9).await.len(), 1);
    assert_eq!(bench.state(task).await, TaskState::Running);
}

/// Claims and works as a pool does until the task ends: a job other than the guilty one succeeds, unless the guilty one ends the
/// service before.
async fn work_with_a_guilty_job<S: TestStore>(bench: &Bench<S>, task: TaskId, guilty: i64) -> usize {
    for crashes in 0..50 {
        loop {
            let leases = bench.claim(8).await;
            if leases.is_empty() && bench.state(task).await.is_final() {
                return crashes;
            }
            if leases.iter().any(|lease| lease.job.id == guilty) {
                break;
            }
            for lease in leases {
                lease.succeed(progress(1)).await.unwrap();
            }
        }
        crash(bench);
    }
    panic!("the guilty job was not found");
}

async fn of_many_jobs_only_the_one_to_blame_is_failed<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let task = bench.submit(20).await;
    let guilty = bench.claim(20).await[7].job.id;
    crash(&bench);
    let crashes = work_with_a_guilty_job(&bench, task, guilty).await;
    assert!(crashes <= 2 + MAX_CRASHES as usize, "{crashes}");
    let log = bench.log(task).await;
    assert!(log.last().unwrap().contains("19 of 20 devices"), "{log:#?}");
    assert_eq!(log.iter().filter(|line| line.contains("its worker died")).count(), 2, "its own line and the last: {log:#?}");
}

async fn no_job_is_failed_however_often_the_service_dies_with_many_in_progress<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let task = bench.submit(20).await;
    for _ in 0..5 * MAX_CRASHES {
        // As a service with no slot for a suspect: only what is in progress in company.
        let limits = || ClaimLimits { jobs: 20, suspects: 20, ..ClaimLimits::default() };
        let claimed = bench.queue.claim(&bench.owner, limits, LEASE, MAX_CRASHES).await.unwrap();
        assert_eq!((claimed.leases.len(), claimed.failed_crash_looping), (20, 0));
        crash(&bench);
    }
    assert_eq!(bench.state(task).await, TaskState::Running);
}

async fn suspects_run_one_at_a_time<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    bench.submit(5).await;
    for _ in 0..2 {
        assert_eq!(bench.claim(5).await.len(), 5);
        crash(&bench);
    }
    bench.submit(2).await;
    let claim = async |suspects| {
        let limits = move || ClaimLimits { jobs: 5, suspects, ..ClaimLimits::default() };
        bench.queue.claim(&bench.owner, limits, LEASE, MAX_CRASHES).await.unwrap().leases
    };
    // The first claim notices the crash and makes them suspects.
    let first = claim(1).await;
    assert_eq!(first.iter().filter(|lease| lease.job.is_suspect).count(), 1);
    assert_eq!(first.len(), 3, "the others are not kept waiting");
    assert!(claim(0).await.is_empty());
    assert_eq!(claim(1).await.len(), 1);
}

async fn a_service_that_ends_with_leases_left_hands_them_back_and_no_crash_counts<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let task = bench.submit(1).await;
    for _ in 0..3 * MAX_CRASHES {
        let service = bench.open().await;
        let owner = service.owner();
        let lease =
            service.claim(&owner, || 1, LEASE, MAX_CRASHES).await.unwrap().leases.pop().expect("nothing to claim at once");
        service.close().await;
        drop((lease, service));
    }
    assert_eq!(bench.state(task).await, TaskState::Running);
    assert!(bench.log(task).await.is_empty(), "nothing happened to its worker");
}

/// Its leases were ended while it was frozen. It thaws and renews one that nobody has claimed: should
/// it end then, that job must not wait for the end of the lease.
async fn a_lease_that_is_renewed_after_it_was_ended_belongs_to_its_holder_again<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    bench.submit(2).await;
    let frozen = bench.open().await;
    let leases = frozen.claim(&frozen.owner(), || 2, LEASE, MAX_CRASHES).await.unwrap().leases;
    bench.pass(LEASE + Duration::from_secs(1));
    let taken = bench.claim_one().await;
    assert_eq!(taken.job.id, leases[0].job.id);
    leases[1].checkpoint(progress(1)).await.unwrap();
    frozen.close().await;
    assert_eq!(bench.claim_one().await.job.id, leases[1].job.id);
}

async fn that_a_job_stood_still_is_over_when_its_service_hands_it_back<S: TestStore>() {
    let bench = Bench::<S>::new().await;
    let task = bench.submit(1).await;
    let service = bench.open().await;
    let owner = service.owner();
    let lease = service.claim(&owner, || 1, LEASE, MAX_CRASHES).await.unwrap().leases.pop().unwrap();
    lease.checkpoint(Checkpoint { waiting: Some(true), ..Checkpoint::default() }).await.unwrap();
    service.close().await;
    for _ in 0..MAX_CRASHES {
        bench.claim_one().await;
        crash(&bench);
    }
    assert!(bench.claim(1).await.is_empty());
    assert_eq!(bench.state(task).await, TaskState::Failed);
}

on_every_store! {
    a_lease_that_is_renewed_after_it_was_ended_belongs_to_its_holder_again,
    a_job_that_kills_its_worker_again_and_again_is_given_up,
    crashes_with_progress_in_between_do_not_count,
    a_job_that_stood_still_is_not_to_blame,
    of_many_jobs_only_the_one_to_blame_is_failed,
    no_job_is_failed_however_often_the_service_dies_with_many_in_progress,
    suspects_run_one_at_a_time,
    a_service_that_ends_with_leases_left_hands_them_back_and_no_crash_counts,
    that_a_job_stood_still_is_over_when_its_service_hands_it_back,
}
