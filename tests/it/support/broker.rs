//! A separate topic for each test, on the embedded broker or on the real Kafka.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use data_patch::sink::kafka::EmbeddedBroker;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    message::Headers,
};
use uuid::Uuid;

use super::{TIMEOUT, real};

/// The number of a topic's partitions.
pub const PARTITIONS: i32 = 3;

#[derive(Clone)]
pub enum TestBroker {
    Embedded(Arc<EmbeddedBroker>),
    Real(String),
}

/// A message of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub partition: i32,
    pub key: String,
    pub value: String,
    pub task: String,
    pub row: String,
    pub timestamp_ms: i64,
}

#[derive(Clone)]
pub struct TestTopic {
    pub name: String,
    pub broker: TestBroker,
}

/// The partition of a topic with [`PARTITIONS`] that the Java clients put a key in.
pub fn partition(key: &str) -> i32 {
    (murmur2(key.as_bytes()) & 0x7fff_ffff).cast_signed() % PARTITIONS
}

/// As `org.apache.kafka.common.utils.Utils.murmur2` is specified.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut word = u32::from_le_bytes(chunk.try_into().unwrap()).wrapping_mul(M);
        word = (word ^ (word >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ word;
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        for (n, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * n);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

impl TestBroker {
    pub async fn start() -> Self {
        match real("KAFKA") {
            None => Self::Embedded(Arc::new(EmbeddedBroker::start().await.unwrap())),
            Some(brokers) => Self::Real(brokers),
        }
    }

    /// The three nodes of `scripts/cluster`, if they are running.
    pub fn cluster() -> Option<Self> {
        real("CLUSTER").map(Self::Real)
    }

    pub fn is_real(&self) -> bool {
        matches!(self, Self::Real(_))
    }

    pub fn brokers(&self) -> &str {
        match self {
            Self::Embedded(broker) => broker.brokers(),
            Self::Real(brokers) => brokers,
        }
    }

    pub fn embedded(&self) -> Option<Arc<EmbeddedBroker>> {
        match self {
            Self::Embedded(broker) => Some(Arc::clone(broker)),
            Self::Real(_) => None,
        }
    }

    pub async fn topic(&self) -> TestTopic {
        self.topic_with(&[]).await
    }

    /// Creates a topic. The embedded broker ignores settings.
    pub async fn topic_with(&self, settings: &[(&str, &str)]) -> TestTopic {
        self.create(&format!("test-{}", Uuid::new_v4()), settings).await
    }

    /// Creates a topic of this name.
    pub async fn create(&self, name: &str, settings: &[(&str, &str)]) -> TestTopic {
        self.create_on(name, PARTITIONS, TopicReplication::Fixed(1), settings).await
    }

    /// Creates a topic with this number of partitions and these replicas. The embedded broker
    /// ignores replicas.
    pub async fn create_on(
        &self,
        name: &str,
        partitions: i32,
        replicas: TopicReplication<'_>,
        settings: &[(&str, &str)],
    ) -> TestTopic {
        match self {
            Self::Embedded(broker) => broker.create_topic(name, partitions).await.unwrap(),
            Self::Real(brokers) => {
                let admin: AdminClient<DefaultClientContext> =
                    ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
                let mut topic = NewTopic::new(name, partitions, replicas);
                for (key, value) in settings {
                    topic = topic.set(key, value);
                }
                let options = AdminOptions::new().operation_timeout(Some(TIMEOUT));
                admin.create_topics(&[topic], &options).await.unwrap().remove(0).unwrap();
            }
        }
        TestTopic { name: name.to_owned(), broker: self.clone() }
    }

    /// The names of all topics.
    pub async fn topics(&self) -> Vec<String> {
        let brokers = self.brokers().to_owned();
        let fetch = move || {
            let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
            let metadata = consumer.fetch_metadata(None, TIMEOUT).unwrap();
            metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
        };
        tokio::task::spawn_blocking(fetch).await.unwrap()
    }
}

impl TestTopic {
    /// All messages by partition, each partition in order.
    pub async fn read(&self) -> Vec<Found> {
        let topic = self.clone();
        tokio::task::spawn_blocking(move || topic.read_blocking()).await.unwrap()
    }

    /// Removes the messages of partitions before these offsets, as retention does. Only the real
    /// broker can do that.
    pub async fn remove_messages(&self, before: &[(i32, Offset)]) {
        let mut offsets = TopicPartitionList::new();
        for (partition, offset) in before {
            offsets.add_partition_offset(&self.name, *partition, *offset).unwrap();
        }
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", self.broker.brokers()).create().unwrap();
        let options = AdminOptions::new().operation_timeout(Some(TIMEOUT));
        let removed = admin.delete_records(&offsets, &options).await.unwrap();
        for partition in removed.elements() {
            partition.error().unwrap();
        }
    }

    /// The messages of one device, in order.
    pub async fn read_device(&self, device: Uuid) -> Vec<Found> {
        let device = device.to_string();
        self.read().await.into_iter().filter(|found| found.key == device).collect()
    }

    fn read_blocking(&self) -> Vec<Found> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.broker.brokers())
            .set("group.id", "tests")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        let metadata = consumer.fetch_metadata(Some(&self.name), TIMEOUT).unwrap();
        let mut found = Vec::new();
        for partition in metadata.topics()[0].partitions() {
            let (low, high) = consumer.fetch_watermarks(&self.name, partition.id(), TIMEOUT).unwrap();
            let mut assignment = TopicPartitionList::new();
            assignment.add_partition_offset(&self.name, partition.id(), Offset::Offset(low)).unwrap();
            consumer.assign(&assignment).unwrap();
            let deadline = Instant::now() + TIMEOUT;
            let mut next = low;
            while next < high {
                assert!(Instant::now() < deadline, "the topic could not be read");
                let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
                next = message.offset() + 1;
                let header = |name: &str| {
                    let value = message.headers().unwrap().iter().find(|header| header.key == name).unwrap().value.unwrap();
                    String::from_utf8(value.to_vec()).unwrap()
                };
                found.push(Found {
                    partition: message.partition(),
                    key: String::from_utf8(message.key().unwrap().to_vec()).unwrap(),
                    value: String::from_utf8(message.payload().unwrap_or_default().to_vec()).unwrap(),
                    task: header("data-patch-task"),
                    row: header("data-patch-row"),
                    timestamp_ms: message.timestamp().to_millis().unwrap(),
                });
            }
        }
        found
    }
}
