//! One job's way into its topic.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use rdkafka::{producer::BaseRecord, types::RDKafkaErrorCode as Code};
use tokio::sync::OwnedMutexGuard;

use super::{
    AckTracker, Delivery, Kafka, KafkaError, RecordBuilder,
    batch_size::Sizes,
    error::ends_the_producer,
    in_flight::{InFlight, Lane, Reservation},
    producer::{Kind, Opening, Producer, Receipt},
};
use crate::{config::Timestamp, source::Key, telemetry::Durations};

/// What a message weighs beside its document, about: key, headers, bookkeeping here, in librdkafka and in a batch.
const OVERHEAD_BYTES: usize = 512;

/// Room for rows of one flight among the bytes of all.
pub struct InFlightPermit {
    pub(super) acks: Arc<AckTracker>,
    lane: Arc<Lane>,
    opening: Arc<Opening>,
    /// One was acknowledged.
    acknowledged: std::sync::atomic::AtomicBool,
    /// When its rows could be handed over.
    since: Instant,
    acknowledgement: Durations,
    _bytes: Reservation,
}

impl InFlightPermit {
    /// Notes what became of a row that was sent.
    pub(super) fn complete(&self, number: u64, time_us: i64, key: Key, how: Delivery) {
        if matches!(how, Delivery::Acknowledged) {
            self.acknowledged.store(true, Ordering::Relaxed);
        }
        self.lane.settled();
        self.acks.complete(number, time_us, key, how);
    }
}

impl Drop for InFlightPermit {
    fn drop(&mut self) {
        if self.acknowledged.load(Ordering::Relaxed) {
            self.opening.acknowledged();
            self.lane.acknowledged();
            self.acknowledgement.observe(self.since.elapsed());
        }
    }
}

/// A row on its way out.
#[derive(Debug)]
pub struct OutgoingRow {
    /// When the reading was made, in microseconds since 1970.
    pub instant_us: i64,
    /// Where the row stands in its store.
    pub time_us: i64,
    pub key: Key,
    pub doc: Bytes,
}

/// One job's way into its topic.
pub struct Sender {
    pub(super) kafka: Kafka,
    pub(super) producer: Arc<Producer>,
    /// For rows that are too large to go with others; made when the first one comes.
    pub(super) alone: Option<Arc<Producer>>,
    pub(super) topic: Arc<str>,
    pub(super) sizes: Sizes,
    pub(super) lane: Arc<Lane>,
    pub(super) opening: Arc<Opening>,
    /// Held while no row of this producer has been acknowledged in the partition: the next row goes first, and alone.
    pub(super) turn: Option<OwnedMutexGuard<()>>,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) sent_alone: Arc<AtomicU64>,
    pub(super) acknowledgement: Durations,
    pub(super) timestamp: Timestamp,
    pub(super) records: RecordBuilder,
}

impl Sender {
    /// Waits until there is room for so many rows with documents of so many bytes together. May be given up.
    ///
    /// # Errors
    /// The partition has acknowledged nothing for a while, or the service is stopping.
    pub async fn reserve(
        &mut self,
        flight: &Arc<AckTracker>,
        rows: usize,
        doc_bytes: usize,
    ) -> Result<Arc<InFlightPermit>, KafkaError> {
        flight.use_producer(&self.producer);
        if self.turn.is_none() && !self.opening.is_open() {
            // Before there is room, so that those who wait for their turn hold none.
            let turn = self.in_flight.unless_stalled(&self.lane, Arc::clone(&self.opening.turn).lock_owned()).await?;
            if !self.opening.is_open() {
                self.turn = Some(turn);
            }
        }
        let bytes = self.in_flight.reserve(&self.lane, doc_bytes + rows * OVERHEAD_BYTES).await?;
        Ok(Arc::new(InFlightPermit {
            acks: Arc::clone(flight),
            lane: Arc::clone(&self.lane),
            opening: Arc::clone(&self.opening),
            acknowledged: false.into(),
            since: Instant::now(),
            acknowledgement: self.acknowledgement.clone(),
            _bytes: bytes,
        }))
    }

    /// Hands a row to the producer. What becomes of it, the flight tells. May be given up: the row was handed over then, or
    /// was not touched.
    ///
    /// # Errors
    /// It, or a row before it, can't be sent.
    pub async fn send(&mut self, row: OutgoingRow, room: &Arc<InFlightPermit>) -> Result<(), KafkaError> {
        if row.doc.len() + OVERHEAD_BYTES > self.sizes.row_bytes {
            return self.send_alone(row, room).await;
        }
        self.enqueue(&Arc::clone(&self.producer), row, room)?;
        if self.turn.is_some() {
            room.acks.drained().await?;
            self.opening.acknowledged();
            self.turn = None;
        }
        Ok(())
    }

    /// Sends a row that is too large to go with others: after those before it, and before those behind it.
    async fn send_alone(&mut self, row: OutgoingRow, room: &Arc<InFlightPermit>) -> Result<(), KafkaError> {
        room.acks.drained().await?;
        let producer = match &self.alone {
            Some(producer) if !producer.is_retired() => Arc::clone(producer),
            _ => Arc::clone(self.alone.insert(self.kafka.producer(&self.topic, Kind::Alone)?)),
        };
        room.acks.use_producer(&producer);
        self.enqueue(&producer, row, room)?;
        self.sent_alone.fetch_add(1, Ordering::Relaxed);
        room.acks.drained().await
    }

    fn enqueue(&mut self, producer: &Arc<Producer>, row: OutgoingRow, room: &Arc<InFlightPermit>) -> Result<(), KafkaError> {
        let flight = &room.acks;
        let number = flight.register()?;
        let headers = self.records.headers(row.instant_us, &row.key);
        let doc: &[u8] = &row.doc;
        let receipt = Box::new(Receipt {
            permit: Arc::clone(room),
            number,
            time_us: row.time_us,
            key: row.key,
            batch_bytes: producer.batch_bytes(),
        });
        let mut record = BaseRecord::with_opaque_to(&self.topic, receipt).key(self.records.key()).payload(doc).headers(headers);
        if self.timestamp == Timestamp::Reading {
            record = record.timestamp(row.instant_us.div_euclid(1_000));
        }
        // Before it is sent: the answer may come at once.
        self.lane.sent();
        let Err((error, record)) = producer.native.send(record) else { return Ok(()) };
        let Receipt { number, time_us, key, .. } = *record.delivery_opaque;
        let how = match error.rdkafka_error_code().unwrap_or(Code::Fail) {
            // Larger than librdkafka sends at all. It goes alone, so those before it are settled.
            Code::MessageSizeTooLarge => Delivery::TooLarge(doc.len()),
            code => {
                if ends_the_producer(code) {
                    producer.retire();
                }
                Delivery::Failed(KafkaError::of_topic(code, &self.topic))
            }
        };
        room.complete(number, time_us, key, how);
        flight.failure().map_or(Ok(()), Err)
    }
}
