//! What Kafka has acknowledged of a device's rows: enough to prove later that the topic has them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use super::RowKey;

/// The acknowledged rows of a job. Kept with its checkpoint, and complete only if it has as many
/// rows as the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Delivered {
    /// The number of rows that the checksum covers.
    pub rows: u64,
    pub checksum: Checksum,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<RowId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<RowId>,
    /// The partitions that have rows, in the order of their first use: nearly always one.
    pub partitions: Vec<PartitionOffsets>,
    /// Rows whose offset Kafka did not tell: a broker that receives a batch again may have
    /// forgotten where it is.
    #[serde(skip_serializing_if = "is_zero")]
    pub unlocated: u64,
    /// Messages in the topic beyond one for each row, as far as they are known.
    #[serde(skip_serializing_if = "is_zero")]
    pub repeated: u64,
    /// Nothing else of the job was sent, or may arrive later, when this was stored.
    pub settled: bool,
    /// A worker was lost: the rows that it sent after its last checkpoint are repeated, and nobody
    /// has counted them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lost_worker: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Delivered {
    /// Adds an acknowledged row, the one after those that were added before.
    pub fn add(&mut self, row: RowId, hash: u128, partition: i32, offset: i64) {
        self.rows += 1;
        self.checksum.add(hash);
        if self.first.is_none() {
            self.first = Some(row.clone());
        }
        self.last = Some(row);
        if offset < 0 {
            self.unlocated += 1;
            return;
        }
        // The last one is the likeliest.
        match self.partitions.iter_mut().rev().find(|known| known.partition == partition) {
            Some(known) => {
                known.first = known.first.min(offset);
                known.last = known.last.max(offset);
            }
            None => self.partitions.push(PartitionOffsets { partition, first: offset, last: offset }),
        }
    }

    /// Forgets the rows, because all of them are sent again.
    pub fn restart(&mut self) {
        *self = Self { repeated: self.repeated + self.rows, lost_worker: self.lost_worker, ..Self::default() };
    }
}

/// The offsets of a job's messages in a partition. Other messages may lie between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(i32, i64, i64)", into = "(i32, i64, i64)")]
pub struct PartitionOffsets {
    pub partition: i32,
    pub first: i64,
    /// Inclusive.
    pub last: i64,
}

impl From<(i32, i64, i64)> for PartitionOffsets {
    fn from((partition, first, last): (i32, i64, i64)) -> Self {
        Self { partition, first, last }
    }
}

impl From<PartitionOffsets> for (i32, i64, i64) {
    fn from(PartitionOffsets { partition, first, last }: PartitionOffsets) -> Self {
        (partition, first, last)
    }
}

/// A row of a device, as the header `data-patch-row` names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(i64, RowKey)", into = "(i64, RowKey)")]
pub struct RowId {
    /// The time of the reading, in microseconds since 1970 (UTC).
    pub instant_us: i64,
    pub key: RowKey,
}

impl From<(i64, RowKey)> for RowId {
    fn from((instant_us, key): (i64, RowKey)) -> Self {
        Self { instant_us, key }
    }
}

impl From<RowId> for (i64, RowKey) {
    fn from(RowId { instant_us, key }: RowId) -> Self {
        (instant_us, key)
    }
}

/// A sum of row hashes modulo 2^128. It does not depend on the order of the rows.
///
/// ```
/// # use data_patch_protocol::task::{Checksum, RowHasher};
/// let mut hasher = RowHasher::default();
/// let one = hasher.hash("0fc608c2-5d7c-45a0-a5f7-c423a08fa0d0/2019-01-11T13:03:00Z/7", br#"{"data":[0.25]}"#);
/// let two = hasher.hash("0fc608c2-5d7c-45a0-a5f7-c423a08fa0d0/2019-01-11T13:04:00Z/8", br#"{"data":[0.26]}"#);
/// let (mut forward, mut backward) = (Checksum::default(), Checksum::default());
/// forward.add(one);
/// forward.add(two);
/// backward.add(two);
/// backward.add(one);
/// assert_eq!(forward, backward);
/// assert_eq!(forward.to_string().len(), 32);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Checksum(pub u128);

impl Checksum {
    /// Adds the hash of a row ([`RowHasher`]).
    pub fn add(&mut self, hash: u128) {
        self.0 = self.0.wrapping_add(hash);
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Checksum {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

impl TryFrom<String> for Checksum {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Checksum> for String {
    fn from(checksum: Checksum) -> Self {
        checksum.to_string()
    }
}

/// Hashes rows: XXH3-128 of the row's id (the value of the header `data-patch-row`), a zero byte,
/// and the document.
#[derive(Debug, Default)]
pub struct RowHasher {
    buffer: Vec<u8>,
}

/// Above this, hashing in parts is cheaper than copying, and no large buffer stays.
const MAX_COPIED: usize = 16 * 1024;

impl RowHasher {
    /// The hash of a row.
    pub fn hash(&mut self, row_id: &str, doc: &[u8]) -> u128 {
        if doc.len() > MAX_COPIED {
            let mut hasher = XxHash3_128::new();
            hasher.write(row_id.as_bytes());
            hasher.write(&[0]);
            hasher.write(doc);
            return hasher.finish_128();
        }
        self.buffer.clear();
        self.buffer.extend_from_slice(row_id.as_bytes());
        self.buffer.push(0);
        self.buffer.extend_from_slice(doc);
        XxHash3_128::oneshot(&self.buffer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(instant_us: i64) -> RowId {
        RowId { instant_us, key: RowKey::Integer(instant_us) }
    }

    #[test]
    fn rows_extend_the_offsets_of_their_partition() {
        let mut delivered = Delivered::default();
        delivered.add(row(1), 10, 3, 100);
        delivered.add(row(2), u128::MAX, 3, 90);
        delivered.add(row(3), 5, 4, 7);
        delivered.add(row(4), 1, 4, -1);
        let expected = Delivered {
            rows: 4,
            checksum: Checksum(15),
            first: Some(row(1)),
            last: Some(row(4)),
            partitions: vec![
                PartitionOffsets { partition: 3, first: 90, last: 100 },
                PartitionOffsets { partition: 4, first: 7, last: 7 },
            ],
            unlocated: 1,
            ..Delivered::default()
        };
        assert_eq!(delivered, expected);
    }

    #[test]
    fn rows_that_are_all_sent_again_are_repeats() {
        let mut delivered = Delivered { lost_worker: true, repeated: 3, ..Delivered::default() };
        delivered.add(row(1), 10, 3, 100);
        delivered.restart();
        assert_eq!(delivered, Delivered { lost_worker: true, repeated: 4, ..Delivered::default() });
    }

    #[test]
    fn it_is_stored_as_short_json() {
        let mut delivered = Delivered { settled: true, ..Delivered::default() };
        delivered.add(row(1), 0xab, 3, 100);
        let json = serde_json::to_string(&delivered).unwrap();
        assert_eq!(
            json,
            r#"{"rows":1,"checksum":"000000000000000000000000000000ab","first":[1,"1"],"last":[1,"1"],"partitions":[[3,100,100]],"settled":true}"#
        );
        assert_eq!(serde_json::from_str::<Delivered>(&json).unwrap(), delivered);
    }

    /// The hash is public: consumers compute it with other libraries. These values come from
    /// `xxhsum -H2` on the same bytes.
    #[test]
    fn the_hash_is_xxh3_128() {
        assert_eq!(XxHash3_128::oneshot(b""), 0x99aa_06d3_0147_98d8_6001_c324_468d_497f);
    }

    proptest! {
        #[test]
        fn a_hash_does_not_depend_on_how_it_is_computed(row_id in "[a-f0-9/:-]{0,80}", length in 0_usize..40_000, fill: u8) {
            let doc = vec![fill; length];
            let mut whole = row_id.clone().into_bytes();
            whole.push(0);
            whole.extend_from_slice(&doc);
            prop_assert_eq!(RowHasher::default().hash(&row_id, &doc), XxHash3_128::oneshot(&whole));
        }
    }
}
