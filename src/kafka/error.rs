//! What can be wrong with the broker, and whether waiting helps.

use rdkafka::{error as native, types::RDKafkaErrorCode as Code};

/// Why rows were not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KafkaError {
    /// The brokers are away or busy; they will come back.
    #[error("Kafka is away: {0}")]
    Away(String),
    #[error(
        "topic {0} does not exist on the brokers (and is not made by us). Create it, or name the topic that ET consumes, and submit again"
    )]
    NoTopic(String),
    #[error(
        "Kafka refuses topic {topic}: {reason}. Give the service's user the rights to write and describe it, and submit again"
    )]
    Forbidden { topic: String, reason: String },
    /// A batch of several messages was too large for the topic, and nobody knows which.
    #[error("a batch was too large for the topic")]
    BatchTooLarge,
    /// Something that waiting does not help.
    #[error("Kafka refuses: {0}")]
    Refused(String),
}

impl KafkaError {
    /// Whether trying again later is right.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Away(_) | Self::BatchTooLarge)
    }

    /// What a code says about a topic, or about a message sent to it.
    pub(super) fn of_topic(code: Code, topic: &str) -> Self {
        match code {
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => Self::NoTopic(topic.to_owned()),
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed | Code::InvalidTopic | Code::PolicyViolation => {
                Self::Forbidden { topic: topic.to_owned(), reason: code.to_string() }
            }
            Code::InvalidRecord | Code::UnsupportedForMessageFormat => Self::Refused(code.to_string()),
            _ => Self::Away(format!("{code} ({code:?})")),
        }
    }
}

impl From<native::KafkaError> for KafkaError {
    fn from(error: native::KafkaError) -> Self {
        match error {
            native::KafkaError::ClientConfig(_, reason, name, value) => {
                // A property's value may be a password.
                let _ = value;
                let hint = if reason.contains("not available") || reason.contains("No such configuration property") {
                    "; SASL and TLS need a build with `--features tls`"
                } else {
                    ""
                };
                Self::Refused(format!("kafka.properties.{name}: {reason}{hint}"))
            }
            native::KafkaError::ClientCreation(reason) => Self::Refused(format!("kafka.properties: {reason}")),
            error => Self::Away(error.to_string()),
        }
    }
}
