//! Nodes are killed, restarted and frozen: with two of three the task continues, with one it waits.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{
    acknowledged, nodes,
    nodes::{ALL, Outage},
    scenario,
};
use crate::outage::{OUTAGE_DURATION, Scenario, log_checks::takeovers};

/// Longer than the lease, the maximum lag of replicas (4 s), the brokers' session timeout (3 s),
/// and the timeout of the service's connections (10 s).
const FROZEN: Duration = Duration::from_secs(25);

/// Asserts that each device has made progress since `before`, or is complete.
fn assert_progress(scenario: &Scenario, before: &HashMap<Uuid, usize>) {
    let now = acknowledged(&scenario.log);
    for device in &scenario.devices {
        let (before, now) = (before.get(device).copied().unwrap_or_default(), now.get(device).copied().unwrap_or_default());
        assert!(before < now || now == scenario.rows, "device {device} made no progress after {now} rows: {:#?}", scenario.log);
    }
}

/// Waits until the task has succeeded without takeovers, and writes the result.
async fn finish(scenario: Scenario, what: &str, times: usize, note: &str) {
    let outcome = scenario.finish().await;
    assert_eq!(takeovers(&outcome.log), 0, "{:#?}", outcome.log);
    outcome.write(what, times, note);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn a_leader_is_killed_and_started_again() {
    let what = "cluster: a leader killed, and started again";
    let Some(nodes) = nodes(what).await else { return };
    let mut scenario = scenario(&nodes, 30_000).await;
    let leader = nodes.busy_leader(&scenario.topic);
    let started = Instant::now();
    let outage = Outage::start("kill", leader).await;
    let before = acknowledged(&scenario.log);
    let cpu = scenario.measure_cpu(OUTAGE_DURATION).await;
    assert_progress(&scenario, &before);
    assert!(nodes.partitions(&scenario.topic).iter().all(|partition| partition.leader > 0 && partition.leader != leader));
    outage.end().await;
    let topic = scenario.topic.clone();
    scenario.read_during(nodes.wait_until_in_sync(&topic)).await;
    let note = format!("all replicas in sync after {:.0} s, {cpu:.2} cores used without it", started.elapsed().as_secs_f64());
    finish(scenario, what, 1, &note).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn each_node_in_turn_is_stopped_and_started() {
    let what = "cluster: rolling restart, each node stopped and started";
    let Some(nodes) = nodes(what).await else { return };
    let mut scenario = scenario(&nodes, 40_000).await;
    let (started, topic) = (Instant::now(), scenario.topic.clone());
    for node in ALL {
        let before = acknowledged(&scenario.log);
        let outage = scenario.read_during(Outage::start("stop", node)).await;
        scenario.read_during(outage.end()).await;
        scenario.read_during(nodes.wait_until_in_sync(&topic)).await;
        assert_progress(&scenario, &before);
    }
    let note = format!("took {:.0} s", started.elapsed().as_secs_f64());
    finish(scenario, what, ALL.len(), &note).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn two_of_three_are_killed_and_started_again() {
    let what = "cluster: two of three killed, and started again";
    let Some(nodes) = nodes(what).await else { return };
    let mut scenario = scenario(&nodes, 20_000).await;
    let (started, outages) = (Instant::now(), [Outage::start("kill", 1).await, Outage::start("kill", 2).await]);
    let cpu = scenario.measure_cpu(OUTAGE_DURATION).await;
    let during = acknowledged(&scenario.log);
    assert!(
        scenario.devices.iter().all(|device| during[device] < scenario.rows),
        "one node alone acknowledged all rows of a device: {:#?}",
        scenario.log
    );
    assert!(scenario.has_logged(&["waits, nothing is lost", "rows safe", "Kafka"]), "{:#?}", scenario.log);
    for outage in outages {
        outage.end().await;
    }
    let note = format!("outage of {:.0} s, {cpu:.2} cores used meanwhile", started.elapsed().as_secs_f64());
    finish(scenario, what, 1, &note).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn a_node_is_frozen_and_thawed() {
    let what = "cluster: a leader frozen, and thawed";
    let Some(nodes) = nodes(what).await else { return };
    let mut scenario = scenario(&nodes, 40_000).await;
    let leader = nodes.busy_leader(&scenario.topic);
    let before = acknowledged(&scenario.log);
    let outage = Outage::start("freeze", leader).await;
    let cpu = scenario.measure_cpu(FROZEN).await;
    // Other nodes are the leaders of its partitions by now.
    assert_progress(&scenario, &before);
    outage.end().await;
    let topic = scenario.topic.clone();
    scenario.read_during(nodes.wait_until_in_sync(&topic)).await;
    let note = format!("frozen for {} s, {cpu:.2} cores used meanwhile", FROZEN.as_secs());
    finish(scenario, what, 1, &note).await;
}
