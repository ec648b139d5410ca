//! The outcomes of a job.

use crate::{sink::kafka::KafkaError, source::SourceError};

/// An external dependency of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dependency {
    /// The database that it reads.
    Source,
    /// The Kafka topic that it writes to.
    Topic,
}

/// The outcome of a job whose lease was valid to the end.
#[derive(Debug)]
pub enum Outcome {
    /// Every row is acknowledged or quarantined.
    Done,
    /// The job was asked to stop, and every row it sent is acknowledged.
    Stopped,
    /// The job was aborted. Rows that were not sent are dropped, and no more are sent.
    Abandoned {
        /// The most rows that were sent without an acknowledgement. Only these may still arrive.
        unanswered: u64,
    },
    /// A dependency is unavailable. Retryable.
    Outage { dependency: Dependency, reason: String },
    /// An error of an unknown kind. Retried a limited number of times.
    Unknown { reason: String },
    /// An error that a retry does not fix.
    Failed(String),
}

impl Outcome {
    fn from_error(dependency: Dependency, is_unknown: bool, is_retryable: bool, reason: String) -> Self {
        if is_unknown {
            Self::Unknown { reason }
        } else if is_retryable {
            Self::Outage { dependency, reason }
        } else {
            Self::Failed(reason)
        }
    }
}

impl From<SourceError> for Outcome {
    fn from(error: SourceError) -> Self {
        Self::from_error(Dependency::Source, error.is_unknown(), error.is_retryable(), error.to_string())
    }
}

impl From<KafkaError> for Outcome {
    fn from(error: KafkaError) -> Self {
        Self::from_error(Dependency::Topic, error.is_unknown(), error.is_retryable(), error.to_string())
    }
}
