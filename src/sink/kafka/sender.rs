//! Sends the rows of one job to its topic.

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
    AckTracker, Delivery, Kafka, KafkaError, RecordBuilder, SentRow,
    batch_size::Sizes,
    error::is_producer_fatal,
    in_flight::{InFlight, Reservation},
    lane::Lane,
    producer::{DeliveryContext, FirstAck, Kind, Producer},
};
use crate::{config::Timestamp, task::Position, telemetry::Durations};

/// Approximate bytes of a message besides its document: key, headers, and the structures here, in
/// librdkafka and in a batch.
const OVERHEAD_BYTES: usize = 512;

/// Bytes reserved for some rows of one job.
pub struct InFlightPermit {
    pub(super) acks: Arc<AckTracker>,
    lane: Arc<Lane>,
    first_ack: Arc<FirstAck>,
    /// At least one row was acknowledged.
    acknowledged: std::sync::atomic::AtomicBool,
    /// When it was granted.
    since: Instant,
    acknowledgement: Durations,
    _bytes: Reservation,
}

impl InFlightPermit {
    /// Records the delivery report of a row.
    pub(super) fn record_delivery(&self, row: SentRow, delivery: Delivery) {
        if matches!(delivery, Delivery::Acknowledged { .. }) {
            self.acknowledged.store(true, Ordering::Relaxed);
        }
        self.lane.record_completed();
        self.acks.record_delivery(row, delivery);
    }
}

impl Drop for InFlightPermit {
    fn drop(&mut self) {
        if self.acknowledged.load(Ordering::Relaxed) {
            self.first_ack.record_ack();
            self.lane.record_ack();
            self.acknowledgement.observe(self.since.elapsed());
        }
    }
}

/// A row to be sent.
#[derive(Debug)]
pub struct OutgoingRow {
    /// The time of the reading, in microseconds since 1970.
    pub instant_us: i64,
    pub position: Position,
    pub doc: Bytes,
}

/// Sends the rows of one job to its topic.
pub struct Sender {
    pub(super) kafka: Kafka,
    pub(super) producer: Arc<Producer>,
    /// Sends rows that are too large for a batch; created on first use.
    pub(super) alone: Option<Arc<Producer>>,
    pub(super) topic: Arc<str>,
    pub(super) sizes: Sizes,
    pub(super) lane: Arc<Lane>,
    pub(super) first_ack: Arc<FirstAck>,
    /// Held while this producer has no acknowledgement in the partition: the next row is sent
    /// first, and alone.
    pub(super) first_row_guard: Option<OwnedMutexGuard<()>>,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) sent_alone: Arc<AtomicU64>,
    pub(super) acknowledgement: Durations,
    pub(super) timestamp: Timestamp,
    pub(super) records: RecordBuilder,
}

impl Sender {
    /// Waits until bytes are reserved for `rows` rows whose documents have `doc_bytes` in total.
    /// Cancel-safe.
    ///
    /// # Errors
    /// The partition is stalled, or the service is stopping.
    pub async fn reserve(
        &mut self,
        acks: &Arc<AckTracker>,
        rows: usize,
        doc_bytes: usize,
    ) -> Result<Arc<InFlightPermit>, KafkaError> {
        acks.use_producer(&self.producer);
        if self.first_row_guard.is_none() && !self.first_ack.is_acknowledged() {
            // Before the reservation, so that jobs that wait for their turn hold no bytes.
            let first_row_guard =
                self.in_flight.unless_stalled(&self.lane, Arc::clone(&self.first_ack.turn).lock_owned()).await?;
            if !self.first_ack.is_acknowledged() {
                self.first_row_guard = Some(first_row_guard);
            }
        }
        let bytes = self.in_flight.reserve(&self.lane, doc_bytes + rows * OVERHEAD_BYTES).await?;
        Ok(Arc::new(InFlightPermit {
            acks: Arc::clone(acks),
            lane: Arc::clone(&self.lane),
            first_ack: Arc::clone(&self.first_ack),
            acknowledged: false.into(),
            since: Instant::now(),
            acknowledgement: self.acknowledgement.clone(),
            _bytes: bytes,
        }))
    }

    /// Passes a row to the producer; the [`AckTracker`] records its delivery report. If it is
    /// cancelled, the row was either passed on or not touched.
    ///
    /// # Errors
    /// This row or an earlier one cannot be sent.
    pub async fn send(&mut self, row: OutgoingRow, permit: &Arc<InFlightPermit>) -> Result<(), KafkaError> {
        if row.doc.len() + OVERHEAD_BYTES > self.sizes.row_bytes {
            return self.send_alone(row, permit).await;
        }
        self.enqueue(&Arc::clone(&self.producer), row, permit)?;
        if self.first_row_guard.is_some() {
            permit.acks.drained().await?;
            self.first_ack.record_ack();
            self.first_row_guard = None;
        }
        Ok(())
    }

    /// Sends a row that is too large for a batch, after all earlier rows are acknowledged and
    /// before any later row.
    async fn send_alone(&mut self, row: OutgoingRow, permit: &Arc<InFlightPermit>) -> Result<(), KafkaError> {
        permit.acks.drained().await?;
        let producer = match &self.alone {
            Some(producer) if !producer.is_retired() => Arc::clone(producer),
            _ => Arc::clone(self.alone.insert(self.kafka.producer(&self.topic, Kind::Alone)?)),
        };
        permit.acks.use_producer(&producer);
        self.enqueue(&producer, row, permit)?;
        self.sent_alone.fetch_add(1, Ordering::Relaxed);
        permit.acks.drained().await
    }

    fn enqueue(&mut self, producer: &Arc<Producer>, row: OutgoingRow, permit: &Arc<InFlightPermit>) -> Result<(), KafkaError> {
        let acks = &permit.acks;
        let number = acks.register()?;
        let OutgoingRow { instant_us, position, doc } = row;
        let doc: &[u8] = &doc;
        let (headers, hash) = self.records.headers(instant_us, &position.key, doc);
        let row = SentRow { number, position, instant_us, hash };
        let context = Box::new(DeliveryContext { permit: Arc::clone(permit), row, batch_bytes: producer.batch_bytes() });
        let mut record = BaseRecord::with_opaque_to(&self.topic, context).key(self.records.key()).payload(doc).headers(headers);
        if self.timestamp == Timestamp::Reading {
            record = record.timestamp(instant_us.div_euclid(1_000));
        }
        // Counted before it is sent: the delivery report may arrive at once.
        self.lane.record_sent();
        let Err((error, record)) = producer.native.send(record) else { return Ok(()) };
        let DeliveryContext { row, .. } = *record.delivery_opaque;
        let delivery = match error.rdkafka_error_code().unwrap_or(Code::Fail) {
            // Over librdkafka's own limit. Such a row is sent alone, so the rows before it are
            // completed.
            Code::MessageSizeTooLarge => Delivery::TooLarge(doc.len()),
            code => {
                if is_producer_fatal(code) {
                    producer.retire();
                }
                Delivery::Failed(KafkaError::of_topic(code, &self.topic))
            }
        };
        permit.record_delivery(row, delivery);
        acks.failure().map_or(Ok(()), Err)
    }
}
