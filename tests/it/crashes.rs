//! What a crash says about the job that was in progress: here by the whole service, in the queue's conformance suite by
//! the queue alone.

use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

use crate::support::{Client, Process, TestBroker, TestSource, eventually, message};

async fn raw(folder: &TempDir) -> SqliteConnection {
    SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(folder.path().join("queue.db"))).await.unwrap()
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
    let (source, topic) = (TestSource::empty().await, TestBroker::start().await.topic().await);
    let (thing, device) = source.add_rows(3).await;
    let deadly = Process::serve(&folder, &source, &topic, &[("FAILPOINT", "read")]).await;
    let mut client = Client::connect(&deadly.url).await;
    let lock = source.lock().await;
    let task = client.submit(&Client::request(thing, &[device], &topic.name)).await;
    eventually("the job stands still", || any_stands_still(&folder)).await;
    lock.release().await;
    assert_eq!(deadly.died().await, Some(9));

    let process = Process::serve(&folder, &source, &topic, &[("DATA_PATCH_WORKER_MAX_CRASHES", "1")]).await;
    let mut client = Client::connect(&process.url).await;
    client.attach(&task, 0).await;
    let log = client.log().await;
    assert!(log.iter().any(|line| message(line).contains("its worker died 1 times in a row")), "{log:#?}");
    process.terminate().await;
}
