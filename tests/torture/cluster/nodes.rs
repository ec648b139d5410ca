//! The nodes of `scripts/cluster`: their outages and their metadata.

use std::{path::Path, process::Command, time::Duration};

use rdkafka::{
    ClientConfig,
    admin::TopicReplication,
    consumer::{BaseConsumer, Consumer},
    metadata::MetadataTopic,
    producer::{FutureProducer, FutureRecord},
};
use uuid::Uuid;

use super::PARTITIONS;
use crate::support::{TIMEOUT, TestBroker, TestTopic, eventually};

pub const ALL: [i32; 3] = [1, 2, 3];

/// Timeout for one node; the client then asks another.
const METADATA_TIMEOUT: Duration = Duration::from_secs(5);

/// Each poll creates a client, which takes time on a busy machine.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The state of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Negative: no leader.
    pub leader: i32,
    pub in_sync: usize,
    pub replicas: usize,
}

/// The three nodes.
pub struct Nodes {
    pub broker: TestBroker,
}

impl Nodes {
    /// Waits until all nodes answer, since an earlier test may have stopped some.
    pub async fn all_up(broker: TestBroker) -> Self {
        let nodes = Self { broker };
        let all_known = || async { nodes.metadata(None).is_some_and(|(nodes, _)| nodes == ALL.len()) };
        eventually("all nodes are known", all_known).await;
        nodes
    }

    /// Creates a topic with a replica on each node.
    pub async fn topic(&self) -> TestTopic {
        let name = format!("test-{}", Uuid::new_v4());
        let topic = self.broker.create_on(&name, PARTITIONS, TopicReplication::Fixed(3), &[("min.insync.replicas", "2")]).await;
        self.wait_until_in_sync(&topic).await;
        topic
    }

    /// Creates a topic with one replica per partition: partition `n` on the `n`th of these nodes.
    pub async fn topic_on(&self, nodes: &[i32]) -> TestTopic {
        let name = format!("test-{}", Uuid::new_v4());
        let assignment: Vec<&[i32]> = nodes.chunks(1).collect();
        let partitions = i32::try_from(nodes.len()).unwrap();
        let alone = [("min.insync.replicas", "1")];
        let topic = self.broker.create_on(&name, partitions, TopicReplication::Variable(&assignment), &alone).await;
        self.wait_until_in_sync(&topic).await;
        topic
    }

    /// The partitions of a topic; empty if no node answers.
    pub fn partitions(&self, topic: &TestTopic) -> Vec<Partition> {
        self.metadata(Some(&topic.name)).map(|(_, partitions)| partitions).unwrap_or_default()
    }

    /// Waits until each partition of a topic has a leader and all replicas are in sync.
    pub async fn wait_until_in_sync(&self, topic: &TestTopic) {
        let is_in_sync = |partition: &Partition| partition.leader > 0 && partition.in_sync == partition.replicas;
        let all = || async {
            let partitions = self.partitions(topic);
            let is_in_sync = !partitions.is_empty() && partitions.iter().all(is_in_sync);
            if !is_in_sync {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            is_in_sync
        };
        eventually("every replica is in sync", all).await;
    }

    /// The leader of a partition that has rows.
    pub fn busy_leader(&self, topic: &TestTopic) -> i32 {
        let consumer = self.client();
        let has_rows = |number: &i32| consumer.fetch_watermarks(&topic.name, *number, TIMEOUT).unwrap().1 > 0;
        let number = (0..PARTITIONS).find(has_rows).expect("no row was written");
        self.partitions(topic)[usize::try_from(number).unwrap()].leader
    }

    /// The partition of each key among `PARTITIONS`, determined by a client that is independent of
    /// the service.
    pub async fn partitions_of(&self, keys: &[Uuid]) -> Vec<i32> {
        let topic = self.topic().await;
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", self.broker.brokers())
            .set("partitioner", "murmur2_random")
            .create()
            .unwrap();
        let mut partitions = Vec::new();
        for key in keys {
            let key = key.to_string();
            let sent = producer.send(FutureRecord::to(&topic.name).key(&key).payload(""), TIMEOUT).await;
            partitions.push(sent.unwrap().partition);
        }
        partitions
    }

    fn client(&self) -> BaseConsumer {
        ClientConfig::new().set("bootstrap.servers", self.broker.brokers()).create().unwrap()
    }

    /// The number of known nodes, and the partitions of a topic, by a new client.
    fn metadata(&self, topic: Option<&str>) -> Option<(usize, Vec<Partition>)> {
        tokio::task::block_in_place(|| {
            let metadata = self.client().fetch_metadata(topic, METADATA_TIMEOUT).ok()?;
            let topics = metadata.topics().iter().filter(|found| Some(found.name()) == topic);
            let mut partitions: Vec<_> = topics.flat_map(MetadataTopic::partitions).collect();
            partitions.sort_by_key(|partition| partition.id());
            let partitions = partitions.into_iter().map(|partition| Partition {
                leader: partition.leader(),
                in_sync: partition.isr().len(),
                replicas: partition.replicas().len(),
            });
            Some((metadata.brokers().len(), partitions.collect()))
        })
    }
}

/// An outage of a node. It ends on drop at the latest, so that a failed test does not affect
/// others.
pub struct Outage {
    node: i32,
    recovery: &'static str,
    has_ended: bool,
}

impl Outage {
    /// Starts an outage: `stop`, `kill` or `freeze`.
    pub async fn start(command: &'static str, node: i32) -> Self {
        let outage = Self { node, recovery: if command == "freeze" { "thaw" } else { "start" }, has_ended: false };
        let status = tokio::process::Command::from(outage.script(command)).status().await.unwrap();
        assert!(status.success(), "scripts/cluster {command} {node}: {status}");
        outage
    }

    /// Ends the outage. The node answers some seconds later.
    pub async fn end(mut self) {
        let status = tokio::process::Command::from(self.script(self.recovery)).status().await.unwrap();
        assert!(status.success(), "scripts/cluster {} {}: {status}", self.recovery, self.node);
        self.has_ended = true;
    }

    fn script(&self, command: &str) -> Command {
        let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cluster"));
        script.arg(command).arg(self.node.to_string());
        script
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        if !self.has_ended {
            // The script prints its errors.
            let _ = self.script(self.recovery).status();
        }
    }
}
