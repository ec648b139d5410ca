//! The broker: topics looked up, rows sent, acknowledgements counted.
//!
//! [`Kafka::sender`] gives a job its [`Sender`]; what became of the rows is told by its [`AckTracker`].

mod ack_tracker;
mod batch_size;
mod embedded;
mod error;
mod in_flight;
mod partition;
mod producer;
mod record;
mod sender;
mod statistics;
mod topics;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rdkafka::ClientConfig;

pub use ack_tracker::{AckTracker, Delivery};
pub use embedded::EmbeddedBroker;
pub use error::KafkaError;
pub use record::RecordBuilder;
pub use sender::{InFlightPermit, OutgoingRow, Sender};

use crate::{
    config::{self, Timestamp},
    telemetry::{KafkaMetrics, count_error},
};
use batch_size::BatchSizes;
use in_flight::InFlight;
use producer::{Kind, Producer, ProducerKey, Reaper};
use topics::Topics;

/// How a job's rows are put into batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BatchMode {
    /// There are few: sent nearly at once.
    LowLatency,
    /// There are many: batches may fill.
    Throughput,
}

/// librdkafka takes no number below 1; where batches have no size at all, every row goes alone.
const MIN_BATCH_BYTES: usize = 1_024;

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
    batch_sizes: BatchSizes,
    /// Up to three for each topic in use. One topic's refusals, and a cancel in it, touch no other topic's rows.
    producers: Mutex<HashMap<ProducerKey, Arc<Producer>>>,
    reaper: Reaper,
    in_flight: Arc<InFlight>,
    sent_alone: Arc<AtomicU64>,
    metrics: KafkaMetrics,
}

impl Kafka {
    /// Prepares clients of `brokers`: those of the configuration, or the embedded one. They connect in the background.
    ///
    /// # Errors
    /// A property that librdkafka does not know, or can't use in this build.
    pub fn new(config: &config::Kafka, brokers: &str) -> Result<Self, KafkaError> {
        Self::build(config, brokers, !config.is_embedded())
    }

    /// As on brokers where this user may not see the topics' settings (DescribeConfigs); for tests.
    #[doc(hidden)]
    pub fn without_topic_settings(config: &config::Kafka, brokers: &str) -> Result<Self, KafkaError> {
        Self::build(config, brokers, false)
    }

    fn build(config: &config::Kafka, brokers: &str, tells_settings: bool) -> Result<Self, KafkaError> {
        let kafka = Self {
            inner: Arc::new(Inner {
                topics: Topics::new(
                    &client_config(config, brokers, Kind::Alone),
                    Duration::from_secs(config.lookup_timeout_seconds),
                    tells_settings,
                    config.allow_compacted,
                )?,
                batch_sizes: BatchSizes::default(),
                config: config.clone(),
                brokers: brokers.to_owned(),
                producers: Mutex::default(),
                reaper: Reaper::new(),
                in_flight: InFlight::new(config.in_flight_bytes),
                sent_alone: Arc::default(),
                metrics: KafkaMetrics::default(),
            }),
        };
        // One that is likely used; a wrong property is told at the start, not by the first job.
        let topic = config.default_topic.as_str().into();
        kafka.producer(
            &topic,
            Kind::Bulk { bytes: kafka.inner.batch_sizes.of(&topic, None).batch_bytes, pace: BatchMode::LowLatency },
        )?;
        Ok(kafka)
    }

    /// Host and port of the brokers.
    pub fn brokers(&self) -> &str {
        &self.inner.brokers
    }

    /// Looks a topic up, without making it.
    ///
    /// # Errors
    /// There is none, or this user may not use it, or it is compacted, or the brokers are away.
    pub async fn look_up(&self, topic: &str) -> Result<(), KafkaError> {
        self.inner.topics.look_up(topic).await.map(|_| ())
    }

    /// Asks anew when the topic is looked up next: it has turned out to be gone, or to be other than it was.
    pub async fn invalidate(&self, topic: &str) {
        self.inner.topics.invalidate(topic).await;
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
    pub async fn sender(&self, topic: &str, records: RecordBuilder, pace: BatchMode) -> Result<Sender, KafkaError> {
        let found = self.inner.topics.look_up(topic).await?;
        let sizes = self.inner.batch_sizes.of(topic, found.settings.max_message_bytes);
        let topic: Arc<str> = topic.into();
        let producer = self.producer(&topic, Kind::Bulk { bytes: sizes.batch_bytes, pace })?;
        let partition = partition::partition(records.key().as_bytes(), found.partitions);
        Ok(Sender {
            kafka: self.clone(),
            opening: producer.opening(partition),
            lane: self.inner.in_flight.lane(&topic, partition),
            producer,
            alone: None,
            topic,
            sizes,
            turn: None,
            in_flight: Arc::clone(&self.inner.in_flight),
            sent_alone: Arc::clone(&self.inner.sent_alone),
            acknowledgement: self.inner.metrics.acknowledgement.clone(),
            timestamp: self.inner.config.timestamp,
            records,
        })
    }

    /// A batch was refused for its size: asks the topic for its limit again, and makes batches smaller where it does not tell.
    ///
    /// # Errors
    /// As [`look_up`](Self::look_up).
    pub async fn batch_refused(&self, topic: &str, bytes: usize) -> Result<(), KafkaError> {
        self.invalidate(topic).await;
        let told = self.inner.topics.look_up(topic).await?.settings.max_message_bytes;
        self.inner.batch_sizes.refused(topic, bytes, told);
        Ok(())
    }

    /// Says of an error what only the topic's settings tell.
    pub async fn explain(&self, error: KafkaError) -> KafkaError {
        let KafkaError::InvalidRecord(topic) = &error else { return error };
        let settings = self.inner.topics.look_up(topic).await.map(|found| found.settings).unwrap_or_default();
        let limit = |name: &str, ms: Option<u64>| match ms {
            Some(ms) => format!("{name} is {} s", ms / 1_000),
            None => format!("{name} is not known here"),
        };
        let after = limit("message.timestamp.after.max.ms", settings.timestamp_after_ms);
        let now = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%SZ");
        KafkaError::Timestamp(match self.inner.config.timestamp {
            Timestamp::Now => format!(
                "Kafka refuses the timestamps of topic {topic}. They are this machine's time, which is {now}: its clock, or the \
                 broker's, is likely wrong by more than the topic allows ({after}). Set it right"
            ),
            Timestamp::Reading => format!(
                "Kafka refuses the timestamps of topic {topic}. They are the readings' own (kafka.timestamp = \"reading\"), and one \
                 is further from the broker's clock than the topic allows ({after}, {}; this machine's time is {now}). Change these \
                 settings of the topic, or set kafka.timestamp = \"now\"",
                limit("message.timestamp.before.max.ms", settings.timestamp_before_ms)
            ),
        })
    }

    /// What it counts.
    pub fn metrics(&self) -> &KafkaMetrics {
        &self.inner.metrics
    }

    /// Counts an error that ended an attempt, or made it start again.
    pub fn count_error(&self, error: &KafkaError) {
        count_error(&self.inner.metrics.errors, error.cause());
    }

    /// Bytes handed to the producers and not acknowledged yet.
    pub fn in_flight_bytes(&self) -> usize {
        self.inner.in_flight.bytes()
    }

    /// Rows that were sent alone, since they are too large to go with others.
    pub fn rows_sent_alone(&self) -> u64 {
        self.inner.sent_alone.load(Ordering::Relaxed)
    }

    /// The producer of these batches; a new one where the last has met an error that it can't go on after.
    fn producer(&self, topic: &Arc<str>, kind: Kind) -> Result<Arc<Producer>, KafkaError> {
        let batching = ProducerKey { topic: Arc::clone(topic), kind };
        let mut producers = self.inner.producers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(producer) = producers.get(&batching) {
            if !producer.is_retired() {
                return Ok(Arc::clone(producer));
            }
            let forbidden = producer.forbidden();
            producers.remove(&batching);
            if let Some(reason) = forbidden {
                return Err(KafkaError::Rejected(reason));
            }
        }
        // Those of topics that nobody writes to any more, and of other sizes.
        for (_, idle) in producers.extract_if(|_, producer| Arc::strong_count(producer) == 1 && producer.is_idle()) {
            self.inner.reaper.take(idle);
        }
        let mut config = client_config(&self.inner.config, &self.inner.brokers, kind);
        if config.get("statistics.interval.ms").is_none() {
            config.set("statistics.interval.ms", statistics::INTERVAL_MS);
        }
        let producer = Producer::new(&config, batching.clone(), &self.inner.reaper, self.inner.metrics.clone())?;
        producers.insert(batching, Arc::clone(&producer));
        Ok(producer)
    }
}

/// Our choice of librdkafka's properties, the operator's above it, and above both what the promises rest on.
fn client_config(config: &config::Kafka, brokers: &str, kind: Kind) -> ClientConfig {
    // Full batches cost Kafka and us less; few rows are not to wait for others.
    let linger_ms = if matches!(kind, Kind::Bulk { pace: BatchMode::Throughput, .. }) { "50" } else { "1" };
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
    match kind {
        // A batch that is refused ends the producer, and nothing behind it is accepted. Otherwise librdkafka would go on with
        // the rows behind it, and those of the refused batch would come after them.
        Kind::Bulk { bytes, .. } => {
            client.set("enable.gapless.guarantee", "true").set("batch.size", bytes.max(MIN_BATCH_BYTES).to_string())
        }
        // A row that goes alone has no row of its device behind it.
        Kind::Alone => client.set("batch.num.messages", "1"),
    };
    client
}
