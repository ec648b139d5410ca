//! A cluster of three Kafka nodes, with three replicas and `min.insync.replicas` 2: nodes are
//! killed, frozen and restarted while a task runs. With two nodes the task continues; with fewer it
//! waits and logs that. No row is lost.
//!
//! The nodes are those of `scripts/cluster`, so these tests run one at a time.

mod failover;
mod leaderless;
mod nodes;
mod verify;

use std::collections::HashMap;

use serde_json::Value;
use uuid::Uuid;

use crate::{
    outage::{Scenario, TaskSetup, log_checks::published},
    support::{TestBroker, TestSource, message},
};
use nodes::Nodes;

/// More than nodes and devices, so that the devices use different partitions.
const PARTITIONS: i32 = 12;
const DEVICES: usize = 8;

/// Starts a task of several devices on a topic with replicas on all nodes.
async fn scenario(nodes: &Nodes, rows: usize) -> Scenario {
    let (source, topic) = (TestSource::empty().await, nodes.topic().await);
    let devices = (0..DEVICES).map(|_| Uuid::new_v4()).collect();
    start(TaskSetup { source, url: None, topic, devices, rows }).await
}

/// Starts a task; returns once rows of each device are published.
async fn start(setup: TaskSetup) -> Scenario {
    let mut scenario = Scenario::start_with(tempfile::tempdir().unwrap(), setup).await;
    while acknowledged(&scenario.log).len() < scenario.devices.len() {
        scenario.next().await;
    }
    scenario
}

/// The acknowledged rows of each device, by the log.
fn acknowledged(log: &[Value]) -> HashMap<Uuid, usize> {
    log.iter().filter_map(|line| published(message(line))).map(|(now, _, device)| (device, now)).collect()
}

/// The cluster. If there is none, prints a message and returns `None`.
async fn nodes(test: &str) -> Option<Nodes> {
    if let (Some(broker), Some(_)) = (TestBroker::cluster(), crate::support::real("POSTGRES")) {
        return Some(Nodes::all_up(broker).await);
    }
    println!(
        "NOT RUN: {test} needs three Kafka nodes and PostgreSQL: scripts/services up; eval \"$(scripts/services env)\"; \
         scripts/cluster up; eval \"$(scripts/cluster env)\""
    );
    None
}
