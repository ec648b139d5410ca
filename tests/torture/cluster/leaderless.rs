//! One partition has no leader, since the node of its only replica is down: other partitions are
//! not affected.

use std::{collections::HashSet, time::Instant};

use uuid::Uuid;

use super::{
    DEVICES, Nodes, PARTITIONS, nodes,
    nodes::{ALL, Outage},
    start,
};
use crate::{
    outage::{
        TaskSetup, generate_rows,
        log_checks::{published, takeovers, waits},
    },
    queue_reader::QueueReader,
    row_counts::RowCounts,
    support::{Client, Process, TIMEOUT, TestSource, is_end, message},
    table::TestResult,
};

/// Rows of each device.
const ROWS: usize = 20_000;
/// Rows of the other task's device.
const OTHER_ROWS: i64 = 20_000;
/// The node that is stopped.
const LOST: i32 = 2;

/// Returns devices of which the first ones share a partition, the number of these, and the number
/// of that partition.
async fn devices(nodes: &Nodes) -> (Vec<Uuid>, usize, i32) {
    let mut devices: Vec<Uuid> = (0..DEVICES).map(|_| Uuid::new_v4()).collect();
    let partitions = nodes.partitions_of(&devices).await;
    let lost = partitions[0];
    let in_lost: HashSet<Uuid> =
        devices.iter().zip(&partitions).filter(|(_, partition)| **partition == lost).map(|(device, _)| *device).collect();
    devices.sort_by_key(|device| !in_lost.contains(device));
    (devices, in_lost.len(), lost)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn a_partition_without_a_leader_delays_no_other() {
    let what = "cluster: one partition without a leader";
    let Some(nodes) = nodes(what).await else { return };
    let (devices, lost_devices, lost_partition) = devices(&nodes).await;
    let elsewhere: Vec<i32> = ALL.into_iter().filter(|node| *node != LOST).collect();
    let assignment: Vec<i32> = (0..PARTITIONS)
        .map(|number| if number == lost_partition { LOST } else { elsewhere[number.unsigned_abs() as usize % elsewhere.len()] })
        .collect();
    let (topic, healthy) = (nodes.topic_on(&assignment).await, nodes.topic().await);
    let source = TestSource::empty().await;
    let (other_thing, other_device) = source.add_rows(OTHER_ROWS).await;
    let setup = TaskSetup { source, url: None, topic: topic.clone(), devices, rows: ROWS };
    let mut scenario = start(setup).await;
    let lost: HashSet<Uuid> = scenario.devices[..lost_devices].iter().copied().collect();

    let (started, outage) = (Instant::now(), Outage::start("kill", LOST).await);
    let mut other = Client::connect(&scenario.process.url).await;
    let other_task = other.submit(&Client::request(other_thing, &[other_device], &healthy.name)).await;
    let other_log = scenario.read_during(other.log()).await;
    let task_took = started.elapsed();
    assert_eq!(other_log.last().unwrap()["payload"]["state"], "succeeded", "{other_log:#?}");
    let mut left: HashSet<Uuid> = scenario.devices[lost_devices..].iter().copied().collect();
    for line in &scenario.log {
        left.retain(|device| published(message(line)) != Some((ROWS, ROWS, *device)));
    }
    while !left.is_empty() {
        let line = scenario.next().await;
        left.retain(|device| published(message(&line)) != Some((ROWS, ROWS, *device)));
    }
    let rest_took = started.elapsed();
    let mut silent = lost.clone();
    for line in &scenario.log {
        silent.retain(|device| {
            waits(message(line)).is_none_or(|(_, waiting, reason)| waiting != *device || !reason.contains("Kafka"))
        });
    }
    assert!(silent.is_empty(), "a device of the partition without a leader logs no outage: {:#?}", scenario.log);
    assert!(nodes.partitions(&topic)[lost_partition.unsigned_abs() as usize].leader < 0, "it has a leader");

    outage.end().await;
    scenario.read_during(nodes.wait_until_in_sync(&topic)).await;
    let source = scenario.source.clone();
    let outcome = scenario.finish().await;
    assert_eq!(takeovers(&outcome.log), 0, "{:#?}", outcome.log);
    let counts = RowCounts::of(&source, &healthy, &other_task, &[other_device]).await;
    assert_eq!((counts.lost, counts.repeated), (0, 0));
    let note = format!(
        "{lost_devices} of {DEVICES} devices were in it; without it another task's topic was done after {:.0} s, the other devices \
         after {:.0} s",
        task_took.as_secs_f64(),
        rest_took.as_secs_f64()
    );
    outcome.write(what, 1, &note);
}

/// Short timeouts; the limit of bytes in flight is the default, as in production.
const SETTINGS: [(&str, &str); 4] = [
    ("DATA_PATCH_WORKER_LEASE_SECONDS", "3"),
    ("DATA_PATCH_WORKER_STALL_WARNING_SECONDS", "3"),
    ("DATA_PATCH_WORKER_RETRY_MAX_MS", "2000"),
    ("DATA_PATCH_WORKER_PROGRESS_LOG_INTERVAL_MS", "100"),
];
/// Rows of each device: more than can be in flight together.
const MANY: usize = 100_000;

/// This number of devices, each in a different partition.
async fn in_different_partitions(nodes: &Nodes, number: usize) -> Vec<Uuid> {
    let devices: Vec<Uuid> = (0..PARTITIONS).map(|_| Uuid::new_v4()).collect();
    let partitions = nodes.partitions_of(&devices).await;
    let mut taken = HashSet::new();
    devices
        .into_iter()
        .zip(partitions)
        .filter(|(_, partition)| taken.insert(*partition))
        .map(|(device, _)| device)
        .take(number)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn a_topic_without_leaders_delays_no_other() {
    let what = "cluster: a topic without leaders, tasks submitted to it meanwhile, and another topic";
    let Some(nodes) = nodes(what).await else { return };
    let (topic, healthy) = (nodes.topic_on(&[LOST; PARTITIONS as usize]).await, nodes.topic().await);
    let (source, folder) = (TestSource::empty().await, tempfile::tempdir().unwrap());
    let devices = in_different_partitions(&nodes, 3).await;
    let thing = generate_rows(&source, &devices, MANY).await;
    let (other_thing, other_device) = source.add_rows(OTHER_ROWS).await;
    let process = Process::serve(&folder, &source, &topic, &SETTINGS).await;
    let mut client = Client::connect(&process.url).await;
    // The producer knows all partitions afterwards.
    let first = client.submit(&Client::request(thing, &devices, &topic.name)).await;
    client.log().await;

    let outage = Outage::start("kill", LOST).await;
    let mut tasks = vec![(first, &topic, devices.as_slice())];
    for device in devices.chunks(1) {
        let task = client.submit(&Client::request(thing, device, &topic.name)).await;
        client.until(|line| waits(message(line)).is_some_and(|(_, waiting, _)| waiting == device[0])).await;
        tasks.push((task, &topic, device));
    }
    let mut other = Client::connect(&process.url).await;
    let started = Instant::now();
    let task = other.submit(&Client::request(other_thing, &[other_device], &healthy.name)).await;
    tasks.push((task, &healthy, std::slice::from_ref(&other_device)));
    let log = tokio::time::timeout(TIMEOUT, other.log()).await.expect("another topic is delayed");
    assert_eq!(log.last().unwrap()["payload"]["state"], "succeeded", "{log:#?}");
    let took = started.elapsed();

    outage.end().await;
    let recovered = Instant::now();
    let mut ends = 0;
    while ends < devices.len() {
        let line = client.until(is_end).await.pop().unwrap();
        assert_eq!(line["payload"]["state"], "succeeded", "{line}");
        ends += 1;
    }
    let note = format!(
        "another topic's task of {OTHER_ROWS} rows took {:.1} s meanwhile; end {:.1} s after the node was started",
        took.as_secs_f64(),
        recovered.elapsed().as_secs_f64()
    );
    assert_eq!(process.terminate().await.0, Some(0));
    QueueReader::open(folder.path()).await.assert_finished().await;
    let mut counts = RowCounts::default();
    for (task, topic, devices) in tasks {
        counts.add(RowCounts::of(&source, topic, &task, devices).await);
    }
    TestResult::of(what, 1, counts, note).write();
    assert_eq!(counts.lost, 0, "{counts:?}");
}
