//! Why a message was refused, and how to correct it.

use uuid::Uuid;

use crate::{Role, task::TaskId};

/// A refused message; it changed nothing. Each error text names the field and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("the message is not JSON ({0}); send one JSON object in a text frame")]
    NotJson(String),
    #[error("the message is a binary frame; send one JSON object in a text frame")]
    Binary,
    #[error(
        "the message has no known shape; to submit send src, token, thingId, devices, from, to (topic, requestId, reason and rate are optional), to attach send token, taskId (after is optional), to steer send token, taskId and one of cancel, pause, resume, retry: true or rate: a number"
    )]
    Shape,
    #[error("{field} is missing; {expected}")]
    Missing { field: &'static str, expected: &'static str },
    #[error("{field} is {found}; {expected}")]
    Invalid { field: String, found: String, expected: String },
    #[error("{0}")]
    UnknownField(String),
    #[error("{0} is given more than once; give it once")]
    RepeatedField(String),
    #[error(
        "requestId was used before, by task {task}, which differs in {}; send the same request again, or choose another requestId",
        fields.join(", ")
    )]
    RequestIdConflict { task: TaskId, fields: Vec<&'static str> },
    #[error("token is wrong; it is the one that the service was started with, or one of its named tokens")]
    WrongToken,
    #[error("the token {token} has the role {role}, which may not {action}; use a token with the role {needed}")]
    Forbidden {
        /// The name of the token.
        token: String,
        role: Role,
        /// What was asked for: `submit tasks`.
        action: &'static str,
        /// The least role that may do it.
        needed: Role,
    },
    #[error("taskId {0} is unknown; it was never created here, or it finished longer ago than the retention of this service")]
    UnknownTask(TaskId),
    #[error("no instance {0} works on the queue (any more); GET /service lists those that do")]
    UnknownInstance(Uuid),
    #[error("task {0} is not finished yet; retry it once it is, or cancel it first")]
    NotFinished(TaskId),
    #[error("task {0} has no failed or cancelled device; there is nothing to retry")]
    NothingToRetry(TaskId),
    #[error("after is {after}, but the log of task {task} ends at {last}; send the seq of the last log entry that you have")]
    AfterTheEnd { task: TaskId, after: u64, last: u64 },
    #[error("{0} already run here, as many as may at once; send the request again when one of them is done")]
    Busy(&'static str),
    #[error("the service is shutting down and accepts no new work; send the request again in a moment")]
    ShuttingDown,
    #[error("the queue is unavailable ({0}) and nothing was stored; send the request again in a moment")]
    QueueUnavailable(String),
    #[error("{0}; nothing was changed, send the request again in a moment")]
    SourceUnavailable(String),
}

impl RequestError {
    /// The error code for programs; sent as `payload.code`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotJson(_) => "not_json",
            Self::Binary => "binary_frame",
            Self::Shape => "unknown_shape",
            Self::Missing { .. } => "missing_field",
            Self::Invalid { .. } => "invalid_field",
            Self::UnknownField(_) => "unknown_field",
            Self::RepeatedField(_) => "repeated_field",
            Self::RequestIdConflict { .. } => "request_id_conflict",
            Self::WrongToken => "wrong_token",
            Self::Forbidden { .. } => "forbidden",
            Self::UnknownTask(_) => "unknown_task",
            Self::UnknownInstance(_) => "unknown_instance",
            Self::NotFinished(_) => "not_finished",
            Self::NothingToRetry(_) => "nothing_to_retry",
            Self::AfterTheEnd { .. } => "after_beyond_end",
            Self::Busy(_) => "busy",
            Self::ShuttingDown => "shutting_down",
            Self::QueueUnavailable(_) => "queue_unavailable",
            Self::SourceUnavailable(_) => "source_unavailable",
        }
    }
}
