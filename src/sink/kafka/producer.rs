//! librdkafka's producers: one for each topic and kind of batch, replaced when one can't go on.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext, Message,
    config::{FromClientConfigAndContext as _, RDKafkaLogLevel},
    error::KafkaError as NativeError,
    message::DeliveryResult,
    producer::{NoCustomPartitioner, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer},
    statistics::Statistics,
    types::RDKafkaErrorCode as Code,
};

use super::{BatchMode, Delivery, KafkaError, error::ends_the_producer, sender::InFlightPermit, statistics::ProducerStatistics};
use crate::{failpoint, source::Key, telemetry::KafkaMetrics};

/// Batches that librdkafka has on the wire at the most, for each partition, without an answer.
const MAX_BATCHES_IN_FLIGHT: usize = 5;

/// A broker remembers a producer's sequence numbers in a partition for longer than this after its last row there
/// (`producer.id.expiration.ms`, a day by default).
const OPEN_FOR: Duration = Duration::from_mins(10);

/// How often what can't be sent any more is dropped from a retired producer.
const PURGE_INTERVAL: Duration = Duration::from_millis(50);

/// A producer that nobody has used for so long may be ended.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_mins(2);

/// What a producer is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ProducerKey {
    pub topic: Arc<str>,
    pub kind: Kind,
}

/// What a producer puts into one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Many rows, of so many bytes at the most, unless a single row is larger.
    Bulk { bytes: usize, pace: BatchMode },
    /// One row: what is refused for its size is that row.
    Alone,
}

/// librdkafka's producer, with a thread of its own that takes the acknowledgements.
pub(super) struct Producer {
    pub native: ThreadedProducer<DeliveryCallback, NoCustomPartitioner>,
    pub key: ProducerKey,
    state: Arc<State>,
    openings: Mutex<HashMap<i32, Arc<Opening>>>,
    used_at: Mutex<Instant>,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("batching", &self.key).finish_non_exhaustive()
    }
}

impl Producer {
    pub fn new(
        config: &ClientConfig,
        batching: ProducerKey,
        reaper: &Reaper,
        metrics: KafkaMetrics,
    ) -> Result<Arc<Self>, KafkaError> {
        let state = Arc::new(State { is_retired: AtomicBool::new(false), me: OnceLock::new(), reaper: reaper.clone() });
        let deliveries = DeliveryCallback { state: Arc::clone(&state), statistics: ProducerStatistics::new(metrics) };
        let native = ThreadedProducer::from_config_and_context(config, deliveries)?;
        let (openings, used) = (Mutex::default(), Mutex::new(Instant::now()));
        let producer = Arc::new(Self { native, key: batching, state: Arc::clone(&state), openings, used_at: used });
        let _ = state.me.set(Arc::downgrade(&producer));
        Ok(producer)
    }

    /// Why it is broken, where that is a right that is missing: no new one would get on.
    pub fn forbidden(&self) -> Option<String> {
        let (code, reason) = self.native.client().fatal_error()?;
        matches!(
            code,
            Code::ClusterAuthorizationFailed | Code::TopicAuthorizationFailed | Code::TransactionalIdAuthorizationFailed
        )
        .then(|| format!("{reason}. Give the service's user the right to write idempotently (IdempotentWrite) and to the topic"))
    }

    /// It takes no new jobs: it has met an error, or was given up.
    pub fn is_retired(&self) -> bool {
        self.state.is_retired.load(Ordering::Relaxed)
    }

    /// Gives it up: rows that are not on the wire are dropped, and their jobs send them again through another. Rows on the
    /// wire are waited for, so that whoever sends them again knows what became of them.
    pub fn retire(&self) {
        self.state.retire();
    }

    /// Bytes that may have been sent to a partition without an answer, at the most.
    pub fn sendable_bytes(&self) -> usize {
        match self.key.kind {
            Kind::Bulk { bytes, .. } => bytes.saturating_mul(MAX_BATCHES_IN_FLIGHT),
            Kind::Alone => 1,
        }
    }

    /// The size of its batches, for what is to be said of one that was refused.
    pub fn batch_bytes(&self) -> usize {
        match self.key.kind {
            Kind::Bulk { bytes, .. } => bytes,
            Kind::Alone => 0,
        }
    }

    /// The beginning of its work in a partition.
    pub fn opening(&self, partition: i32) -> Arc<Opening> {
        *self.used_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let mut openings = self.openings.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(openings.entry(partition).or_default())
    }

    /// Whether nobody has begun to use it for a while.
    pub fn is_idle(&self) -> bool {
        self.used_at.lock().unwrap_or_else(PoisonError::into_inner).elapsed() >= IDLE_TIMEOUT
    }
}

/// The beginning of a producer's work in a partition.
///
/// A broker that knows nothing of a producer accepts any first sequence number from it. Were the producer's first batch
/// refused while others are behind it on the wire, the second one would be accepted, and rows be out of order. So the first
/// row goes alone, and the others wait for its acknowledgement.
#[derive(Debug, Default)]
pub(super) struct Opening {
    /// Held by the job whose row opens the partition.
    pub turn: Arc<tokio::sync::Mutex<()>>,
    /// When a row was last known to be acknowledged, in milliseconds after `since`; 0: never.
    acknowledged_ms: AtomicU64,
    since: OnceLock<Instant>,
}

impl Opening {
    pub fn is_open(&self) -> bool {
        let acknowledged_ms = self.acknowledged_ms.load(Ordering::Relaxed);
        acknowledged_ms > 0 && self.now_ms() < acknowledged_ms + OPEN_FOR.as_millis() as u64
    }

    pub fn acknowledged(&self) {
        self.acknowledged_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        self.since.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1
    }
}

/// What is shared with librdkafka's callbacks.
struct State {
    is_retired: AtomicBool,
    me: OnceLock<Weak<Producer>>,
    reaper: Reaper,
}

impl State {
    fn retire(&self) {
        if !self.is_retired.swap(true, Ordering::Relaxed)
            && let Some(producer) = self.me.get().and_then(Weak::upgrade)
        {
            self.reaper.take(producer);
        }
    }
}

/// Ends producers that are not wanted any more, on a thread of its own: it takes a while, and must not happen on the thread
/// of the producer's own callbacks.
#[derive(Clone)]
pub(super) struct Reaper {
    retired: mpsc::Sender<Arc<Producer>>,
}

impl Reaper {
    pub fn new() -> Self {
        let (retired, incoming) = mpsc::channel();
        std::thread::spawn(move || reap(&incoming));
        Self { retired }
    }

    pub fn take(&self, producer: Arc<Producer>) {
        // The thread lives as long as anybody can send.
        let _ = self.retired.send(producer);
    }
}

fn reap(incoming: &mpsc::Receiver<Arc<Producer>>) {
    let mut retired: Vec<Arc<Producer>> = Vec::new();
    loop {
        let next = if retired.is_empty() {
            incoming.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
        } else {
            incoming.recv_timeout(PURGE_INTERVAL)
        };
        match next {
            Ok(producer) => retired.push(producer),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        for producer in &retired {
            // Again and again: a batch that comes back from the wire unacknowledged is put into the queue once more. What is
            // on the wire is left there, for its answer.
            producer.native.purge(PurgeConfig::default().queue());
        }
        retired.retain(|producer| producer.native.in_flight_count() > 0 || Arc::strong_count(producer) > 1);
    }
}

/// Takes what librdkafka says of each message.
pub(super) struct DeliveryCallback {
    state: Arc<State>,
    statistics: ProducerStatistics,
}

/// What a message carries to its acknowledgement.
pub(super) struct Receipt {
    /// Given back when all that have it are settled.
    pub permit: Arc<InFlightPermit>,
    pub number: u64,
    pub time_us: i64,
    pub key: Key,
    /// The largest batch that it may be in; 0: it has one of its own, and a refusal for size is about it and no other.
    pub batch_bytes: usize,
}

impl ClientContext for DeliveryCallback {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            // Said of each property that librdkafka calls experimental, at each producer's start; and of an error after which the
            // producer is replaced, which is told below.
            _ if facility == "CONFWARN" || facility == "FATAL" => tracing::debug!(facility, message, "librdkafka"),
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::error!(facility, message, "librdkafka");
            }
            RDKafkaLogLevel::Warning => tracing::warn!(facility, message, "librdkafka"),
            _ => tracing::debug!(facility, message, "librdkafka"),
        }
    }

    fn stats(&self, statistics: Statistics) {
        self.statistics.take(&statistics);
    }

    fn error(&self, error: NativeError, reason: &str) {
        // Said for each broker and each try; jobs say it once, with what it means for them.
        tracing::debug!(%error, reason, "librdkafka");
        if error.rdkafka_error_code() == Some(Code::Fatal) {
            tracing::info!(reason, "a producer can't go on; its jobs go on with a new one, from their cursors");
            self.state.retire();
        }
    }
}

impl ProducerContext<NoCustomPartitioner> for DeliveryCallback {
    type DeliveryOpaque = Box<Receipt>;

    fn delivery(&self, result: &DeliveryResult<'_>, receipt: Box<Receipt>) {
        let Receipt { permit: room, number, time_us, key, batch_bytes } = *receipt;
        let how = match result {
            Ok(_) => Delivery::Acknowledged,
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
                if ends_the_producer(code) {
                    self.state.retire();
                }
                match code {
                    Code::MessageSizeTooLarge | Code::MessageBatchTooLarge if batch_bytes == 0 => {
                        Delivery::TooLarge(message.payload_len())
                    }
                    Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => {
                        Delivery::Failed(KafkaError::BatchTooLarge { bytes: batch_bytes })
                    }
                    Code::PurgeQueue | Code::PurgeInflight => Delivery::Dropped(message.payload_len()),
                    _ => Delivery::Failed(KafkaError::of_topic(code, message.topic())),
                }
            }
        };
        room.complete(number, time_us, key, how);
        failpoint::hit("acknowledged");
    }
}
