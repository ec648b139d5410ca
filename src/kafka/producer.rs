//! Sending: one idempotent producer for all jobs, a limit of bytes in flight, and an account for each job.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use rdkafka::{
    ClientConfig, ClientContext, Message,
    config::FromClientConfigAndContext as _,
    error::KafkaError as NativeError,
    message::DeliveryResult,
    producer::{BaseRecord, NoCustomPartitioner, Producer as _, ProducerContext, ThreadedProducer},
    types::RDKafkaErrorCode as Code,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Batches, Flight, KafkaError, Pace, Records, Settled};
use crate::{iota::Key, kill};

/// What a message weighs beside key and document, about: headers, bookkeeping here and in librdkafka.
const OVERHEAD_BYTES: usize = 512;

/// librdkafka's producer, with a thread of its own that takes the acknowledgements.
pub(super) struct Producer {
    pub native: ThreadedProducer<Deliveries, NoCustomPartitioner>,
    broken: Arc<AtomicBool>,
    batches: Batches,
}

impl Producer {
    pub fn new(config: &ClientConfig, batches: Batches) -> Result<Self, KafkaError> {
        let broken = Arc::new(AtomicBool::new(false));
        let native = ThreadedProducer::from_config_and_context(config, Deliveries { broken: Arc::clone(&broken) })?;
        Ok(Self { native, broken, batches })
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

    /// It has met an error after which it sends nothing any more.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }
}

/// Takes what librdkafka says of each message.
pub(super) struct Deliveries {
    broken: Arc<AtomicBool>,
}

/// What a message carries to its acknowledgement.
pub(super) struct Receipt {
    /// Given back when all that have it are settled.
    room: Arc<Room>,
    number: u64,
    time_us: i64,
    key: Key,
    /// A refusal for size is about this message and no other.
    alone: bool,
}

impl ClientContext for Deliveries {
    fn error(&self, error: NativeError, reason: &str) {
        // Said for each broker and each try; jobs say it once, with what it means for them.
        tracing::debug!(%error, reason, "librdkafka");
        if error.rdkafka_error_code() == Some(Code::Fatal) {
            tracing::warn!(reason, "the producer can't go on; jobs go on with a new one, from their cursors");
            self.broken.store(true, Ordering::Relaxed);
        }
    }
}

impl ProducerContext<NoCustomPartitioner> for Deliveries {
    type DeliveryOpaque = Box<Receipt>;

    fn delivery(&self, result: &DeliveryResult<'_>, receipt: Box<Receipt>) {
        let Receipt { room, number, time_us, key, alone } = *receipt;
        let how = match result {
            Ok(_) => Settled::Acknowledged,
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
                if matches!(
                    code,
                    Code::Fatal | Code::OutOfOrderSequenceNumber | Code::UnknownProducerId | Code::InvalidProducerEpoch
                ) {
                    self.broken.store(true, Ordering::Relaxed);
                }
                match code {
                    Code::MessageSizeTooLarge if alone => Settled::TooLarge(message.payload_len()),
                    Code::MessageSizeTooLarge => Settled::Failed(KafkaError::BatchTooLarge),
                    _ => Settled::Failed(KafkaError::of_topic(code, message.topic())),
                }
            }
        };
        room.flight.settle(number, time_us, key, how);
        kill::point("acknowledged");
    }
}

/// Room for rows of one flight among the bytes of all.
#[derive(Debug)]
pub struct Room {
    flight: Arc<Flight>,
    _bytes: OwnedSemaphorePermit,
}

/// A row on its way out.
#[derive(Debug)]
pub struct Outgoing {
    /// When the reading was made, in microseconds since 1970.
    pub instant_us: i64,
    /// Where the row stands in its store.
    pub time_us: i64,
    pub key: Key,
    pub doc: Bytes,
}

/// One job's way into its topic.
pub struct Sender {
    producer: Arc<Producer>,
    topic: String,
    room: Arc<Semaphore>,
    most: usize,
    records: Records,
}

impl Sender {
    pub(super) fn new(producer: Arc<Producer>, topic: &str, records: Records, room: Arc<Semaphore>, most: usize) -> Self {
        Self { producer, topic: topic.to_owned(), room, most, records }
    }

    /// Waits until there is room for so many rows with documents of so many bytes together.
    ///
    /// # Errors
    /// The service is stopping.
    pub async fn room(&self, flight: &Arc<Flight>, rows: usize, doc_bytes: usize) -> Result<Arc<Room>, KafkaError> {
        let weight = (doc_bytes + rows * OVERHEAD_BYTES).min(self.most);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let stopping = |_| KafkaError::Away("the service is stopping".to_owned());
        let bytes = Arc::clone(&self.room).acquire_many_owned(weight).await.map_err(stopping)?;
        Ok(Arc::new(Room { flight: Arc::clone(flight), _bytes: bytes }))
    }

    /// Hands a row to the producer. What becomes of it, the flight tells.
    ///
    /// # Errors
    /// It, or a row before it, can't be sent.
    pub async fn send(&mut self, row: Outgoing, room: &Arc<Room>) -> Result<(), KafkaError> {
        let flight = &room.flight;
        let number = flight.take()?;
        let headers = self.records.headers(row.instant_us, &row.key);
        let doc: &[u8] = &row.doc;
        let receipt = Box::new(Receipt {
            room: Arc::clone(room),
            number,
            time_us: row.time_us,
            key: row.key,
            // A message that does not fit in a batch has one of its own.
            alone: self.producer.batches.pace == Pace::Careful || doc.len() > self.producer.batches.bytes,
        });
        let record = BaseRecord::with_opaque_to(&self.topic, receipt).key(self.records.key()).payload(doc).headers(headers);
        if let Err((error, record)) = self.producer.native.send(record) {
            let Receipt { number, time_us, key, .. } = *record.delivery_opaque;
            let how = match error.rdkafka_error_code().unwrap_or(Code::Fail) {
                // Told when those before it are acknowledged; until then its place is not known to be its own.
                Code::MessageSizeTooLarge => {
                    flight.settled_but_one().await;
                    Settled::TooLarge(doc.len())
                }
                code => {
                    self.producer.broken.fetch_or(code == Code::Fatal, Ordering::Relaxed);
                    Settled::Failed(KafkaError::of_topic(code, &self.topic))
                }
            };
            flight.settle(number, time_us, key, how);
            return flight.failure().map_or(Ok(()), Err);
        }
        if self.producer.batches.pace == Pace::Careful {
            flight.settled().await?;
        }
        Ok(())
    }
}
