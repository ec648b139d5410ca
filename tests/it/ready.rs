//! `/readyz`: whether the queue is writable, and how long a response takes.

use std::time::{Duration, Instant};

use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

#[cfg(feature = "failpoints")]
use crate::support::{Process, TestBroker};
use crate::support::{TIMEOUT, TestApp, TestSource, eventually};

/// Opens the queue's file as another program does.
async fn raw(app: &TestApp) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(app.folder.path().join("queue.db"));
    SqliteConnection::connect_with(&options).await.unwrap()
}

/// Waits until the service is not ready; returns the state of the queue.
async fn queue_text(app: &TestApp) -> String {
    eventually("it is not ready", || async { app.get("/readyz").await.0 == 503 }).await;
    let (_, body) = app.get("/readyz").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    body["queue"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_removed_queue_file_is_reported() {
    let app = TestApp::start(TestSource::empty().await).await;
    std::fs::remove_file(app.folder.path().join("queue.db")).unwrap();
    let text = queue_text(&app).await;
    assert!(text.contains("removed or replaced"), "{text}");
    app.stop().await;
}

#[tokio::test]
async fn a_replaced_queue_file_is_reported() {
    let app = TestApp::start(TestSource::empty().await).await;
    let path = app.folder.path().join("queue.db");
    std::fs::copy(&path, path.with_extension("copy")).unwrap();
    std::fs::rename(path.with_extension("copy"), &path).unwrap();
    let text = queue_text(&app).await;
    assert!(text.contains("removed or replaced"), "{text}");
    app.stop().await;
}

#[tokio::test]
async fn a_queue_that_is_not_writable_is_reported_without_delay() {
    let app = TestApp::start(TestSource::empty().await).await;
    assert_eq!(app.get("/readyz").await.0, 200);
    let mut other = raw(&app).await;
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let (mut slowest, locked) = (Duration::ZERO, Instant::now());
    let text = loop {
        assert!(locked.elapsed() < TIMEOUT, "it still reports that it is ready");
        let asked = Instant::now();
        let (status, body) = app.get("/readyz").await;
        slowest = slowest.max(asked.elapsed());
        if status == 503 {
            break body;
        }
    };
    assert!(text.contains("locked") || text.contains("no answer"), "{text}");
    // The limit is one second, plus an allowance for a busy machine.
    assert!(slowest < Duration::from_secs(3), "an answer took {slowest:?}");
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    eventually("it is ready again", || async { app.get("/readyz").await.0 == 200 }).await;
    app.stop().await;
}

#[tokio::test]
async fn the_queue_is_written_once_a_second_for_any_number_of_requests() {
    let app = TestApp::start(TestSource::empty().await).await;
    let began = Instant::now();
    let asked = futures_util::future::join_all((0..50).map(|_| app.get("/readyz"))).await;
    assert!(asked.iter().all(|(status, _)| *status == 200), "{asked:?}");
    let writes: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut raw(&app).await).await.unwrap();
    let most = 1 + began.elapsed().as_secs().cast_signed();
    assert!((1..=most).contains(&writes), "{writes} writes, {most} at the most");
    app.stop().await;
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_writer_that_dies_ends_the_process() {
    let (folder, broker) = (tempfile::tempdir().unwrap(), TestBroker::start().await);
    let (source, topic) = (TestSource::empty().await, broker.topic().await);
    let process = Process::start(&folder, &source, &topic, &[("FAILPOINT_PANIC", "commit")]);
    assert_eq!(process.exit_code().await, Some(1));
    let log = Process::log(&folder);
    assert!(log.contains("the thread that writes the queue has died"), "{log}");
}
