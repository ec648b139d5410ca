//! Reads the topic back with a separate consumer, and compares it with the sample byte for byte.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::{BorrowedMessage, Headers},
    metadata::{MetadataPartition, MetadataTopic},
};
use uuid::Uuid;

use crate::{
    protocol::time::{self, Bound},
    source::sample::{self, SampleRequest},
};

/// The documents that each device must publish, in order.
pub type Expected = Vec<(Uuid, Vec<Vec<u8>>)>;

/// The documents that a request must publish, by device in the request's order.
pub fn expected(request: &SampleRequest) -> anyhow::Result<Expected> {
    let zone = chrono_tz::Asia::Shanghai;
    let (from, to) = (time::parse(request.from, zone, Bound::From)?, time::parse(request.to, zone, Bound::To)?);
    let rows = |device: &Uuid| {
        sample::readings()
            .filter(|reading| reading.device_id == *device && (from..=to).contains(&reading.time))
            .map(|reading| reading.doc.into_bytes())
            .collect()
    };
    Ok(request.devices.iter().map(|device| (*device, rows(device))).collect())
}

/// The result of reading a request's topic back.
pub struct ReadBack {
    pub devices: Vec<DeviceRows>,
}

/// The rows of one device in the topic.
pub struct DeviceRows {
    pub device: Uuid,
    pub expected: usize,
    /// Distinct rows.
    pub arrived: usize,
    /// Rows that were sent again.
    pub repeats: usize,
    /// The distinct rows are exactly the expected ones, byte for byte and in order.
    pub is_complete: bool,
}

impl ReadBack {
    pub fn is_complete(&self) -> bool {
        self.devices.iter().all(|device| device.is_complete)
    }

    pub fn total(&self, count: impl Fn(&DeviceRows) -> usize) -> usize {
        self.devices.iter().map(count).sum()
    }
}

impl fmt::Display for ReadBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (arrived, expected) = (self.total(|device| device.arrived), self.total(|device| device.expected));
        let (complete, devices) = (self.total(|device| usize::from(device.is_complete)), self.devices.len());
        write!(
            f,
            "{arrived} of {expected} rows are in the topic; {complete} of {devices} devices have every row, byte for byte and in order"
        )?;
        match self.total(|device| device.repeats) {
            0 => Ok(()),
            repeats => write!(f, "; {repeats} rows were sent again, as the header data-patch-row shows"),
        }
    }
}

/// A message: its `data-patch-row` header and its document.
type Found = (Vec<u8>, Vec<u8>);

/// Reads the whole topic, and compares the messages of these devices with the expected ones.
///
/// # Errors
/// The broker does not answer.
pub fn read_back(brokers: &str, topic: &str, expected: Expected) -> anyhow::Result<ReadBack> {
    let mut found = read(brokers, topic)?;
    let devices = expected.into_iter().map(|(device, docs)| compare(device, &docs, found.remove(&device.to_string())));
    Ok(ReadBack { devices: devices.collect() })
}

/// Compares the messages of a device. Only the first message of each row counts.
fn compare(device: Uuid, expected: &[Vec<u8>], found: Option<Vec<Found>>) -> DeviceRows {
    let found = found.unwrap_or_default();
    let (total, mut rows) = (found.len(), HashSet::new());
    let docs: Vec<_> = found.into_iter().filter(|(row, _)| rows.insert(row.clone())).map(|(_, doc)| doc).collect();
    DeviceRows {
        device,
        expected: expected.len(),
        arrived: docs.len(),
        repeats: total - docs.len(),
        is_complete: docs == expected,
    }
}

/// Reads all messages, by key.
fn read(brokers: &str, topic: &str) -> anyhow::Result<HashMap<String, Vec<Found>>> {
    const READ_TIMEOUT: Duration = Duration::from_secs(30);
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "data-patch-demo")
        .set("enable.auto.commit", "false")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(topic), READ_TIMEOUT).context("the topic can't be read back")?;
    let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions).map(MetadataPartition::id);
    let (mut assignment, mut left) = (TopicPartitionList::new(), 0);
    for partition in partitions {
        let (low, high) = consumer.fetch_watermarks(topic, partition, READ_TIMEOUT)?;
        left += high - low;
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;

    let mut found = HashMap::<String, Vec<Found>>::new();
    let deadline = Instant::now() + READ_TIMEOUT;
    while left > 0 && Instant::now() < deadline {
        let Some(message) = consumer.poll(Duration::from_millis(100)).transpose()? else { continue };
        left -= 1;
        let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
        found.entry(key).or_default().push((row(&message), message.payload().unwrap_or_default().to_vec()));
    }
    Ok(found)
}

/// The `data-patch-row` header of a message.
fn row(message: &BorrowedMessage<'_>) -> Vec<u8> {
    let header = message.headers().and_then(|headers| headers.iter().find(|header| header.key == "data-patch-row"));
    header.and_then(|header| header.value).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares these rows with the expected rows 1, 2, 3.
    fn compare_with_123(rows: &[u8]) -> DeviceRows {
        let found = rows.iter().map(|row| (vec![*row], vec![*row])).collect();
        compare(Uuid::nil(), &[vec![1], vec![2], vec![3]], Some(found))
    }

    #[test]
    fn repeats_are_allowed_and_other_differences_are_not() {
        let repeated = compare_with_123(&[1, 2, 1, 2, 3]);
        assert!(repeated.is_complete);
        assert_eq!((repeated.arrived, repeated.repeats), (3, 2));
        for wrong in [&[1, 2][..], &[1, 3, 2], &[1, 2, 3, 4], &[]] {
            assert!(!compare_with_123(wrong).is_complete, "{wrong:?}");
        }
    }
}
