//! How a job ends.

use crate::{sink::kafka::KafkaError, source::SourceError};

/// What a job depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dependency {
    /// The store that it reads.
    Source,
    /// The topic that it writes to.
    Topic,
}

/// How a job ended, when nobody took it away.
#[derive(Debug)]
pub enum Outcome {
    /// Every row is acknowledged or held back.
    Done,
    /// It was asked to stop, and everything sent is acknowledged.
    Stopped,
    /// It was asked to wait no longer. What was not sent is dropped; nothing more is sent.
    Abandoned {
        /// Rows that may have been sent without an answer, at the most. They alone may still arrive.
        unanswered: u64,
    },
    /// Something is away; trying again later is right.
    Outage { part: Dependency, reason: String },
    /// An error of a kind that nobody knows; trying again a few times is right.
    Unknown { reason: String },
    /// Waiting does not help.
    Failed(String),
}

impl Outcome {
    fn of(part: Dependency, is_unknown: bool, is_outage: bool, reason: String) -> Self {
        if is_unknown {
            Self::Unknown { reason }
        } else if is_outage {
            Self::Outage { part, reason }
        } else {
            Self::Failed(reason)
        }
    }
}

impl From<SourceError> for Outcome {
    fn from(error: SourceError) -> Self {
        Self::of(Dependency::Source, error.is_unknown(), error.is_retryable(), error.to_string())
    }
}

impl From<KafkaError> for Outcome {
    fn from(error: KafkaError) -> Self {
        Self::of(Dependency::Topic, error.is_unknown(), error.is_retryable(), error.to_string())
    }
}
