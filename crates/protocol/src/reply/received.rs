//! The service's messages, as a client reads them.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::task::{Event, TaskId, TaskState};

/// A message of the service.
///
/// ```
/// # use data_patch_protocol::{reply::Reply, task::TaskState};
/// let text = r#"{"type":"data-patch","erorr":null,"res":"ok","payload":
///     {"taskId":"9d9d14b3-cf77-4cba-934b-faeaf2d153ba","msg":"task attached.","state":"running"}}"#;
/// let Ok(Reply::Attached { state, .. }) = Reply::parse(text) else { panic!("another message") };
/// assert_eq!(state, TaskState::Running);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The task is stored; its log follows.
    Created(TaskId),
    /// The task exists; its log follows.
    Attached { task: TaskId, state: TaskState },
    /// The task is cancelled, or had already finished.
    Steered { task: TaskId, state: TaskState, already_finished: bool },
    /// Nothing was done.
    Refused { code: String, text: String },
    /// An entry of a task's log.
    Log(LogLine),
}

/// An entry of a task's log, as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub task: TaskId,
    /// 1, 2, 3 … in each task.
    pub seq: u64,
    pub time: DateTime<Utc>,
    /// What people read.
    pub text: String,
    /// What programs read. A kind that this version does not know becomes [`Event::Text`].
    pub event: Event,
    /// On the last entry only: how the task ended.
    pub state: Option<TaskState>,
}

/// Why a text is no message of the service.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    #[error("the message is not the JSON that the service sends: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the message has no known shape")]
    Shape,
}

#[derive(Deserialize)]
struct Envelope {
    res: String,
    payload: Payload,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    task_id: Option<TaskId>,
    msg: Option<String>,
    ex: Option<String>,
    code: Option<String>,
    seq: Option<u64>,
    time: Option<DateTime<Utc>>,
    event: Option<serde_json::Value>,
    state: Option<TaskState>,
}

impl Reply {
    /// Reads one text frame.
    ///
    /// # Errors
    /// The text is not JSON, or no message of the service.
    pub fn parse(text: &str) -> Result<Self, ReplyError> {
        let Envelope { res, payload } = serde_json::from_str(text)?;
        let Payload { task_id, msg, ex, code, seq, time, event, state } = payload;
        let Some(task) = task_id else {
            let text = ex.ok_or(ReplyError::Shape)?;
            return Ok(Self::Refused { code: code.unwrap_or_default(), text });
        };
        let text = msg.ok_or(ReplyError::Shape)?;
        if let (Some(seq), Some(time)) = (seq, time) {
            let known = event.and_then(|event| serde_json::from_value(event).ok());
            let event = known.unwrap_or_else(|| Event::Text { text: text.clone(), is_error: res != "ok" });
            return Ok(Self::Log(LogLine { task, seq, time, text, event, state }));
        }
        match (text.as_str(), state) {
            (super::CREATED, _) => Ok(Self::Created(task)),
            (super::ATTACHED, Some(state)) => Ok(Self::Attached { task, state }),
            (super::CANCELLED | super::PAUSED | super::RESUMED | super::RATE_CHANGED, Some(state)) => {
                Ok(Self::Steered { task, state, already_finished: false })
            }
            (super::ALREADY_FINISHED, Some(state)) => Ok(Self::Steered { task, state, already_finished: true }),
            _ => Err(ReplyError::Shape),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{RequestError, Steering, reply, task::LogEntry};

    #[test]
    fn what_is_sent_is_read_back() {
        let task = TaskId(Uuid::from_u128(7));
        for (text, expected) in [
            (reply::created(task), Reply::Created(task)),
            (reply::attached(task, TaskState::Queued), Reply::Attached { task, state: TaskState::Queued }),
            (
                reply::steered(task, Steering::Pause, TaskState::Running, false),
                Reply::Steered { task, state: TaskState::Running, already_finished: false },
            ),
            (
                reply::steered(task, Steering::Cancel, TaskState::Failed, true),
                Reply::Steered { task, state: TaskState::Failed, already_finished: true },
            ),
            (
                reply::refused(&RequestError::WrongToken),
                Reply::Refused { code: "wrong_token".to_owned(), text: RequestError::WrongToken.to_string() },
            ),
        ] {
            assert_eq!(Reply::parse(&text).unwrap(), expected, "{text}");
        }
        let event = Event::Published { device: Uuid::from_u128(8), published: 1, total: 2 };
        let entry = LogEntry { task, seq: 3, at_ms: 1_547_211_780_005, event, final_state: Some(TaskState::Cancelled) };
        let Reply::Log(line) = Reply::parse(&reply::log(&entry)).unwrap() else { panic!("no log") };
        assert_eq!((line.task, line.seq, line.time.timestamp_millis()), (task, 3, entry.at_ms));
        assert_eq!((line.text, line.event, line.state), (entry.event.to_string(), entry.event, entry.final_state));
    }

    #[test]
    fn an_event_of_a_newer_service_is_its_text() {
        let text = r#"{"type":"theme-data","erorr":"error message: odd","res":"error","payload":{"msg":"odd","ex":"odd",
            "taskId":"9d9d14b3-cf77-4cba-934b-faeaf2d153ba","seq":7,"time":"2019-01-11T13:03:00.005Z","event":{"kind":"of tomorrow"}}}"#;
        let Reply::Log(line) = Reply::parse(text).unwrap() else { panic!("no log") };
        assert_eq!(line.event, Event::Text { text: "odd".to_owned(), is_error: true });
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for text in ["", "[]", "{}", r#"{"res":"ok","payload":{}}"#, r#"{"res":"ok","payload":{"msg":"task attached."}}"#] {
            assert!(Reply::parse(text).is_err(), "{text}");
        }
    }
}
