//! Messages to clients, with the field names and the spelling of the contract.

mod received;

use chrono::{DateTime, SecondsFormat};
use serde::Serialize;

pub use received::{LogLine, Reply, ReplyError};

use super::{RequestError, Steering};
use crate::task::{Event, LogEntry, TaskId, TaskState};

/// The `type` of answers to requests. All other messages have [`LOG`]. Both values are part of the
/// contract.
const ANSWER: &str = "data-patch";
const LOG: &str = "theme-data";

/// What answers say.
const CREATED: &str = "task created.";
const ATTACHED: &str = "task attached.";
const CANCELLED: &str = "task cancelled.";
const PAUSED: &str = "task paused.";
const RESUMED: &str = "task resumed.";
const RATE_CHANGED: &str = "task rate changed.";
const ALREADY_FINISHED: &str = "task had ended.";

#[derive(Serialize)]
struct Envelope<'a, P> {
    r#type: &'a str,
    /// The contract's spelling.
    erorr: Option<String>,
    res: &'a str,
    payload: P,
}

fn envelope<P: Serialize>(r#type: &str, error: Option<&str>, payload: P) -> String {
    let erorr = error.map(|error| format!("error message: {error}"));
    let res = if error.is_some() { "error" } else { "ok" };
    // Serializing plain structs of strings and numbers to memory cannot fail.
    serde_json::to_string(&Envelope { r#type, erorr, res, payload }).unwrap_or_default()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    task_id: TaskId,
    msg: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<TaskState>,
}

/// Answers a submission: the task is durably stored.
pub fn created(task_id: TaskId) -> String {
    envelope(ANSWER, None, Answer { task_id, msg: CREATED, state: None })
}

/// Answers an attachment. The entries of the task's log follow.
pub fn attached(task_id: TaskId, state: TaskState) -> String {
    envelope(ANSWER, None, Answer { task_id, msg: ATTACHED, state: Some(state) })
}

/// Answers a message that steers a task; `already_finished` if the task had ended before, so that
/// nothing was changed.
pub fn steered(task_id: TaskId, steering: Steering, state: TaskState, already_finished: bool) -> String {
    let msg = match steering {
        _ if already_finished => ALREADY_FINISHED,
        Steering::Cancel => CANCELLED,
        Steering::Pause => PAUSED,
        Steering::Resume => RESUMED,
        Steering::Rate(_) => RATE_CHANGED,
        Steering::Retry => CREATED,
    };
    envelope(ANSWER, None, Answer { task_id, msg, state: Some(state) })
}

/// Answers a refused message. Nothing was done.
pub fn refused(error: &RequestError) -> String {
    #[derive(Serialize)]
    struct Payload<'a> {
        ex: &'a str,
        code: &'static str,
    }
    let text = error.to_string();
    envelope(LOG, Some(&text), Payload { ex: &text, code: error.code() })
}

/// One entry of a task's log.
pub fn log(entry: &LogEntry) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Payload<'a> {
        msg: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        ex: Option<&'a str>,
        task_id: TaskId,
        seq: u64,
        time: String,
        event: &'a Event,
        #[serde(skip_serializing_if = "Option::is_none")]
        state: Option<TaskState>,
    }
    let text = entry.event.to_string();
    let error = entry.event.is_error().then_some(text.as_str());
    let time = DateTime::from_timestamp_millis(entry.at_ms).unwrap_or_default();
    envelope(
        LOG,
        error,
        Payload {
            msg: &text,
            ex: error,
            task_id: entry.task,
            seq: entry.seq,
            time: time.to_rfc3339_opts(SecondsFormat::Millis, true),
            event: &entry.event,
            state: entry.final_state,
        },
    )
}

#[cfg(test)]
mod tests {
    use uuid::uuid;

    use super::*;

    const DEVICE: uuid::Uuid = uuid!("b34299aa-625e-4404-a580-fde1d7cbc3e8");
    const TASK: TaskId = TaskId(uuid!("9d9d14b3-cf77-4cba-934b-faeaf2d153ba"));

    fn entry(event: Event, final_state: Option<TaskState>) -> LogEntry {
        LogEntry { task: TASK, seq: 7, at_ms: 1_547_211_780_005, event, final_state }
    }

    #[test]
    fn to_the_letter() {
        insta::assert_snapshot!(created(TASK), @r#"{"type":"data-patch","erorr":null,"res":"ok","payload":{"taskId":"9d9d14b3-cf77-4cba-934b-faeaf2d153ba","msg":"task created."}}"#);
        insta::assert_snapshot!(attached(TASK, TaskState::Running), @r#"{"type":"data-patch","erorr":null,"res":"ok","payload":{"taskId":"9d9d14b3-cf77-4cba-934b-faeaf2d153ba","msg":"task attached.","state":"running"}}"#);
        insta::assert_snapshot!(refused(&RequestError::WrongToken), @r#"{"type":"theme-data","erorr":"error message: token is wrong; it is the one that the service was started with, or one of its named tokens","res":"error","payload":{"ex":"token is wrong; it is the one that the service was started with, or one of its named tokens","code":"wrong_token"}}"#);
        insta::assert_snapshot!(log(&entry(Event::Published { device: DEVICE, published: 178, total: 178 }, None)), @r#"{"type":"theme-data","erorr":null,"res":"ok","payload":{"msg":"iota data published(178 / 178). device: b34299aa-625e-4404-a580-fde1d7cbc3e8","taskId":"9d9d14b3-cf77-4cba-934b-faeaf2d153ba","seq":7,"time":"2019-01-11T13:03:00.005Z","event":{"kind":"published","device":"b34299aa-625e-4404-a580-fde1d7cbc3e8","published":178,"total":178}}}"#);
        insta::assert_snapshot!(log(&entry(Event::Text { text: "task finished: no".to_owned(), is_error: true }, Some(TaskState::Failed))), @r#"{"type":"theme-data","erorr":"error message: task finished: no","res":"error","payload":{"msg":"task finished: no","ex":"task finished: no","taskId":"9d9d14b3-cf77-4cba-934b-faeaf2d153ba","seq":7,"time":"2019-01-11T13:03:00.005Z","event":{"kind":"text","text":"task finished: no","isError":true},"state":"failed"}}"#);
    }
}
