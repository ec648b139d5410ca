//! The broker: topics looked up, rows sent, acknowledgements counted.
//!
//! [`Kafka::sender`] gives a job its [`Sender`]; what became of the rows is told by its [`Flight`].

mod embedded;
mod error;
mod flight;
mod producer;
mod record;
mod topics;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rdkafka::ClientConfig;
use tokio::sync::Semaphore;

pub use embedded::EmbeddedBroker;
pub use error::KafkaError;
pub use flight::{Flight, Settled};
pub use producer::{Outgoing, Sender};
pub use record::Records;

use crate::config;
use producer::Producer;
use topics::Topics;

/// How a job's rows are put into batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pace {
    /// There are few: sent nearly at once.
    Little,
    /// There are many: batches may fill.
    Much,
    /// One message a batch, one at a time: what is refused for its size is that message.
    Careful,
}

/// What Kafka's brokers take in one batch unless they are told otherwise is a little above it.
const BATCH_BYTES: usize = 1_000_000;

/// A handle; clones share the producers.
#[derive(Clone)]
pub struct Kafka {
    inner: Arc<Inner>,
}

struct Inner {
    config: config::Kafka,
    /// Host and port of the brokers, the embedded one's too.
    brokers: String,
    topics: Topics,
    /// Nearly always there are two.
    producers: Mutex<HashMap<Batches, Arc<Producer>>>,
    room: Arc<Semaphore>,
}

impl Kafka {
    /// Prepares clients of `brokers`: those of the configuration, or the embedded one. They connect in the background.
    ///
    /// # Errors
    /// A property that librdkafka does not know, or can't use in this build.
    pub fn new(config: &config::Kafka, brokers: &str) -> Result<Self, KafkaError> {
        let kafka = Self {
            inner: Arc::new(Inner {
                topics: Topics::new(
                    &client_config(config, brokers, Pace::Little),
                    Duration::from_secs(config.lookup_timeout_seconds),
                    !config.is_embedded(),
                )?,
                config: config.clone(),
                brokers: brokers.to_owned(),
                producers: Mutex::default(),
                room: Arc::new(Semaphore::new(config.in_flight_bytes)),
            }),
        };
        // One that nearly every topic uses; a wrong property is told at the start, not by the first job.
        kafka.producer(Batches { bytes: BATCH_BYTES, pace: Pace::Little })?;
        Ok(kafka)
    }

    /// Host and port of the brokers.
    pub fn brokers(&self) -> &str {
        &self.inner.brokers
    }

    /// Looks a topic up, without making it.
    ///
    /// # Errors
    /// There is none, or this user may not use it, or the brokers are away.
    pub async fn look_up(&self, topic: &str) -> Result<(), KafkaError> {
        self.inner.topics.look_up(topic).await.map(|_| ())
    }

    /// Asks anew when the topic is looked up next: it has turned out to be gone.
    pub fn forget(&self, topic: &str) {
        self.inner.topics.forget(topic);
    }

    /// Whether a broker answers.
    ///
    /// # Errors
    /// None does.
    pub async fn ping(&self) -> Result<(), KafkaError> {
        self.inner.topics.ping().await
    }

    /// The way of a job's rows into a topic that exists. Not to be changed while rows of the job are on their way: those of
    /// another pace could overtake them.
    ///
    /// # Errors
    /// As [`look_up`](Self::look_up).
    pub async fn sender(&self, topic: &str, records: Records, pace: Pace) -> Result<Sender, KafkaError> {
        let limit = self.inner.topics.look_up(topic).await?.max_message_bytes;
        let bytes = limit.map_or(BATCH_BYTES, |limit| limit.min(BATCH_BYTES));
        let producer = self.producer(Batches { bytes, pace })?;
        Ok(Sender::new(producer, topic, records, Arc::clone(&self.inner.room), self.inner.config.in_flight_bytes))
    }

    /// Bytes handed to the producers and not acknowledged yet.
    pub fn in_flight_bytes(&self) -> usize {
        self.inner.config.in_flight_bytes.saturating_sub(self.inner.room.available_permits())
    }

    fn producers(&self) -> std::sync::MutexGuard<'_, HashMap<Batches, Arc<Producer>>> {
        self.inner.producers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The producer of these batches; a new one where the last has met an error that it can't go on after.
    fn producer(&self, batches: Batches) -> Result<Arc<Producer>, KafkaError> {
        let mut producers = self.producers();
        if let Some(producer) = producers.get(&batches) {
            if !producer.is_broken() {
                return Ok(Arc::clone(producer));
            }
            let forbidden = producer.forbidden();
            if let Some(broken) = producers.remove(&batches) {
                // It ends its threads when the last job lets go of it, which takes a moment.
                std::thread::spawn(move || drop(broken));
            }
            if let Some(reason) = forbidden {
                return Err(KafkaError::Refused(reason));
            }
        }
        let mut config = client_config(&self.inner.config, &self.inner.brokers, batches.pace);
        config.set("batch.size", batches.bytes.to_string());
        if batches.pace == Pace::Careful {
            config.set("batch.num.messages", "1");
        }
        let producer = Arc::new(Producer::new(&config, batches)?);
        producers.insert(batches, Arc::clone(&producer));
        Ok(producer)
    }
}

/// What a producer puts into one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Batches {
    /// Bytes at the most, unless a single message is larger.
    bytes: usize,
    pace: Pace,
}

/// Our choice of librdkafka's properties, the operator's above it, and above both what the promises rest on.
fn client_config(config: &config::Kafka, brokers: &str, pace: Pace) -> ClientConfig {
    // Full batches cost Kafka and us less; few rows are not to wait for others.
    let linger_ms = if pace == Pace::Much { "50" } else { "1" };
    let mut client = ClientConfig::new();
    client
        .set("client.id", "data-patch")
        .set("compression.type", "lz4")
        .set("linger.ms", linger_ms)
        .set("batch.num.messages", "100000")
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.max.ms", "2000")
        // librdkafka's broker thread spins while a broker with a connection says nothing; this long at the most.
        .set("socket.timeout.ms", "10000")
        .set("log_level", "4");
    for (name, value) in config.properties.iter() {
        client.set(name, value);
    }
    client
        .set("bootstrap.servers", brokers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        // The Java clients' own, so that a device's rows go where its live rows are.
        .set("partitioner", "murmur2_random")
        // Never: a row that timed out while one behind it did not would leave a gap, and its device out of order.
        .set("message.timeout.ms", "0")
        .set("allow.auto.create.topics", "false")
        // Each acknowledgement counts.
        .set("delivery.report.only.error", "false")
        // `kafka.in_flight_bytes` is the limit, and it is reached before these.
        .set("queue.buffering.max.messages", "10000000")
        .set("queue.buffering.max.kbytes", (config.in_flight_bytes / 512 + 65_536).to_string())
        // Whether a message is too large is for the broker to say, up to what no broker even reads (its
        // `socket.request.max.bytes`): such a one would look like an outage, and never end.
        .set("message.max.bytes", "100000000");
    client
}
