//! Three Kafka nodes, topics with three replicas of which two must have a row before it is acknowledged: nodes are killed,
//! frozen and restarted in the middle of a patch. As long as two nodes are there the work goes on; with fewer it waits and says
//! so; nothing is lost either way.
//!
//! The nodes are those of `scripts/cluster`, so these tests run one at a time.

mod failover;
mod leaderless;
mod nodes;

use std::collections::HashMap;

use serde_json::Value;
use uuid::Uuid;

use crate::{
    outage::{Scenario, TaskSetup, log_checks::published},
    support::{TestBroker, TestStore, message},
};
use nodes::Nodes;

/// More than nodes, and more than devices are likely to share.
const PARTITIONS: i32 = 12;
const DEVICES: usize = 8;

/// A patch of several devices into a topic that lives on all nodes.
async fn scenario(nodes: &Nodes, rows: usize) -> Scenario {
    let (store, topic) = (TestStore::empty().await, nodes.topic().await);
    let devices = (0..DEVICES).map(|_| Uuid::new_v4()).collect();
    play(TaskSetup { store, url: None, topic, devices, rows }).await
}

/// A patch of which each device is on its way.
async fn play(setup: TaskSetup) -> Scenario {
    let mut scenario = Scenario::start_with(tempfile::tempdir().unwrap(), setup).await;
    while safe(&scenario.log).len() < scenario.devices.len() {
        scenario.next().await;
    }
    scenario
}

/// How many rows of each device are safe, by the log.
fn safe(log: &[Value]) -> HashMap<Uuid, usize> {
    log.iter().filter_map(|line| published(message(line))).map(|(now, _, device)| (device, now)).collect()
}

/// The cluster; `None`, and a loud word about it, where there is none.
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
