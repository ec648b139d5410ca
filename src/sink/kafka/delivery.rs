//! A row on its way, and what becomes of it.

use super::KafkaError;
use crate::task::Position;

/// A row that was handed to the producer.
#[derive(Debug)]
pub struct SentRow {
    /// Its number in the order of reading.
    pub number: u64,
    pub position: Position,
    /// The time of the reading, in microseconds since 1970.
    pub instant_us: i64,
    /// Its part of the checksum.
    pub hash: u128,
}

/// The delivery report of a row.
#[derive(Debug)]
pub enum Delivery {
    /// The row is in the topic. The offset is negative if the broker did not tell it.
    Acknowledged {
        partition: i32,
        offset: i64,
    },
    /// The broker rejected the message, alone in its batch, for this size.
    TooLarge(usize),
    /// It was purged from the producer's queue; its size in bytes. An earlier attempt may have sent
    /// it without a response.
    Purged(usize),
    Failed(KafkaError),
}
