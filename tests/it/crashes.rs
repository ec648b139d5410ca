//! What a crash says about the jobs that were in progress: a job is failed only where it is likely the cause.

use std::sync::Arc;

use data_patch::{
    queue::{Checkpoint, ClaimLimits, Clock},
    task::{TaskId, TaskState},
};
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

use crate::support::{
    Client, Process, TestBroker, TestStore, eventually, message, open_queue,
    queue::{Bench, LEASE, MAX_CRASHES, progress},
};

/// The service with all these leases dies.
fn crash(bench: &Bench) {
    bench.pass(LEASE);
}

#[tokio::test]
async fn a_job_that_kills_its_worker_again_and_again_is_given_up() {
    let bench = Bench::new().await;
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

#[tokio::test]
async fn crashes_with_progress_in_between_do_not_count() {
    let bench = Bench::new().await;
    bench.submit(1).await;
    for rows in 1..10 {
        bench.claim_one().await.checkpoint(progress(rows)).await.unwrap();
        crash(&bench);
    }
    assert_eq!(bench.claim_one().await.job.progress.published, 9);
}

#[tokio::test]
async fn a_job_that_stood_still_is_not_to_blame() {
    let bench = Bench::new().await;
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
async fn work_with_a_guilty_job(bench: &Bench, task: TaskId, guilty: i64) -> usize {
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

#[tokio::test]
async fn of_many_jobs_only_the_one_to_blame_is_failed() {
    let bench = Bench::new().await;
    let task = bench.submit(20).await;
    let guilty = bench.claim(20).await[7].job.id;
    crash(&bench);
    let crashes = work_with_a_guilty_job(&bench, task, guilty).await;
    assert!(crashes <= 2 + MAX_CRASHES as usize, "{crashes}");
    let log = bench.log(task).await;
    assert!(log.last().unwrap().contains("19 of 20 devices"), "{log:#?}");
    assert_eq!(log.iter().filter(|line| line.contains("its worker died")).count(), 2, "its own line and the last: {log:#?}");
}

#[tokio::test]
async fn no_job_is_failed_however_often_the_service_dies_with_many_in_progress() {
    let bench = Bench::new().await;
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

#[tokio::test]
async fn suspects_run_one_at_a_time() {
    let bench = Bench::new().await;
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

#[tokio::test]
async fn a_service_that_ends_with_leases_left_hands_them_back_and_no_crash_counts() {
    let bench = Bench::new().await;
    let task = bench.submit(1).await;
    for _ in 0..3 * MAX_CRASHES {
        let service = open_queue(&bench.folder, Clock::Manual(Arc::clone(&bench.now))).await;
        let owner = service.owner();
        let lease =
            service.claim(&owner, || 1, LEASE, MAX_CRASHES).await.unwrap().leases.pop().expect("nothing to claim at once");
        service.close().await;
        drop((lease, service));
    }
    assert_eq!(bench.state(task).await, TaskState::Running);
    assert!(bench.log(task).await.is_empty(), "nothing happened to its worker");
}

#[tokio::test]
async fn that_a_job_stood_still_is_over_when_its_service_hands_it_back() {
    let bench = Bench::new().await;
    let task = bench.submit(1).await;
    let service = open_queue(&bench.folder, Clock::Manual(Arc::clone(&bench.now))).await;
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

async fn raw(folder: &TempDir) -> SqliteConnection {
    SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(folder.path().join("queue.db"))).await.unwrap()
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_keeps_no_other_from_being_claimed() {
    let bench = Bench::new().await;
    let (torn, whole, unreadable) = (bench.submit(2).await, bench.submit(1).await, bench.submit(1).await);
    let sql = format!(
        "UPDATE job SET device_id = 'torn' WHERE task_id = '{torn}' AND ordinal = 0;
         UPDATE task SET range_from = 'torn' WHERE id = '{unreadable}'"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut raw(&bench.folder).await).await.unwrap();
    let leases = bench.claim(9).await;
    let mut tasks: Vec<_> = leases.iter().map(|lease| lease.job.task.id).collect();
    tasks.sort_unstable();
    assert_eq!(tasks, [torn, whole]);
    for lease in leases {
        lease.succeed(progress(1)).await.unwrap();
    }
    let log = bench.log(torn).await;
    assert!(log.iter().any(|line| line.contains("cannot be read") && line.contains("device_id")), "{log:#?}");
    assert_eq!(bench.state(torn).await, TaskState::Failed);
    assert_eq!(bench.queue.backlog().await.unwrap().jobs, 0);
}

/// Whether the queue has a job that stands still.
async fn any_stands_still(folder: &TempDir) -> bool {
    let mut queue = raw(folder).await;
    sqlx::query("SELECT 1 FROM job WHERE waiting = 1").fetch_optional(&mut queue).await.unwrap().is_some()
}

// What it waited for is not what ended it: a job whose rows are long in coming, and then kill its process, must not do so for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_kills_its_worker_when_it_goes_on_after_a_wait_is_to_blame() {
    let folder = tempfile::tempdir().unwrap();
    let (store, topic) = (TestStore::empty().await, TestBroker::start().await.topic().await);
    let (thing, device) = store.add_rows(3).await;
    let deadly = Process::serve(&folder, &store, &topic, &[("FAILPOINT", "read")]).await;
    let mut client = Client::connect(&deadly.url).await;
    let lock = store.lock().await;
    let task = client.submit(&Client::request(thing, &[device], &topic.name)).await;
    eventually("the job stands still", || any_stands_still(&folder)).await;
    lock.release().await;
    assert_eq!(deadly.died().await, Some(9));

    let process = Process::serve(&folder, &store, &topic, &[("DATA_PATCH_WORKER_MAX_CRASHES", "1")]).await;
    let mut client = Client::connect(&process.url).await;
    client.attach(&task, 0).await;
    let log = client.log().await;
    assert!(log.iter().any(|line| message(line).contains("its worker died 1 times in a row")), "{log:#?}");
    process.terminate().await;
}
