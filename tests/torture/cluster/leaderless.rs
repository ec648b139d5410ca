//! One partition has no leader, since its only replica was on a node that is gone: the others do not notice.

use std::{collections::HashSet, time::Instant};

use uuid::Uuid;

use super::{
    DEVICES, Nodes, PARTITIONS, nodes,
    nodes::{ALL, Away},
    play,
};
use crate::{
    account::Account,
    outage::{
        Patch,
        told::{published, takeovers, waits},
    },
    support::{Client, TestStore, message},
};

/// Of each device.
const ROWS: usize = 20_000;
/// Of the other task's only device.
const OTHER_ROWS: i64 = 20_000;
/// The node that goes away.
const LOST: i32 = 2;

/// Devices, and how many of them, the first ones, are in the same partition; that partition's number.
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
async fn a_partition_without_a_leader_keeps_nobody_else_waiting() {
    let what = "cluster: one partition without a leader";
    let Some(nodes) = nodes(what).await else { return };
    let (devices, lost_devices, lost_partition) = devices(&nodes).await;
    let elsewhere: Vec<i32> = ALL.into_iter().filter(|node| *node != LOST).collect();
    let assignment: Vec<i32> = (0..PARTITIONS)
        .map(|number| if number == lost_partition { LOST } else { elsewhere[number.unsigned_abs() as usize % elsewhere.len()] })
        .collect();
    let (topic, healthy) = (nodes.topic_on(&assignment).await, nodes.topic().await);
    let store = TestStore::empty().await;
    let (other_thing, other_device) = store.add_rows(OTHER_ROWS).await;
    let patch = Patch { store, url: None, topic: topic.clone(), devices, rows: ROWS };
    let mut scene = play(patch).await;
    let lost: HashSet<Uuid> = scene.devices[..lost_devices].iter().copied().collect();

    let (gone, away) = (Instant::now(), Away::take("kill", LOST).await);
    let mut other = Client::connect(&scene.process.url).await;
    let other_task = other.submit(&Client::request(other_thing, &[other_device], &healthy.name)).await;
    let other_log = scene.during(other.log()).await;
    let other_took = gone.elapsed();
    assert_eq!(other_log.last().unwrap()["payload"]["state"], "succeeded", "{other_log:#?}");
    let mut left: HashSet<Uuid> = scene.devices[lost_devices..].iter().copied().collect();
    for line in &scene.log {
        left.retain(|device| published(message(line)) != Some((ROWS, ROWS, *device)));
    }
    while !left.is_empty() {
        let line = scene.next().await;
        left.retain(|device| published(message(&line)) != Some((ROWS, ROWS, *device)));
    }
    let others_took = gone.elapsed();
    let mut silent = lost.clone();
    for line in &scene.log {
        silent.retain(|device| {
            waits(message(line)).is_none_or(|(_, waiting, reason)| waiting != *device || !reason.contains("Kafka"))
        });
    }
    assert!(silent.is_empty(), "a device of the partition without a leader says nothing: {:#?}", scene.log);
    assert!(nodes.partitions(&topic)[lost_partition.unsigned_abs() as usize].leader < 0, "it has a leader");

    away.give_back().await;
    scene.during(nodes.whole(&topic)).await;
    let store = scene.store.clone();
    let ended = scene.ends_whole().await;
    assert_eq!(takeovers(&ended.log), 0, "{:#?}", ended.log);
    let account = Account::of(&store, &healthy, &other_task, &[other_device]).await;
    assert_eq!((account.lost, account.repeated), (0, 0));
    let note = format!(
        "{lost_devices} of {DEVICES} devices were in it; without it another task's topic was done after {:.0} s, the other devices \
         after {:.0} s",
        other_took.as_secs_f64(),
        others_took.as_secs_f64()
    );
    ended.write(what, 1, &note);
}
