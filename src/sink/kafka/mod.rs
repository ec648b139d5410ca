//! The Kafka sink: looks topics up, sends rows, tracks acknowledgements.
//!
//! [`Kafka::sender`] creates the [`Sender`] of a job; the job's [`AckTracker`] records the delivery
//! reports.

mod ack_tracker;
mod batch_size;
mod byte_budget;
mod delivery;
mod embedded;
mod error;
mod in_flight;
mod lane;
mod partition;
mod producer;
mod reader;
mod record;
mod sender;
mod statistics;
mod throttle;
mod topics;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::ClientConfig;

pub use ack_tracker::AckTracker;
pub use delivery::{Delivery, SentRow};
pub use embedded::EmbeddedBroker;
pub use error::KafkaError;
pub use reader::{Available, TopicMessage, TopicReader, merge};
pub use record::{ROW_HEADER, RecordBuilder, TASK_HEADER};
pub use sender::{InFlightPermit, OutgoingRow, Sender};
pub use topics::in_background;

use crate::{
    config::{self, Timestamp},
    telemetry::{KafkaMetrics, count_error},
};
use batch_size::BatchSizes;
use in_flight::InFlight;
use producer::{Kind, Producer, ProducerKey, Reaper};
use statistics::ProducerStatistics;
use throttle::Throttle;
use topics::Topics;

/// How the rows of a job are batched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BatchMode {
    /// For few rows: sent almost at once.
    LowLatency,
    /// For many rows: batches may fill.
    Throughput,
}

/// Minimum `batch.size` for librdkafka, which rejects 0; used if every row is sent alone.
const MIN_BATCH_BYTES: usize = 1_024;

/// A handle to the sink; clones share the producers.
#[derive(Clone)]
pub struct Kafka {
    inner: Arc<Inner>,
}

struct Inner {
    config: config::Kafka,
    /// Host and port of the brokers, which may be the embedded one.
    brokers: String,
    topics: Topics,
    batch_sizes: BatchSizes,
    /// Up to three for each topic in use, so that rejected batches and cancelled jobs of one topic
    /// do not affect the rows of another.
    producers: Mutex<HashMap<ProducerKey, Arc<Producer>>>,
    reaper: Reaper,
    in_flight: Arc<InFlight>,
    throttle: Throttle,
    sent_alone: Arc<AtomicU64>,
    metrics: KafkaMetrics,
}

impl Kafka {
    /// Creates clients of `brokers`: those of the configuration, or the embedded one. They connect
    /// in the background.
    ///
    /// # Errors
    /// A property that librdkafka does not know, or does not support in this build.
    pub fn new(config: &config::Kafka, brokers: &str) -> Result<Self, KafkaError> {
        Self::build(config, brokers, !config.is_embedded())
    }

    /// Simulates brokers on which this user may not read topic settings (DescribeConfigs); for
    /// tests.
    #[doc(hidden)]
    pub fn without_topic_settings(config: &config::Kafka, brokers: &str) -> Result<Self, KafkaError> {
        Self::build(config, brokers, false)
    }

    fn build(config: &config::Kafka, brokers: &str, supports_describe_configs: bool) -> Result<Self, KafkaError> {
        let throttle = Throttle::default();
        let kafka = Self {
            inner: Arc::new(Inner {
                topics: Topics::new(
                    &client_config(config, brokers, Kind::Alone),
                    Duration::from_secs(config.lookup_timeout_seconds),
                    supports_describe_configs,
                    config.allow_compacted,
                )?,
                batch_sizes: BatchSizes::default(),
                config: config.clone(),
                brokers: brokers.to_owned(),
                producers: Mutex::default(),
                reaper: Reaper::new(),
                in_flight: InFlight::new(config.in_flight_bytes, throttle.clone()),
                throttle,
                sent_alone: Arc::default(),
                metrics: KafkaMetrics::default(),
            }),
        };
        // Creates a producer that is likely to be used, so that a wrong property fails the start
        // and not the first job.
        let topic = config.default_topic.as_str().into();
        kafka.producer(
            &topic,
            Kind::Bulk { bytes: kafka.inner.batch_sizes.of(&topic, None).batch_bytes, mode: BatchMode::LowLatency },
        )?;
        Ok(kafka)
    }

    /// Host and port of the brokers.
    pub fn brokers(&self) -> &str {
        &self.inner.brokers
    }

    /// Looks a topic up, without creating it.
    ///
    /// # Errors
    /// The topic does not exist, this user may not use it, it is compacted, or the brokers are
    /// unavailable.
    pub async fn look_up(&self, topic: &str) -> Result<(), KafkaError> {
        self.inner.topics.look_up(topic).await.map(|_| ())
    }

    /// A client that reads a topic back. Its functions block.
    ///
    /// # Errors
    /// A property that librdkafka does not know.
    pub fn reader(&self, topic: &str) -> Result<TopicReader, KafkaError> {
        TopicReader::new(&self.inner.config, &self.inner.brokers, topic)
    }

    /// Whether Kafka keeps only the last message of each key of a topic, as far as this user may
    /// know.
    pub async fn is_compacted(&self, topic: &str) -> bool {
        match self.inner.topics.look_up(topic).await {
            Ok(topic) => topic.settings.is_compacted,
            Err(error) => matches!(error, KafkaError::Compacted(_)),
        }
    }

    /// Invalidates the cached topic, after an error showed that it was deleted or changed.
    pub async fn invalidate(&self, topic: &str) {
        self.inner.topics.invalidate(topic).await;
    }

    /// Checks that a broker answers.
    ///
    /// # Errors
    /// No broker answers.
    pub async fn ping(&self) -> Result<(), KafkaError> {
        self.inner.topics.ping().await
    }

    /// Creates a sender for an existing topic. A job must not change its sender while its rows are
    /// in flight: rows of another mode could overtake them.
    ///
    /// # Errors
    /// As [`look_up`](Self::look_up).
    pub async fn sender(&self, topic: &str, records: RecordBuilder, mode: BatchMode) -> Result<Sender, KafkaError> {
        let topic_info = self.inner.topics.look_up(topic).await?;
        let sizes = self.inner.batch_sizes.of(topic, topic_info.settings.max_message_bytes);
        let topic: Arc<str> = topic.into();
        let producer = self.producer(&topic, Kind::Bulk { bytes: sizes.batch_bytes, mode })?;
        let partition = partition::partition(records.key().as_bytes(), topic_info.partitions);
        Ok(Sender {
            kafka: self.clone(),
            first_ack: producer.first_ack(partition),
            lane: self.inner.in_flight.lane(&topic, partition),
            producer,
            alone: None,
            topic,
            sizes,
            first_row_guard: None,
            in_flight: Arc::clone(&self.inner.in_flight),
            sent_alone: Arc::clone(&self.inner.sent_alone),
            acknowledgement: self.inner.metrics.acknowledgement.clone(),
            timestamp: self.inner.config.timestamp,
            records,
        })
    }

    /// Handles a batch that was rejected for its size: reads the topic's limit again, and reduces
    /// the batch size if that limit does not explain it.
    ///
    /// # Errors
    /// As [`look_up`](Self::look_up).
    pub async fn batch_refused(&self, topic: &str, bytes: usize) -> Result<(), KafkaError> {
        self.invalidate(topic).await;
        let max_message_bytes = self.inner.topics.look_up(topic).await?.settings.max_message_bytes;
        self.inner.batch_sizes.record_rejection(topic, bytes, max_message_bytes);
        Ok(())
    }

    /// Adds the topic's settings to an error about timestamps.
    pub async fn explain(&self, error: KafkaError) -> KafkaError {
        let KafkaError::InvalidRecord(topic) = &error else { return error };
        let settings = self.inner.topics.look_up(topic).await.map(|topic_info| topic_info.settings).unwrap_or_default();
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

    /// Metrics of this sink.
    pub fn metrics(&self) -> &KafkaMetrics {
        &self.inner.metrics
    }

    /// Counts an error that ended an attempt, or made it start again.
    pub fn count_error(&self, error: &KafkaError) {
        count_error(&self.inner.metrics.errors, error.cause());
    }

    /// Bytes in flight.
    pub fn in_flight_bytes(&self) -> usize {
        self.inner.in_flight.bytes()
    }

    /// Rows that were sent alone because they were too large for a batch.
    pub fn rows_sent_alone(&self) -> u64 {
        self.inner.sent_alone.load(Ordering::Relaxed)
    }

    /// Returns the producer of this kind, or a new one if the last had a fatal error.
    fn producer(&self, topic: &Arc<str>, kind: Kind) -> Result<Arc<Producer>, KafkaError> {
        let key = ProducerKey { topic: Arc::clone(topic), kind };
        let mut producers = self.inner.producers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(producer) = producers.get(&key) {
            if !producer.is_retired() {
                return Ok(Arc::clone(producer));
            }
            let forbidden = producer.forbidden();
            producers.remove(&key);
            if let Some(reason) = forbidden {
                return Err(KafkaError::Rejected(reason));
            }
        }
        // Producers of unused topics, and of batch sizes that are no longer used.
        let is_unused = |producer: &Arc<Producer>| Arc::strong_count(producer) == 1;
        let mut unused: Vec<_> =
            producers.values().filter(|producer| is_unused(producer)).map(|producer| producer.used_at()).collect();
        unused.sort_unstable_by_key(|used_at| std::cmp::Reverse(*used_at));
        let oldest_kept = unused.get(producer::MAX_IDLE - 1).copied();
        let is_idle =
            |used_at: Instant| used_at.elapsed() >= producer::IDLE_TIMEOUT || oldest_kept.is_some_and(|oldest| used_at < oldest);
        for (_, idle) in producers.extract_if(|_, producer| is_unused(producer) && is_idle(producer.used_at())) {
            self.inner.reaper.take(idle);
        }
        let mut config = client_config(&self.inner.config, &self.inner.brokers, kind);
        if config.get("statistics.interval.ms").is_none() {
            config.set("statistics.interval.ms", statistics::INTERVAL_MS);
        }
        let statistics = ProducerStatistics::new(self.inner.metrics.clone(), self.inner.throttle.clone());
        let producer = Producer::new(&config, key.clone(), &self.inner.reaper, statistics)?;
        producers.insert(key, Arc::clone(&producer));
        Ok(producer)
    }
}

/// Our defaults for librdkafka's properties, overridden by the operator's, overridden by the
/// properties that the delivery guarantees require.
fn client_config(config: &config::Kafka, brokers: &str, kind: Kind) -> ClientConfig {
    // Full batches cost less CPU; a few rows should not wait for others.
    let linger_ms = if matches!(kind, Kind::Bulk { mode: BatchMode::Throughput, .. }) { "50" } else { "1" };
    let mut client = ClientConfig::new();
    client
        .set("client.id", "data-patch")
        .set("compression.type", "lz4")
        .set("linger.ms", linger_ms)
        .set("batch.num.messages", "100000")
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.max.ms", "2000")
        // librdkafka's broker thread spins while a connected broker does not respond; this limits
        // it.
        .set("socket.timeout.ms", "10000")
        .set("log_level", "4");
    for (name, value) in config.properties.iter() {
        client.set(name, value);
    }
    client
        .set("bootstrap.servers", brokers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        // The default of the Java clients, so that replayed rows go to the same partition as live
        // rows.
        .set("partitioner", "murmur2_random")
        // Never: a row that times out while a later row does not would break the order of its
        // device.
        .set("message.timeout.ms", "0")
        .set("allow.auto.create.topics", "false")
        // Every acknowledgement is tracked.
        .set("delivery.report.only.error", "false")
        // Above `kafka.in_flight_bytes`, which is the effective limit.
        .set("queue.buffering.max.messages", "10000000")
        .set("queue.buffering.max.kbytes", (config.in_flight_bytes / 512 + 65_536).to_string())
        // The broker decides whether a message is too large. The limit is the broker's
        // `socket.request.max.bytes`: a broker disconnects on a larger request, which would look
        // like an endless outage.
        .set("message.max.bytes", "100000000");
    match kind {
        // A rejected batch is fatal for the producer, and no later batch is accepted. Otherwise
        // librdkafka would continue with the rows after it, and the rows of the rejected batch
        // would follow out of order.
        Kind::Bulk { bytes, .. } => {
            client.set("enable.gapless.guarantee", "true").set("batch.size", bytes.max(MIN_BATCH_BYTES).to_string())
        }
        // A row that is sent alone has no later row of its device in flight.
        Kind::Alone => client.set("batch.num.messages", "1"),
    };
    client
}
