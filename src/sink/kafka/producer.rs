//! librdkafka producers: one for each topic and kind of batch, replaced after a fatal error.

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

use super::{
    BatchMode, Delivery, KafkaError, SentRow, error::is_producer_fatal, sender::InFlightPermit, statistics::ProducerStatistics,
};
use crate::failpoint;

/// Maximum batches of a partition that librdkafka has on the wire without a response.
const MAX_BATCHES_IN_FLIGHT: usize = 5;

/// A broker remembers a producer's sequence numbers in a partition for longer than this after its
/// last row (`producer.id.expiration.ms`, a day by default).
const FIRST_ACK_VALIDITY: Duration = Duration::from_mins(10);

/// How often the queue of a retired producer is purged.
const PURGE_INTERVAL: Duration = Duration::from_millis(50);

/// A producer that was unused for this long may be closed.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_mins(2);

/// Of the producers that no job uses, only the last so many are kept: each has threads, connections
/// and buffers, and a service may be asked for many topics, one after the other.
pub(super) const MAX_IDLE: usize = 8;

/// Identifies a producer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ProducerKey {
    pub topic: Arc<str>,
    pub kind: Kind,
}

/// What a producer puts into a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Many rows, up to `bytes`, or a single larger row.
    Bulk { bytes: usize, mode: BatchMode },
    /// One row, so that a rejection for size is about that row.
    Alone,
}

/// A librdkafka producer, with a thread that receives the delivery reports.
pub(super) struct Producer {
    pub native: ThreadedProducer<DeliveryCallback, NoCustomPartitioner>,
    pub key: ProducerKey,
    state: Arc<State>,
    first_acks: Mutex<HashMap<i32, Arc<FirstAck>>>,
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
        key: ProducerKey,
        reaper: &Reaper,
        statistics: ProducerStatistics,
    ) -> Result<Arc<Self>, KafkaError> {
        let state = Arc::new(State { is_retired: AtomicBool::new(false), producer: OnceLock::new(), reaper: reaper.clone() });
        let callback = DeliveryCallback { state: Arc::clone(&state), statistics };
        let native = ThreadedProducer::from_config_and_context(config, callback)?;
        let (first_acks, used_at) = (Mutex::default(), Mutex::new(Instant::now()));
        let producer = Arc::new(Self { native, key, state: Arc::clone(&state), first_acks, used_at });
        let _ = state.producer.set(Arc::downgrade(&producer));
        Ok(producer)
    }

    /// The fatal error, if it is a missing permission: a new producer would fail too.
    pub fn forbidden(&self) -> Option<String> {
        let (code, reason) = self.native.client().fatal_error()?;
        matches!(
            code,
            Code::ClusterAuthorizationFailed | Code::TopicAuthorizationFailed | Code::TransactionalIdAuthorizationFailed
        )
        .then(|| format!("{reason}. Give the service's user the right to write idempotently (IdempotentWrite) and to the topic"))
    }

    /// Whether it accepts no new jobs, after a fatal error or [`retire`](Self::retire).
    pub fn is_retired(&self) -> bool {
        self.state.is_retired.load(Ordering::Relaxed)
    }

    /// Retires it: rows that are not on the wire are purged, and their jobs send them again through
    /// another producer. Rows on the wire stay until they are reported, so that their jobs know the
    /// result.
    pub fn retire(&self) {
        self.state.retire();
    }

    /// Maximum bytes that may have been sent to a partition without a response.
    pub fn max_unacknowledged_bytes(&self) -> usize {
        match self.key.kind {
            Kind::Bulk { bytes, .. } => bytes.saturating_mul(MAX_BATCHES_IN_FLIGHT),
            Kind::Alone => 1,
        }
    }

    /// The maximum size of its batches; 0 for single rows.
    pub fn batch_bytes(&self) -> usize {
        match self.key.kind {
            Kind::Bulk { bytes, .. } => bytes,
            Kind::Alone => 0,
        }
    }

    /// The first acknowledgement in a partition.
    pub fn first_ack(&self, partition: i32) -> Arc<FirstAck> {
        *self.used_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let mut first_acks = self.first_acks.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(first_acks.entry(partition).or_default())
    }

    /// When a job last started to use it.
    pub fn used_at(&self) -> Instant {
        *self.used_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first acknowledgement of a producer in a partition.
///
/// A broker that does not know a producer accepts any first sequence number from it. If the first
/// batch were rejected while others are on the wire, the second one would be accepted, and rows
/// would be out of order. So the first row is sent alone, and the others wait for its
/// acknowledgement.
#[derive(Debug, Default)]
pub(super) struct FirstAck {
    /// Held by the job that sends the first row.
    pub turn: Arc<tokio::sync::Mutex<()>>,
    /// Time of the last acknowledgement, in milliseconds since `since`; 0: none.
    acknowledged_ms: AtomicU64,
    since: OnceLock<Instant>,
}

impl FirstAck {
    pub fn is_acknowledged(&self) -> bool {
        let acknowledged_ms = self.acknowledged_ms.load(Ordering::Relaxed);
        acknowledged_ms > 0 && self.now_ms() < acknowledged_ms + FIRST_ACK_VALIDITY.as_millis() as u64
    }

    pub fn record_ack(&self) {
        self.acknowledged_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        self.since.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1
    }
}

/// State shared with librdkafka's callbacks.
struct State {
    is_retired: AtomicBool,
    producer: OnceLock<Weak<Producer>>,
    reaper: Reaper,
}

impl State {
    fn retire(&self) {
        if !self.is_retired.swap(true, Ordering::Relaxed)
            && let Some(producer) = self.producer.get().and_then(Weak::upgrade)
        {
            self.reaper.take(producer);
        }
    }
}

/// Closes retired producers on a separate thread: it takes a while, and must not run on the
/// producer's callback thread.
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
        // The thread lives as long as a sender exists.
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
            // Repeated, because a batch that fails on the wire is queued again. Batches on the wire
            // are kept for their response.
            producer.native.purge(PurgeConfig::default().queue());
        }
        retired.retain(|producer| producer.native.in_flight_count() > 0 || Arc::strong_count(producer) > 1);
    }
}

/// Receives librdkafka's delivery reports, statistics and logs.
pub(super) struct DeliveryCallback {
    state: Arc<State>,
    statistics: ProducerStatistics,
}

/// What comes back with the delivery report of a message.
pub(super) struct DeliveryContext {
    /// Released when all messages that share it are reported.
    pub permit: Arc<InFlightPermit>,
    pub row: SentRow,
    /// Maximum size of its batch; 0: it is alone in its batch, so a rejection for size is about
    /// this message.
    pub batch_bytes: usize,
}

impl ClientContext for DeliveryCallback {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            // CONFWARN repeats for each experimental property at each start of a producer; FATAL is
            // logged by `error` below.
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
        // Repeats for each broker and attempt; jobs log it once, with its effect.
        tracing::debug!(%error, reason, "librdkafka");
        if error.rdkafka_error_code() == Some(Code::Fatal) {
            tracing::info!(reason, "a producer had a fatal error; its jobs continue with a new one, from their checkpoints");
            self.state.retire();
        }
    }
}

impl ProducerContext<NoCustomPartitioner> for DeliveryCallback {
    type DeliveryOpaque = Box<DeliveryContext>;

    fn delivery(&self, result: &DeliveryResult<'_>, context: Box<DeliveryContext>) {
        let DeliveryContext { permit, row, batch_bytes } = *context;
        let delivery = match result {
            Ok(message) => Delivery::Acknowledged { partition: message.partition(), offset: message.offset() },
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
                if is_producer_fatal(code) {
                    self.state.retire();
                }
                match code {
                    Code::MessageSizeTooLarge | Code::MessageBatchTooLarge if batch_bytes == 0 => {
                        Delivery::TooLarge(message.payload_len())
                    }
                    Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => {
                        Delivery::Failed(KafkaError::BatchTooLarge { bytes: batch_bytes })
                    }
                    Code::PurgeQueue | Code::PurgeInflight => Delivery::Purged(message.payload_len()),
                    _ => Delivery::Failed(KafkaError::of_topic(code, message.topic())),
                }
            }
        };
        permit.record_delivery(row, delivery);
        failpoint::hit("acknowledged");
    }
}
