//! What only the SQLite store has: its file, and what else may be found in it.

use std::path::{Path, PathBuf};

use data_patch_protocol::task::{Position, Progress, TaskId, TaskState};
use data_patch_queue::{Clock, OpenError, ProbeError, Queue, Submitted};
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;
use uuid::Uuid;

use crate::support::{Bench, LEASE, SqliteFile, options, progress, task};

fn file_in(folder: &TempDir) -> PathBuf {
    folder.path().join("queue.db")
}

/// A connection to the file, as another program has it.
async fn raw(path: &Path) -> SqliteConnection {
    SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path)).await.unwrap()
}

async fn open_error(path: &Path) -> OpenError {
    Queue::open(&options(path), Clock::System).await.err().expect("it opened")
}

#[tokio::test]
async fn a_queue_of_a_newer_version_is_told() {
    let bench = Bench::<SqliteFile>::new().await;
    bench.queue.close().await;
    let sql = "INSERT INTO _sqlx_migrations VALUES (9999, 'later', 'now', 1, x'00', 0)";
    sqlx::raw_sql(sql).execute(&mut raw(&bench.store.path()).await).await.unwrap();
    let error = open_error(&bench.store.path()).await;
    assert!(matches!(error, OpenError::Newer { version: 9999, .. }), "{error}");
}

#[tokio::test]
async fn a_newer_version_that_migrates_the_file_in_use_is_told() {
    let bench = Bench::<SqliteFile>::new().await;
    bench.queue.probe().await.unwrap();
    let sql = "INSERT INTO _sqlx_migrations VALUES (9999, 'later', 'now', 1, x'00', 0)";
    sqlx::raw_sql(sql).execute(&mut raw(&bench.store.path()).await).await.unwrap();
    let error = bench.queue.probe().await.unwrap_err();
    assert!(matches!(error, ProbeError::Newer { version: 9999, .. }), "{error}");
}

#[tokio::test]
async fn a_queue_of_the_first_version_keeps_its_tasks() {
    let folder = tempfile::tempdir().unwrap();
    let mut migrations = sqlx::migrate!("../../migrations/sqlite");
    migrations.migrations = migrations.migrations.iter().take(1).cloned().collect();
    let create = SqliteConnectOptions::new().filename(file_in(&folder)).create_if_missing(true);
    let mut old = SqliteConnection::connect_with(&create).await.unwrap();
    migrations.run(&mut old).await.unwrap();
    let id = TaskId::new();
    let device = Uuid::new_v4();
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "INSERT INTO task VALUES ('{id}', 'named', '{device}', 'topic', '2019-01-11T00:00:00Z', '2019-01-12T00:00:00Z', 'running', 5, 1, 7, NULL);
         INSERT INTO job (task_id, ordinal, device_id, state, attempt, due_at, total, published, held, cursor_time, cursor_key)
         VALUES ('{id}', 0, '{device}', 'queued', 3, 0, 9, 4, 1, 77, 'k');
         INSERT INTO event VALUES ('{id}', 1, 8, 1, 'said', NULL);
         INSERT INTO quarantine VALUES ('{id}', '{device}', 70, 'j', 'torn', 8);"
    )))
    .execute(&mut old)
    .await
    .unwrap();
    old.close().await.unwrap();

    let queue = Queue::open(&options(&file_in(&folder)), Clock::System).await.unwrap();
    let mut leases = queue.claim(&"one".into(), || 9, LEASE, 2).await.unwrap().leases;
    let lease = leases.pop().expect("nothing to claim");
    let position = Some(Position { time_us: 77, key: "k".into() });
    assert_eq!((lease.job.attempt, lease.job.total), (4, Some(9)));
    assert_eq!(lease.job.progress, Progress { position, published: 4, quarantined: 1, ..Progress::default() });
    assert_eq!(queue.log_after(id, 0, 9).await.unwrap()[0].event.to_string(), "said");
    assert_eq!(queue.quarantined_rows(id).await.unwrap()[0].1.reason, "torn");
    let Submitted::Conflict { task, .. } = queue.submit(task(1, Some("named"))).await.unwrap() else {
        panic!("its name is forgotten")
    };
    assert_eq!(task, id);
    let row = queue.task(id).await.unwrap().unwrap();
    assert_eq!((row.last_seq, row.state), (1, TaskState::Running));
}

#[tokio::test]
async fn a_damaged_queue_is_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(file_in(&folder), "this is no database, and long enough to be looked at".repeat(50)).unwrap();
    let error = open_error(&file_in(&folder)).await;
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn a_locked_queue_is_told() {
    let bench = Bench::<SqliteFile>::new().await;
    bench.queue.close().await;
    let mut holder = raw(&bench.store.path()).await;
    sqlx::raw_sql("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; CREATE TABLE held (x)").execute(&mut holder).await.unwrap();
    let error = open_error(&bench.store.path()).await;
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
}

#[tokio::test]
async fn a_queue_in_a_folder_that_can_not_be_made_is_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let error = open_error(&folder.path().join("file/queue.db")).await;
    assert!(matches!(error, OpenError::Directory { .. }), "{error}");
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_keeps_no_other_from_being_claimed() {
    let bench = Bench::<SqliteFile>::new().await;
    let (torn, whole, unreadable) = (bench.submit(2).await, bench.submit(1).await, bench.submit(1).await);
    let sql = format!(
        "UPDATE job SET device_id = 'torn' WHERE task_id = '{torn}' AND ordinal = 0;
         UPDATE task SET range_from = 'torn' WHERE id = '{unreadable}'"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut raw(&bench.store.path()).await).await.unwrap();
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
