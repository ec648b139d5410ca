//! The topic is deleted while a task runs, on a broker that creates topics automatically.

use std::{collections::HashSet, time::Instant};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};

use super::{Scenario, scenario::DEVICES, services};
use crate::{
    queue_reader::QueueReader,
    support::{TIMEOUT, TestTopic, is_end, message, seqs},
    table,
};

async fn delete(topic: &TestTopic) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", topic.broker.brokers()).create().unwrap();
    let options = AdminOptions::new().operation_timeout(Some(TIMEOUT));
    admin.delete_topics(&[&topic.name], &options).await.unwrap().remove(0).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn a_topic_deleted_during_a_task_fails_the_devices_and_is_not_created_again() {
    let what = "outage: the topic deleted on the way";
    if !services::are_private(what) {
        return;
    }
    let mut scenario = Scenario::start(tempfile::tempdir().unwrap()).await;
    delete(&scenario.topic).await;
    let deleted = Instant::now();
    scenario.until(is_end).await;
    let took = deleted.elapsed();
    let Scenario { folder, topic, process, log, .. } = scenario;
    assert_eq!(seqs(&log), (1..=log.len() as u64).collect::<Vec<_>>());
    let last = log.last().unwrap();
    assert_eq!((&last["payload"]["state"], &last["res"]), (&"failed".into(), &"error".into()), "{last}");
    let expected = format!("topic {} does not exist", topic.name);
    assert!(message(last).contains(&expected), "{last}");
    let failed = log.iter().filter(|line| line["res"] == "error" && message(line).contains(&expected)).count();
    assert_eq!(failed, DEVICES + 1, "one error line per device, and the last line: {log:#?}");
    assert!(!topic.broker.topics().await.contains(&topic.name), "the service has created it again");
    assert_eq!(process.terminate().await.0, Some(0));
    QueueReader::open(folder.path()).await.assert_finished().await;
    table::TestResult {
        what,
        times: 1,
        note: format!("all devices failed {:.1} s after it", took.as_secs_f64()),
        ..table::TestResult::default()
    }
    .write();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn a_topic_deleted_and_created_again_gets_all_rows_after_the_checkpoint() {
    let what = "outage: the topic deleted and made again at once";
    if !services::are_private(what) {
        return;
    }
    let mut scenario = Scenario::start(tempfile::tempdir().unwrap()).await;
    delete(&scenario.topic).await;
    scenario.topic.broker.create(&scenario.topic.name, &[]).await;
    let made = Instant::now();
    // Rows that were acknowledged before are lost with the old topic.
    let acknowledged =
        QueueReader::open(scenario.folder.path()).await.number("SELECT CAST(sum(published) AS BIGINT) FROM job").await;
    scenario.until(is_end).await;
    let took = made.elapsed();
    let Scenario { folder, source, topic, process, task, devices, log, .. } = scenario;
    assert_eq!(seqs(&log), (1..=log.len() as u64).collect::<Vec<_>>());
    assert_eq!(log.last().unwrap()["payload"]["state"], "succeeded");
    assert_eq!(process.terminate().await.0, Some(0));
    QueueReader::open(folder.path()).await.assert_finished().await;
    let all = topic.read().await;
    let (mut rows, mut before) = (0, 0);
    for device in devices {
        let key = device.to_string();
        let mut seen = HashSet::new();
        let of_device = all.iter().filter(|found| found.key == key && found.task == task);
        let found: Vec<_> = of_device.filter(|found| seen.insert(&found.row)).map(|found| &found.value).collect();
        let docs = source.docs(device).await;
        let first = docs.len() - found.len();
        assert!(docs[first..].iter().eq(found), "device {device}: rows are missing, or out of order");
        rows += docs.len() - first;
        before += first;
    }
    assert!(
        i64::try_from(before).unwrap() <= acknowledged,
        "{before} rows are in no topic, and only {acknowledged} were acknowledged in the old one"
    );
    let note = format!("{before} rows went with the old topic, end {:.1} s after the new one was made", took.as_secs_f64());
    table::TestResult { what, times: 1, rows, repeated: all.len() - rows, note, ..table::TestResult::default() }.write();
}
