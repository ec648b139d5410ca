//! A service that is stopped or killed and started again: each row is published, each line sent
//! once.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Client, Process, TestBroker, TestSource, TestTopic, message, seqs};

/// Enough rows for a task that takes a while.
pub const ROWS: i64 = 60_000;

pub struct Site {
    pub folder: tempfile::TempDir,
    pub source: TestSource,
    pub topic: TestTopic,
}

impl Site {
    pub async fn new() -> Self {
        let topic = TestBroker::start().await.topic().await;
        Self { folder: tempfile::tempdir().unwrap(), source: TestSource::empty().await, topic }
    }

    async fn serve(&self) -> Process {
        self.serve_on(&self.folder).await
    }

    /// A service whose queue is in another folder.
    pub async fn serve_on(&self, folder: &tempfile::TempDir) -> Process {
        // Small pages and few bytes in flight make it slow enough to be killed while it works.
        let slow = [("DATA_PATCH_IOTA_PAGE_ROWS", "500"), ("DATA_PATCH_KAFKA_IN_FLIGHT_BYTES", "262144")];
        Process::serve(folder, &self.source, &self.topic, &slow).await
    }
}

/// `iota data published(k / n)` with k < n.
pub fn is_partly_published(line: &Value) -> bool {
    message(line).starts_with("iota data published(") && !message(line).contains(&format!("({ROWS} / "))
}

pub async fn attach(process: &Process, task: &str, log: &[Value]) -> Client {
    let mut client = Client::connect(&process.url).await;
    let reply = client.attach(task, log.len() as u64).await;
    assert_eq!(message(&reply), "task attached.", "{reply}");
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_killed_twice_loses_nothing() {
    let site = Site::new().await;
    let (thing, device) = site.source.add_rows(ROWS).await;
    let mut process = site.serve().await;
    let mut client = Client::connect(&process.url).await;
    let task = client.submit(&Client::request(thing, &[device], &site.topic.name)).await;
    let mut log = Vec::new();
    for _ in 0..2 {
        log.extend(client.until(is_partly_published).await);
        process.kill().await;
        process = site.serve().await;
        client = attach(&process, &task, &log).await;
    }
    log.extend(client.log().await);
    assert_eq!(seqs(&log), (1..=log.len() as u64).collect::<Vec<_>>());
    assert_eq!(log.iter().filter(|line| message(line).contains("its previous worker was lost")).count(), 2, "{log:#?}");
    assert!(message(log.last().unwrap()).contains(&format!("{ROWS} rows published")), "{log:#?}");

    let found = site.topic.read_device(device).await;
    let mut seen = std::collections::HashSet::new();
    let once: Vec<_> = found.iter().filter(|found| seen.insert(&found.row)).map(|found| found.value.clone()).collect();
    assert_eq!(once, site.source.docs(device).await, "every row, in order, once repeats are dropped");
    let repeats = found.len() - once.len();
    // At most what was in flight at each kill, and what was acknowledged since the last heartbeat.
    assert!(repeats < ROWS as usize / 2, "{repeats} repeats");
    process.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_repeats_nothing_and_its_jobs_resume_at_once() {
    let site = Site::new().await;
    let (thing, device) = site.source.add_rows(ROWS).await;
    let process = site.serve().await;
    let mut client = Client::connect(&process.url).await;
    let task = client.submit(&Client::request(thing, &[device], &site.topic.name)).await;
    let mut log = client.until(is_partly_published).await;
    let (code, took) = process.terminate().await;
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(20), "{took:?}");
    let process = site.serve().await;
    let mut client = attach(&process, &task, &log).await;
    log.extend(client.log().await);
    assert_eq!(seqs(&log), (1..=log.len() as u64).collect::<Vec<_>>());
    assert!(
        !log.iter().any(|line| message(line).contains("its previous worker was lost")),
        "the lease was handed back: {log:#?}"
    );
    let found: Vec<_> = site.topic.read_device(device).await.into_iter().map(|found| found.value).collect();
    assert_eq!(found, site.source.docs(device).await, "each row once");
    process.terminate().await;
}
