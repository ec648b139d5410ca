//! Kafka is killed, is frozen, or removes messages, while a verification reads a topic.

use std::time::{Duration, Instant};

use data_patch::protocol::http::{Verdict, VerifyLine};
use data_patch_client::{HttpClient, JsonLines, TaskId};
use rdkafka::Offset;
use tempfile::TempDir;
use tokio::time::timeout;
use uuid::Uuid;

use super::{Outage, generate_rows, scenario::DEVICES, services};
use crate::{
    support::{Client, PARTITIONS, Process, TIMEOUT, TOKEN, TestBroker, TestSource, TestTopic, is_end},
    table::TestResult,
};

/// Rows of each device: much more than a verification reads ahead.
const ROWS: usize = 100_000;

/// A service whose task has published its rows.
pub struct Published {
    _folder: TempDir,
    _source: TestSource,
    pub topic: TestTopic,
    process: Process,
    http: HttpClient,
    task: TaskId,
    rows: u64,
}

impl Published {
    /// Publishes the rows of a few devices to this topic.
    pub async fn to(topic: TestTopic) -> Self {
        let (source, devices) = (TestSource::empty().await, [(); DEVICES].map(|()| Uuid::new_v4()));
        let thing = generate_rows(&source, &devices, ROWS).await;
        let folder = tempfile::tempdir().unwrap();
        let process = Process::serve(&folder, &source, &topic, &[]).await;
        let mut client = Client::connect(&process.url).await;
        let task = client.submit(&Client::request(thing, &devices, &topic.name)).await.parse().map(TaskId).unwrap();
        client.until(is_end).await;
        let http = HttpClient::new(&format!("http://{}", process.address), TOKEN).unwrap();
        Self { _folder: folder, _source: source, topic, process, http, task, rows: (devices.len() * ROWS) as u64 }
    }

    /// Starts a verification; returns when it has read a part of the topic.
    pub async fn verify_partly(&self) -> JsonLines<VerifyLine> {
        let mut lines = self.verify().await;
        loop {
            match lines.next().await.unwrap().unwrap() {
                VerifyLine::Progress(progress) if progress.read == 0 => {}
                VerifyLine::Progress(progress) => {
                    assert!(progress.read < self.rows / 2, "too fast for this test: {progress:?}");
                    return lines;
                }
                other => panic!("it has not read anything: {other:?}"),
            }
        }
    }

    /// Starts a verification.
    async fn verify(&self) -> JsonLines<VerifyLine> {
        self.http.verify(self.task).await.unwrap()
    }

    /// Waits until a verification has found every row.
    pub async fn assert_complete(&self, lines: JsonLines<VerifyLine>) {
        let line = end(lines).await;
        let VerifyLine::Summary(summary) = line else { panic!("{line:?}") };
        assert_eq!((summary.verdict, summary.found), (Verdict::Complete, self.rows), "{summary:?}");
    }

    pub async fn stop(self) {
        assert_eq!(self.process.terminate().await.0, Some(0));
    }
}

/// The first line that is neither progress nor the verdict on a device; it must be the last.
async fn end(mut lines: JsonLines<VerifyLine>) -> VerifyLine {
    loop {
        match timeout(TIMEOUT * 2, lines.next()).await.expect("the verification hangs").unwrap().unwrap() {
            VerifyLine::Progress(_) => {}
            // Printed, to explain a summary that is not as expected.
            VerifyLine::Device(device) => println!("{}", device.reason.unwrap_or_default()),
            last => {
                assert_eq!(lines.next().await.unwrap(), None, "after {last:?}");
                return last;
            }
        }
    }
}

async fn outage_of_kafka(what: &str, command: &'static str) {
    if !services::are_private(what) {
        return;
    }
    let published = Published::to(TestBroker::start().await.topic().await).await;
    let lines = published.verify_partly().await;
    let outage = Outage::start(command, "kafka").await;
    let started = Instant::now();
    let line = end(lines).await;
    let took = started.elapsed();
    outage.end().await;
    let VerifyLine::Error(error) = line else { panic!("{line:?}") };
    assert_eq!(
        error.detail,
        "Kafka is unavailable: the brokers have sent no message for 30 s. Nothing is known; verify the task again"
    );
    assert!((Duration::from_secs(25)..Duration::from_secs(45)).contains(&took), "{took:?}");
    published.assert_complete(published.verify().await).await;
    published.stop().await;
    TestResult {
        what,
        times: 1,
        note: format!("an error {:.0} s later, then complete", took.as_secs_f64()),
        ..TestResult::default()
    }
    .write();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn kafka_is_frozen_while_a_verification_reads() {
    outage_of_kafka("outage: Kafka frozen while a verification reads", "freeze").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn kafka_is_killed_while_a_verification_reads() {
    outage_of_kafka("outage: Kafka killed while a verification reads", "kill").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn messages_are_removed_while_a_verification_reads() {
    let what = "outage: the topic's messages removed while a verification reads";
    if !services::are_private(what) {
        return;
    }
    let published = Published::to(TestBroker::start().await.topic().await).await;
    let lines = published.verify_partly().await;
    let all: Vec<_> = (0..PARTITIONS).map(|partition| (partition, Offset::End)).collect();
    published.topic.remove_messages(&all).await;
    let line = end(lines).await;
    let VerifyLine::Error(error) = line else { panic!("{line:?}") };
    let expected = format!("messages of topic {} were removed while they were read", published.topic.name);
    assert!(error.detail.contains(&expected), "{error:?}");
    let line = end(published.verify().await).await;
    let VerifyLine::Summary(summary) = line else { panic!("{line:?}") };
    assert_eq!((summary.verdict, summary.differing_devices), (Verdict::Unknown, 0), "{summary:?}");
    published.stop().await;
    TestResult { what, times: 1, note: "an error, then unknown".to_owned(), ..TestResult::default() }.write();
}
