//! Nodes killed, restarted, frozen: with two of three there the work goes on, with one it waits.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{
    nodes,
    nodes::{ALL, Away},
    safe, scene,
};
use crate::outage::{AWAY, Scene, told::takeovers};

/// Longer than the lease, the replicas' lag (4 s), the brokers' session (3 s), and the 10 s after which the service's client
/// gives up a connection that says nothing.
const FROZEN: Duration = Duration::from_secs(25);

/// Asserts that each device has got on since `before`, or was done by then.
fn all_got_on(scene: &Scene, before: &HashMap<Uuid, usize>) {
    let now = safe(&scene.log);
    for device in &scene.devices {
        let (before, now) = (before.get(device).copied().unwrap_or_default(), now.get(device).copied().unwrap_or_default());
        assert!(before < now || now == scene.rows, "device {device} stood still at {now} rows: {:#?}", scene.log);
    }
}

/// Reads on to the end, and notes what was found. No device was taken from its worker.
async fn ends_whole(scene: Scene, what: &str, times: usize, note: &str) {
    let ended = scene.ends_whole().await;
    assert_eq!(takeovers(&ended.log), 0, "{:#?}", ended.log);
    ended.write(what, times, note);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn a_leader_is_killed_and_started_again() {
    let what = "cluster: a leader killed, and started again";
    let Some(nodes) = nodes(what).await else { return };
    let mut scene = scene(&nodes, 30_000).await;
    let leader = nodes.busy_leader(&scene.topic);
    let begun = Instant::now();
    let away = Away::take("kill", leader).await;
    let before = safe(&scene.log);
    let cpu = scene.measure(AWAY).await;
    all_got_on(&scene, &before);
    assert!(nodes.partitions(&scene.topic).iter().all(|partition| partition.leader > 0 && partition.leader != leader));
    away.give_back().await;
    let topic = scene.topic.clone();
    scene.during(nodes.whole(&topic)).await;
    let note = format!("all replicas in sync after {:.0} s, {cpu:.2} cores used without it", begun.elapsed().as_secs_f64());
    ends_whole(scene, what, 1, &note).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn each_node_in_turn_is_stopped_and_started() {
    let what = "cluster: rolling restart, each node stopped and started";
    let Some(nodes) = nodes(what).await else { return };
    let mut scene = scene(&nodes, 40_000).await;
    let (begun, topic) = (Instant::now(), scene.topic.clone());
    for node in ALL {
        let before = safe(&scene.log);
        let away = scene.during(Away::take("stop", node)).await;
        scene.during(away.give_back()).await;
        scene.during(nodes.whole(&topic)).await;
        all_got_on(&scene, &before);
    }
    let note = format!("took {:.0} s", begun.elapsed().as_secs_f64());
    ends_whole(scene, what, ALL.len(), &note).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn two_of_three_are_killed_and_started_again() {
    let what = "cluster: two of three killed, and started again";
    let Some(nodes) = nodes(what).await else { return };
    let mut scene = scene(&nodes, 20_000).await;
    let (gone, away) = (Instant::now(), [Away::take("kill", 1).await, Away::take("kill", 2).await]);
    let cpu = scene.measure(AWAY).await;
    let during = safe(&scene.log);
    assert!(
        scene.devices.iter().all(|device| during[device] < scene.rows),
        "one node alone took all of a device: {:#?}",
        scene.log
    );
    assert!(scene.has_said(&["waits, nothing is lost", "rows safe", "Kafka"]), "{:#?}", scene.log);
    for node in away {
        node.give_back().await;
    }
    // The one that was left believes that all are in sync until it hears of them.
    let note = format!("away {:.0} s, {cpu:.2} cores used meanwhile", gone.elapsed().as_secs_f64());
    ends_whole(scene, what, 1, &note).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn a_node_is_frozen_and_thawed() {
    let what = "cluster: a leader frozen, and thawed";
    let Some(nodes) = nodes(what).await else { return };
    let mut scene = scene(&nodes, 40_000).await;
    let leader = nodes.busy_leader(&scene.topic);
    let before = safe(&scene.log);
    let away = Away::take("freeze", leader).await;
    let cpu = scene.measure(FROZEN).await;
    // The others lead its partitions by now.
    all_got_on(&scene, &before);
    away.give_back().await;
    let topic = scene.topic.clone();
    scene.during(nodes.whole(&topic)).await;
    let note = format!("frozen for {} s, {cpu:.2} cores used meanwhile", FROZEN.as_secs());
    ends_whole(scene, what, 1, &note).await;
}
