//! Reading the topic back with a consumer of its own, and comparing it with the store, byte for byte.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    metadata::{MetadataPartition, MetadataTopic},
};

use crate::{
    protocol::time::{self, Bound},
    source::sample::{self, SampleRequest},
};

/// A document and the device that it is of.
type Published = (String, Vec<u8>);

/// What a request should publish, in the order of device and time.
pub fn expected(request: &SampleRequest) -> anyhow::Result<Vec<Published>> {
    let zone = chrono_tz::Asia::Shanghai;
    let (from, to) = (time::parse(request.from, zone, Bound::From)?, time::parse(request.to, zone, Bound::To)?);
    Ok(sample::readings()
        .filter(|reading| request.devices.contains(&reading.device_id) && (from..=to).contains(&reading.time))
        .map(|reading| (reading.device_id.to_string(), reading.doc.into_bytes()))
        .collect())
}

/// What was found in the topic.
pub struct ReadBack {
    expected: usize,
    read: usize,
    /// Devices whose rows are all there, byte for byte and in their order, and no others.
    devices_whole: usize,
    devices: usize,
}

impl ReadBack {
    pub fn is_complete(&self) -> bool {
        self.devices_whole == self.devices && self.read == self.expected
    }
}

impl fmt::Display for ReadBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expected, read, devices_whole, devices } = self;
        write!(
            f,
            "{read} of {expected} rows are in the topic; {devices_whole} of {devices} devices have every row, byte for byte and in order"
        )
    }
}

/// Reads the whole topic.
///
/// # Errors
/// The broker does not answer.
pub fn read_back(brokers: &str, topic: &str, expected: Vec<Published>) -> anyhow::Result<ReadBack> {
    const READ_TIMEOUT: Duration = Duration::from_secs(10);
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

    let mut found = HashMap::<String, Vec<Vec<u8>>>::new();
    let (mut read, deadline) = (0, Instant::now() + READ_TIMEOUT);
    while left > 0 && Instant::now() < deadline {
        let Some(message) = consumer.poll(Duration::from_millis(100)).transpose()? else { continue };
        left -= 1;
        read += 1;
        let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
        found.entry(key).or_default().push(message.payload().unwrap_or_default().to_vec());
    }

    let count = expected.len();
    let mut wanted = HashMap::<String, Vec<Vec<u8>>>::new();
    for (device, doc) in expected {
        wanted.entry(device).or_default().push(doc);
    }
    let devices_whole = wanted.iter().filter(|(device, docs)| found.get(*device) == Some(docs)).count();
    Ok(ReadBack { expected: count, read, devices_whole, devices: wanted.len() })
}
