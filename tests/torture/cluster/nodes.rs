//! The nodes of `scripts/cluster`: stopped, killed, frozen, and looked at.

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
use crate::support::{PATIENCE, TestBroker, TestTopic, eventually};

pub const ALL: [i32; 3] = [1, 2, 3];

/// A node that does not answer is not waited for longer than this; another is asked then.
const ANSWER: Duration = Duration::from_secs(5);

/// Each look is a new client, on a machine that has other things to do.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// One partition, as the nodes see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Below 0: none.
    pub leader: i32,
    pub in_sync: usize,
    pub replicas: usize,
}

/// The three nodes.
pub struct Nodes {
    pub broker: TestBroker,
}

impl Nodes {
    /// All of them, when they answer: whatever an earlier test left behind is over.
    pub async fn all_up(broker: TestBroker) -> Self {
        let nodes = Self { broker };
        let known = || async { nodes.look(None).is_some_and(|(nodes, _)| nodes == ALL.len()) };
        eventually("all nodes are there", known).await;
        nodes
    }

    /// A new topic with a replica on each node.
    pub async fn topic(&self) -> TestTopic {
        let name = format!("test-{}", Uuid::new_v4());
        let topic = self.broker.create_on(&name, PARTITIONS, TopicReplication::Fixed(3), &[("min.insync.replicas", "2")]).await;
        self.whole(&topic).await;
        topic
    }

    /// A new topic whose partitions have one replica each: partition `n` on the `n`th of these nodes.
    pub async fn topic_on(&self, nodes: &[i32]) -> TestTopic {
        let name = format!("test-{}", Uuid::new_v4());
        let assignment: Vec<&[i32]> = nodes.chunks(1).collect();
        let partitions = i32::try_from(nodes.len()).unwrap();
        let alone = [("min.insync.replicas", "1")];
        let topic = self.broker.create_on(&name, partitions, TopicReplication::Variable(&assignment), &alone).await;
        self.whole(&topic).await;
        topic
    }

    /// The partitions of a topic; none while nobody answers.
    pub fn partitions(&self, topic: &TestTopic) -> Vec<Partition> {
        self.look(Some(&topic.name)).map(|(_, partitions)| partitions).unwrap_or_default()
    }

    /// Waits until every partition of a topic has a leader, and every replica has what the leader has.
    pub async fn whole(&self, topic: &TestTopic) {
        let is_whole = |partition: &Partition| partition.leader > 0 && partition.in_sync == partition.replicas;
        let all = || async {
            let partitions = self.partitions(topic);
            let is_whole = !partitions.is_empty() && partitions.iter().all(is_whole);
            if !is_whole {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            is_whole
        };
        eventually("every replica is in sync", all).await;
    }

    /// The leader of a partition that rows were written to.
    pub fn busy_leader(&self, topic: &TestTopic) -> i32 {
        let consumer = self.client();
        let is_busy = |number: &i32| consumer.fetch_watermarks(&topic.name, *number, PATIENCE).unwrap().1 > 0;
        let number = (0..PARTITIONS).find(is_busy).expect("no row was written");
        self.partitions(topic)[usize::try_from(number).unwrap()].leader
    }

    /// The partition of each key among `PARTITIONS`, as a client of Kafka finds it that is not the service's.
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
            let sent = producer.send(FutureRecord::to(&topic.name).key(&key).payload(""), PATIENCE).await;
            partitions.push(sent.unwrap().partition);
        }
        partitions
    }

    fn client(&self) -> BaseConsumer {
        ClientConfig::new().set("bootstrap.servers", self.broker.brokers()).create().unwrap()
    }

    /// How many nodes are known, and the partitions of a topic. A new client each time: it asks whoever answers first.
    fn look(&self, topic: Option<&str>) -> Option<(usize, Vec<Partition>)> {
        tokio::task::block_in_place(|| {
            let metadata = self.client().fetch_metadata(topic, ANSWER).ok()?;
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

/// A node that is away. It is given back at the latest when this is dropped, so that a test that fails does not take the others
/// with it.
pub struct Away {
    node: i32,
    way_back: &'static str,
    is_back: bool,
}

impl Away {
    /// Takes a node away: `stop`, `kill` or `freeze`.
    pub async fn take(way: &'static str, node: i32) -> Self {
        let away = Self { node, way_back: if way == "freeze" { "thaw" } else { "start" }, is_back: false };
        let status = tokio::process::Command::from(away.order(way)).status().await.unwrap();
        assert!(status.success(), "scripts/cluster {way} {node}: {status}");
        away
    }

    /// Gives it back. It answers some seconds later.
    pub async fn give_back(mut self) {
        let status = tokio::process::Command::from(self.order(self.way_back)).status().await.unwrap();
        assert!(status.success(), "scripts/cluster {} {}: {status}", self.way_back, self.node);
        self.is_back = true;
    }

    fn order(&self, command: &str) -> Command {
        let mut order = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cluster"));
        order.arg(command).arg(self.node.to_string());
        order
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        if !self.is_back {
            // It is said by the script if it can't.
            let _ = self.order(self.way_back).status();
        }
    }
}
