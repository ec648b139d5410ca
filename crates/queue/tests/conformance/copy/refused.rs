//! What is not copied, and why.

use data_patch_protocol::task::Event;
use data_patch_queue::{Clock, CopyError};

use super::{copied, dump, execute, fill, raw, stopped};
use crate::support::{Bench, PostgresSchema, SqliteFile, TestStore, counted};

async fn refused<S: TestStore, T: TestStore>(from: &S, to: &T) -> CopyError {
    copied(from, to, &Clock::System).await.expect_err("it was copied")
}

#[tokio::test]
async fn a_file_that_is_no_queue_is_not_made_one() {
    let (from, to) = (SqliteFile::create().await, SqliteFile::create().await);
    let error = refused(&from, &to).await;
    assert!(matches!(error, CopyError::NoQueue { .. }) && !from.path().exists() && !to.path().exists(), "{error}");
    execute(&from, "CREATE TABLE readings (id)").await;
    let error = refused(&from, &to).await;
    assert!(matches!(error, CopyError::NoQueue { .. }) && !to.path().exists(), "{error}");
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut raw(&from.path()).await).await.unwrap();
    assert_eq!(tables, 1);
}

#[tokio::test]
async fn a_schema_without_a_queue_is_not_given_one() {
    if !PostgresSchema::is_available() {
        return;
    }
    let (from, to) = (PostgresSchema::create().await, SqliteFile::create().await);
    let error = refused(&from, &to).await;
    assert!(matches!(error, CopyError::NoQueue { .. }), "{error}");
    let created: bool =
        sqlx::query_scalar("SELECT to_regclass('task') IS NOT NULL").fetch_one(&mut from.connect().await).await.unwrap();
    assert!(!created && !to.path().exists());
}

#[tokio::test]
async fn a_copy_that_differs_is_undone() {
    let bench = Bench::<SqliteFile>::new().await;
    let id = fill(&bench).await;
    let ((from, clock), to) = (stopped(bench).await, SqliteFile::create().await);
    to.open(clock.clone()).await.close().await;
    let alter = format!(
        "CREATE TRIGGER t AFTER INSERT ON event WHEN new.task_id = '{id}' AND new.seq = 1234
         BEGIN UPDATE event SET at = at + 1 WHERE task_id = new.task_id AND seq = new.seq; END"
    );
    execute(&to, &alter).await;
    let error = copied(&from, &to, &clock).await.unwrap_err();
    assert!(error.to_string().contains(&format!("log entry 1234 of task {id}")), "{error}");
    let lose =
        "DROP TRIGGER t; CREATE TRIGGER t AFTER INSERT ON quarantine WHEN new.row_key = 'j' BEGIN DELETE FROM quarantine; END";
    execute(&to, lose).await;
    let error = copied(&from, &to, &clock).await.unwrap_err();
    assert!(error.to_string().contains("a quarantined row of device"), "{error}");
    assert!(dump(&to, "task").await.1.is_empty());
}

#[tokio::test]
async fn what_postgres_can_not_store_is_replaced_in_texts_for_people_only() {
    if !PostgresSchema::is_available() {
        return;
    }
    let bench = Bench::<SqliteFile>::new().await;
    let id = bench.submit(1).await;
    bench.claim_one().await.checkpoint(counted(Some("a\0b"), 1)).await.unwrap();
    let (from, clock) = stopped(bench).await;
    // An entry of the first version.
    execute(&from, "UPDATE event SET kind = NULL, ok = 0, body = 'a' || char(0) || 'b'").await;
    let to = PostgresSchema::create().await;
    assert_eq!(copied(&from, &to, &clock).await.unwrap().replaced_texts, 1);
    let queue = to.open(clock.clone()).await;
    assert_eq!(queue.jobs(id, &[], None, 9).await.unwrap()[0].name.as_deref(), Some("a\u{fffd}b"));
    let event = queue.log_after(id, 0, 9).await.unwrap()[0].event.clone();
    assert_eq!(event, Event::Text { text: "a\0b".to_owned(), is_error: true });

    execute(&from, "UPDATE job SET cursor_key = 'a' || char(0) || 'b'").await;
    let to = PostgresSchema::create().await;
    let error = copied(&from, &to, &clock).await.unwrap_err();
    assert!(matches!(&error, CopyError::Nul { what, .. } if what.contains(&id.to_string())), "{error}");
}

#[tokio::test]
async fn a_row_that_can_not_be_read_is_named() {
    let bench = Bench::<SqliteFile>::new().await;
    let id = bench.submit(1).await;
    let ((from, clock), to) = (stopped(bench).await, SqliteFile::create().await);
    execute(&from, "UPDATE job SET device_id = 'torn'").await;
    let error = copied(&from, &to, &clock).await.unwrap_err().to_string();
    assert!(error.contains(&id.to_string()) && error.contains("device_id"), "{error}");
}
