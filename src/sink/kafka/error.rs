//! Errors of Kafka, and whether a retry helps.

use rdkafka::{error as native, types::RDKafkaErrorCode as Code};

/// Why rows were not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KafkaError {
    /// The brokers are unavailable or busy; a later retry can succeed.
    #[error("Kafka is unavailable: {0}")]
    Unavailable(String),
    /// One partition has not acknowledged anything for a while.
    #[error("Kafka is unavailable: partition {partition} of topic {topic} has acknowledged nothing for {seconds} s")]
    Stalled { topic: String, partition: i32, seconds: u64 },
    #[error(
        "topic {0} does not exist on the brokers (and is not created by this service). Create it, or name the topic that ET consumes, and submit again"
    )]
    UnknownTopic(String),
    #[error(
        "Kafka refuses topic {topic}: {reason}. Give the service's user the rights to write and describe it, and submit again"
    )]
    Forbidden { topic: String, reason: String },
    #[error(
        "topic {0} is compacted (cleanup.policy): Kafka would keep only the last reading of each device. \
         Set its cleanup.policy to delete, or kafka.allow_compacted = true, and submit again"
    )]
    Compacted(String),
    /// A record was rejected as invalid. Every topic accepts a key, headers and a document, so the
    /// reason is the timestamp.
    #[error("Kafka refuses records of topic {0} as invalid")]
    InvalidRecord(String),
    /// A timestamp is outside the range that the topic accepts: the text names the clock or setting
    /// to check.
    #[error("{0}")]
    Timestamp(String),
    /// A batch of several messages, of at most `bytes`, was too large for the topic; the message
    /// that caused it is not known.
    #[error("a batch of {bytes} bytes was too large for the topic")]
    BatchTooLarge { bytes: usize },
    /// The producer had a fatal error, or was retired. A new one continues.
    #[error("the producer was replaced")]
    ProducerReplaced,
    /// A permanent error: a retry does not help.
    #[error("Kafka refuses: {0}")]
    Rejected(String),
    /// Not known whether a retry helps.
    #[error("Kafka: {0}")]
    Unknown(String),
}

impl KafkaError {
    /// Whether the error is unknown, so that a retry may not help.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }

    /// Whether a later retry can succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_)
            | Self::Stalled { .. }
            // The rows are valid; a clock or a setting of the topic can be corrected.
            | Self::InvalidRecord(_)
            | Self::Timestamp(_)
            | Self::BatchTooLarge { .. }
            | Self::ProducerReplaced
            | Self::Unknown(_) => true,
            Self::UnknownTopic(_) | Self::Forbidden { .. } | Self::Compacted(_) | Self::Rejected(_) => false,
        }
    }

    /// The `cause` label in metrics.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Stalled { .. } => "stalled",
            Self::UnknownTopic(_) => "unknown_topic",
            Self::Forbidden { .. } => "forbidden",
            Self::Compacted(_) => "compacted",
            Self::InvalidRecord(_) | Self::Timestamp(_) => "timestamp",
            Self::BatchTooLarge { .. } => "batch_too_large",
            Self::ProducerReplaced => "producer_replaced",
            Self::Rejected(_) => "rejected",
            Self::Unknown(_) => "unknown",
        }
    }

    /// Whether the same attempt continues at once after the last acknowledged row.
    pub fn is_restart(&self) -> bool {
        matches!(self, Self::BatchTooLarge { .. } | Self::ProducerReplaced)
    }

    /// Classifies an error code about a topic, or about a message sent to it.
    pub(super) fn of_topic(code: Code, topic: &str) -> Self {
        match code {
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => Self::UnknownTopic(topic.to_owned()),
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed | Code::InvalidTopic | Code::PolicyViolation => {
                Self::Forbidden { topic: topic.to_owned(), reason: code.to_string() }
            }
            Code::InvalidTimestamp | Code::InvalidRecord | Code::InvalidDifferentRecord => Self::InvalidRecord(topic.to_owned()),
            code if is_producer_fatal(code) => Self::ProducerReplaced,
            code => Self::of(code),
        }
    }

    /// Classifies an error code that is not about a topic. A code in no list is unknown.
    fn of(code: Code) -> Self {
        let text = format!("{code} ({code:?})");
        if is_unavailable(code) {
            Self::Unavailable(text)
        } else if is_rejection(code) {
            Self::Rejected(text)
        } else {
            Self::Unknown(text)
        }
    }
}

/// After these errors a producer sends nothing any more, or its queue was purged.
pub(super) fn is_producer_fatal(code: Code) -> bool {
    matches!(
        code,
        Code::Fatal
            | Code::GaplessGuarantee
            | Code::Inconsistent
            | Code::PurgeQueue
            | Code::PurgeInflight
            | Code::OutOfOrderSequenceNumber
            | Code::DuplicateSequenceNumber
            | Code::UnknownProducerId
            | Code::InvalidProducerEpoch
            | Code::InvalidProducerIdMapping
            | Code::ProducerFenced
            | Code::Fenced
    )
}

/// Brokers, the network or a leader are unavailable, changing, or busy.
fn is_unavailable(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::BrokerDestroy
            | Code::DestroyBroker
            | Code::UnknownBroker
            | Code::NodeUpdate
            | Code::RebootstrapRequired
            | Code::OperationTimedOut
            | Code::MessageTimedOut
            | Code::TimedOutQueue
            | Code::RequestTimedOut
            | Code::NetworkException
            | Code::QueueFull
            | Code::WaitCache
            | Code::WaitingForCoordinator
            | Code::InProgress
            | Code::PreviousInProgress
            | Code::Retry
            | Code::Interrupted
            | Code::ISRInsufficient
            | Code::NotEnoughReplicas
            | Code::NotEnoughReplicasAfterAppend
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::PreferredLeaderNotAvailable
            | Code::EligibleLeadersNotAvailable
            | Code::BrokerNotAvailable
            | Code::ReplicaNotAvailable
            | Code::ReassignmentInProgress
            | Code::ListenerNotFound
            | Code::NotController
            | Code::StaleControllerEpoch
            | Code::StaleBrokerEpoch
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::OffsetNotAvailable
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::KafkaStorageError
            | Code::LogDirNotFound
            | Code::ThrottlingQuotaExceeded
            // The topic was recreated, and not every broker knows it yet.
            | Code::UnknownTopicId
    )
}

/// The same request would be rejected again. Authentication errors are not included: brokers reject
/// valid credentials for a moment while they load them, and while a password is rotated.
fn is_rejection(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::InvalidConfig
            | Code::InvalidRequest
            | Code::InvalidRequiredAcks
            | Code::InvalidPartitions
            | Code::NotImplemented
            | Code::NotConfigured
            | Code::UnsupportedFeature
            | Code::UnsupportedVersion
            | Code::UnsupportedForMessageFormat
            | Code::UnsupportedCompressionType
            | Code::UnsupportedSASLMechanism
            | Code::SecurityDisabled
            | Code::GroupAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
    )
}

impl From<native::KafkaError> for KafkaError {
    fn from(error: native::KafkaError) -> Self {
        match error {
            native::KafkaError::ClientConfig(_, reason, name, value) => {
                // Not shown: the value of a property may be a password.
                let _ = value;
                let hint = if reason.contains("not available") || reason.contains("No such configuration property") {
                    "; SASL and TLS need a build with `--features tls`"
                } else {
                    ""
                };
                Self::Rejected(format!("kafka.properties.{name}: {reason}{hint}"))
            }
            native::KafkaError::ClientCreation(reason) => Self::Rejected(format!("kafka.properties: {reason}")),
            error => match error.rdkafka_error_code().map(Self::of) {
                Some(Self::Unavailable(_)) => Self::Unavailable(error.to_string()),
                Some(Self::Rejected(_)) => Self::Rejected(error.to_string()),
                _ => Self::Unknown(error.to_string()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_classified_and_unknown_codes_stay_unknown() {
        let of = |code| KafkaError::of_topic(code, "t");
        assert!(matches!(of(Code::NotEnoughReplicas), KafkaError::Unavailable(_)));
        assert!(matches!(of(Code::UnsupportedVersion), KafkaError::Rejected(_)));
        assert!(matches!(of(Code::TopicAuthorizationFailed), KafkaError::Forbidden { .. }));
        assert!(matches!(of(Code::UnknownTopic), KafkaError::UnknownTopic(_)));
        assert!(matches!(of(Code::InvalidTimestamp), KafkaError::InvalidRecord(_)));
        assert!(matches!(of(Code::PurgeQueue), KafkaError::ProducerReplaced));
        for code in [Code::Unknown, Code::SaslAuthenticationFailed, Code::InvalidMessage, Code::CriticalSystemResource] {
            let KafkaError::Unknown(text) = of(code) else { panic!("{code:?}: {:?}", of(code)) };
            assert!(text.contains(&format!("{code:?}")), "{text}");
        }
    }

    #[test]
    fn a_look_up_is_classified_like_a_message() {
        let of = |code| KafkaError::from(native::KafkaError::MetadataFetch(code));
        assert!(matches!(of(Code::AllBrokersDown), KafkaError::Unavailable(_)));
        assert!(matches!(of(Code::UnsupportedVersion), KafkaError::Rejected(_)));
        assert!(matches!(of(Code::Unknown), KafkaError::Unknown(_)));
    }

    #[test]
    fn only_some_errors_are_retryable() {
        assert!(KafkaError::Unknown(String::new()).is_retryable());
        assert!(KafkaError::InvalidRecord(String::new()).is_retryable());
        assert!(!KafkaError::Compacted(String::new()).is_retryable());
        assert!(!KafkaError::Rejected(String::new()).is_retryable());
    }
}
