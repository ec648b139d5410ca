//! Reads parts of a topic back, between offsets.

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext, Message as _, Offset, TopicPartitionList,
    config::{FromClientConfigAndContext as _, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::KafkaError as NativeError,
    message::{BorrowedMessage, Headers as _},
    types::RDKafkaErrorCode as Code,
};

use super::{KafkaError, ROW_HEADER, TASK_HEADER};
use crate::{config, task::PartitionOffsets};

/// Offsets that are so close together are read at once: reading the messages between them is
/// cheaper than asking again.
const MAX_GAP: i64 = 10_000;

/// After so long without any message the brokers are taken to be unavailable.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a visitor is called while no message arrives, so that it can end the reading.
const POLL_TIMEOUT: Duration = Duration::from_millis(200);

/// A partition that is still not known after so long does not exist.
const MISSING_TIMEOUT: Duration = Duration::from_secs(5);

/// A message of a topic.
#[derive(Debug, Clone, Copy)]
pub struct TopicMessage<'m> {
    pub partition: i32,
    pub offset: i64,
    /// The header `data-patch-task`.
    pub task: Option<&'m str>,
    /// The header `data-patch-row`.
    pub row: Option<&'m str>,
    pub doc: &'m [u8],
}

/// The offsets that a partition has: from `first`, before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Available {
    pub first: i64,
    pub end: i64,
}

/// Reads a topic. All of its functions block.
pub struct TopicReader {
    consumer: BaseConsumer<ReaderContext>,
    topic: String,
    timeout: Duration,
}

impl TopicReader {
    pub(super) fn new(config: &config::Kafka, brokers: &str, topic: &str) -> Result<Self, KafkaError> {
        let mut client = ClientConfig::new();
        client
            .set("client.id", "data-patch-verify")
            .set("log_level", "3")
            // Much shorter than the silence that ends a reading: so a node that does not answer is
            // given up in time to read from the next leader.
            .set("socket.timeout.ms", "10000");
        for (name, value) in config.properties.iter() {
            client.set(name, value);
        }
        client
            .set("bootstrap.servers", brokers)
            // librdkafka requires a name. Partitions are assigned by hand, so the group gets no
            // members and stores no offsets.
            .set("group.id", "data-patch-verify")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("allow.auto.create.topics", "false")
            // Bounds the memory: messages that are fetched ahead.
            .set("queued.max.messages.kbytes", "16384")
            // How long fetching pauses once there are as many. The default, a second, is much longer
            // than they last.
            .set("fetch.queue.backoff.ms", "2");
        let consumer = BaseConsumer::from_config_and_context(&client, ReaderContext)?;
        Ok(Self { consumer, topic: topic.to_owned(), timeout: Duration::from_secs(config.lookup_timeout_seconds) })
    }

    /// The offsets that these partitions have now. A partition that does not exist is left out.
    ///
    /// # Errors
    /// The brokers do not answer.
    pub fn available(&self, partitions: impl IntoIterator<Item = i32>) -> Result<HashMap<i32, Available>, KafkaError> {
        let started = Instant::now();
        let mut available = HashMap::new();
        for partition in partitions {
            if let Some(offsets) = self.offsets(partition, started)? {
                available.insert(partition, offsets);
            }
        }
        Ok(available)
    }

    /// The offsets of a partition; `None` if it does not exist. A broker that has just started, or
    /// stood still, may not know its topics or their leaders yet: it is asked again for a while.
    fn offsets(&self, partition: i32, started: Instant) -> Result<Option<Available>, KafkaError> {
        loop {
            let (answer, patience) = match self.consumer.fetch_watermarks(&self.topic, partition, self.timeout) {
                Ok((first, end)) => return Ok(Some(Available { first, end })),
                Err(error) => match error.rdkafka_error_code() {
                    Some(Code::UnknownPartition | Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                        if self.exists(partition)? {
                            let reason = format!("the leader of partition {partition} of topic {} is not known", self.topic);
                            (Err(KafkaError::Unavailable(reason)), self.timeout)
                        } else {
                            (Ok(None), MISSING_TIMEOUT)
                        }
                    }
                    code => match KafkaError::of_topic(code.unwrap_or(Code::Fail), &self.topic) {
                        error @ KafkaError::Unavailable(_) => (Err(error), self.timeout),
                        error => return Err(error),
                    },
                },
            };
            if started.elapsed() >= patience {
                return answer;
            }
            std::thread::sleep(POLL_TIMEOUT);
        }
    }

    /// Whether the brokers know a partition. Asking also refreshes what the client remembers.
    fn exists(&self, partition: i32) -> Result<bool, KafkaError> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), self.timeout)?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        Ok(topic.is_some_and(|topic| topic.partitions().iter().any(|known| known.id() == partition)))
    }

    /// Calls `visit` for each message between these offsets, in the order of each partition, and
    /// for messages that lie between two of them. It is also called with `None` while none arrives.
    ///
    /// # Errors
    /// The brokers do not answer, or have not all of the offsets.
    pub fn read(
        &self,
        spans: &[PartitionOffsets],
        mut visit: impl FnMut(Option<TopicMessage<'_>>) -> ControlFlow<()>,
    ) -> Result<(), KafkaError> {
        let mut rounds = Vec::new();
        for (_, spans) in merge(spans) {
            for (round, span) in spans.into_iter().enumerate() {
                if rounds.len() <= round {
                    rounds.resize_with(round + 1, Vec::new);
                }
                if let Some(round) = rounds.get_mut(round) {
                    round.push(span);
                }
            }
        }
        for round in rounds {
            if self.read_round(&round, &mut visit)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Reads one span of each partition.
    fn read_round(
        &self,
        spans: &[PartitionOffsets],
        visit: &mut impl FnMut(Option<TopicMessage<'_>>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, KafkaError> {
        let mut assignment = TopicPartitionList::with_capacity(spans.len());
        for span in spans {
            assignment.add_partition_offset(&self.topic, span.partition, Offset::Offset(span.first))?;
        }
        self.consumer.assign(&assignment)?;
        let mut last: HashMap<i32, i64> = spans.iter().map(|span| (span.partition, span.last)).collect();
        let mut heard_at = Instant::now();
        while !last.is_empty() {
            let (partition, offset) = match self.consumer.poll(POLL_TIMEOUT) {
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    let Some(end) = last.get(&partition) else { continue };
                    if offset <= *end && visit(Some(topic_message(&message))).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    (partition, offset)
                }
                Some(Err(NativeError::PartitionEOF(partition))) => (partition, i64::MAX),
                Some(Err(error)) if !is_passing(&error) => return Err(self.error(&error)),
                // Also between errors, however often they come: those of a broker that is away do.
                None | Some(Err(_)) => {
                    if heard_at.elapsed() > SILENCE_TIMEOUT {
                        let seconds = SILENCE_TIMEOUT.as_secs();
                        return Err(KafkaError::Unavailable(format!("the brokers have sent no message for {seconds} s")));
                    }
                    if visit(None).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    continue;
                }
            };
            heard_at = Instant::now();
            if last.get(&partition).is_some_and(|last| offset >= *last) {
                last.remove(&partition);
                let mut done = TopicPartitionList::with_capacity(1);
                done.add_partition(&self.topic, partition);
                self.consumer.pause(&done)?;
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn error(&self, error: &NativeError) -> KafkaError {
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                KafkaError::Rejected(format!("messages of topic {} were removed while they were read (retention)", self.topic))
            }
            code => KafkaError::of_topic(code.unwrap_or(Code::Fail), &self.topic),
        }
    }
}

/// Whether librdkafka tries again, or the error is of the group, which is not used.
fn is_passing(error: &NativeError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(code, Some(Code::GroupAuthorizationFailed | Code::AllBrokersDown | Code::BrokerTransportFailure))
}

fn topic_message<'m>(message: &'m BorrowedMessage<'_>) -> TopicMessage<'m> {
    let (mut task, mut row) = (None, None);
    for header in message.headers().into_iter().flat_map(|headers| headers.iter()) {
        let value = header.value.and_then(|value| std::str::from_utf8(value).ok());
        match header.key {
            TASK_HEADER => task = value,
            ROW_HEADER => row = value,
            _ => {}
        }
    }
    TopicMessage {
        partition: message.partition(),
        offset: message.offset(),
        task,
        row,
        doc: message.payload().unwrap_or_default(),
    }
}

/// The spans of each partition, in order and without overlaps.
pub fn merge(spans: &[PartitionOffsets]) -> BTreeMap<i32, Vec<PartitionOffsets>> {
    let mut sorted = spans.to_vec();
    sorted.sort_unstable_by_key(|span| (span.partition, span.first));
    let mut merged = BTreeMap::<i32, Vec<PartitionOffsets>>::new();
    for span in sorted {
        let of_partition = merged.entry(span.partition).or_default();
        match of_partition.last_mut() {
            Some(before) if span.first <= before.last.saturating_add(MAX_GAP) => before.last = before.last.max(span.last),
            _ => of_partition.push(span),
        }
    }
    merged
}

/// Receives librdkafka's logs.
struct ReaderContext;

impl ClientContext for ReaderContext {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        // What matters comes as an error too.
        tracing::debug!(facility, message, "librdkafka");
    }

    fn error(&self, error: NativeError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for ReaderContext {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_that_overlap_or_are_close_are_read_at_once() {
        let span = |partition, first, last| PartitionOffsets { partition, first, last };
        let far = 10 + MAX_GAP + 1;
        let merged = merge(&[span(1, far, far), span(0, 5, 6), span(1, 5, 10), span(1, 0, 7), span(0, 7, 9)]);
        assert_eq!(merged[&0], [span(0, 5, 9)]);
        assert_eq!(merged[&1], [span(1, 0, 10), span(1, far, far)]);
    }
}
