//! The columns of tasks, jobs and entries, and how their rows are read.

use std::{num::NonZeroU32, str::FromStr};

use chrono::{DateTime, SecondsFormat, Utc};
use sqlx::{Error, Result, Row, postgres::PgRow};
use uuid::Uuid;

use crate::{
    JobRow, Steering, TaskRow, TaskTotals,
    task::{
        Delivered, Event, Failure, JobCounts, JobState, LogEntry, Position, Progress, QuarantinedRow, Requester, TaskId,
        TaskState,
    },
};

/// The columns that [`task`] reads, of a table or alias `task`.
macro_rules! task_columns {
    () => {
        "task.id, task.request_id, task.thing_id, task.topic, task.range_from, task.range_to, task.state, task.last_seq, \
         task.created_at, task.finished_at, task.cancel_requested_at, task.paused_at, task.rate, task.reason, task.retry_of, \
         task.requester, task.requester_address"
    };
}
pub(super) use task_columns;

/// A number as the tables have it. The queue's numbers stay far below 2^63.
pub fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A time of a range, in the one form in which they are stored.
pub fn stored_time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Nanos, true)
}

/// PostgreSQL stores no NUL in texts. These are for people.
pub fn stored_text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn decode_error(column: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::ColumnDecode { index: column.to_owned(), source: Box::new(error) }
}

pub fn parsed<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(row: &PgRow, column: &str) -> Result<T> {
    row.try_get::<&str, _>(column)?.parse().map_err(|error| decode_error(column, error))
}

pub fn time(row: &PgRow, column: &str) -> Result<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(row.try_get(column)?).map_err(|error| decode_error(column, error))?;
    Ok(time.to_utc())
}

pub fn number<T: TryFrom<i64, Error: std::error::Error + Send + Sync + 'static>>(row: &PgRow, column: &str) -> Result<T> {
    row.try_get::<i64, _>(column)?.try_into().map_err(|error| decode_error(column, error))
}

pub fn optional_number(row: &PgRow, column: &str) -> Result<Option<u64>> {
    let number = row.try_get::<Option<i64>, _>(column)?;
    number.map(u64::try_from).transpose().map_err(|error| decode_error(column, error))
}

pub fn task_id(row: &PgRow) -> Result<TaskId> {
    row.try_get("id").map(TaskId)
}

fn rate(row: &PgRow) -> Result<Option<NonZeroU32>> {
    Ok(optional_number(row, "rate")?.and_then(positive))
}

fn positive(number: u64) -> Option<NonZeroU32> {
    NonZeroU32::new(number.try_into().unwrap_or(u32::MAX))
}

fn is_set(row: &PgRow, column: &str) -> Result<bool> {
    row.try_get::<Option<i64>, _>(column).map(|at| at.is_some())
}

pub fn task(row: &PgRow) -> Result<TaskRow> {
    Ok(TaskRow {
        id: task_id(row)?,
        thing: row.try_get("thing_id")?,
        topic: row.try_get("topic")?,
        from: time(row, "range_from")?,
        to: time(row, "range_to")?,
        state: parsed(row, "state")?,
        last_seq: number(row, "last_seq")?,
        created_at_ms: row.try_get("created_at")?,
        cancel_requested: is_set(row, "cancel_requested_at")?,
        is_paused: is_set(row, "paused_at")?,
        rate: rate(row)?,
        request_id: row.try_get("request_id")?,
        reason: row.try_get("reason")?,
        requester: match (row.try_get("requester")?, row.try_get("requester_address")?) {
            (Some(token), Some(address)) => Some(Requester { token, address }),
            _ => None,
        },
        retry_of: row.try_get::<Option<Uuid>, _>("retry_of")?.map(TaskId),
        finished_at_ms: row.try_get("finished_at")?,
    })
}

/// A task, and its totals unless it is unfinished.
pub fn task_with_totals(row: &PgRow) -> Result<(TaskRow, Option<TaskTotals>)> {
    let totals: Option<&str> = row.try_get("totals")?;
    Ok((task(row)?, totals.and_then(|totals| serde_json::from_str(totals).ok())))
}

pub fn steering(row: &PgRow) -> Result<Steering> {
    Ok(Steering {
        task: task_id(row)?,
        is_cancelled: is_set(row, "cancel_requested_at")?,
        is_paused: is_set(row, "paused_at")?,
        rate: rate(row)?,
        instances: optional_number(row, "instances")?.and_then(positive).unwrap_or(NonZeroU32::MIN),
    })
}

/// The totals of a task.
pub fn totals(row: &PgRow) -> Result<TaskTotals> {
    let jobs = JobCounts {
        queued: number(row, "queued")?,
        running: number(row, "running")?,
        succeeded: number(row, "succeeded")?,
        failed: number(row, "failed")?,
        cancelled: number(row, "cancelled")?,
    };
    Ok(TaskTotals {
        jobs,
        counted: number(row, "counted")?,
        counted_jobs: number(row, "counted_jobs")?,
        published: number(row, "published")?,
        quarantined: number(row, "quarantined")?,
        unanswered: number(row, "unanswered")?,
        empty: number(row, "empty")?,
        rows_per_second: row.try_get("rows_per_second")?,
    })
}

pub fn failure(row: &PgRow) -> Result<Failure> {
    let device: Uuid = row.try_get("device_id")?;
    Ok(Failure { device: device.to_string(), reason: row.try_get::<Option<String>, _>("reason")?.unwrap_or_default() })
}

/// What was stored of a job's work.
pub fn progress(row: &PgRow) -> Result<Progress> {
    let (time, key): (Option<i64>, Option<String>) = (row.try_get("cursor_time")?, row.try_get("cursor_key")?);
    Ok(Progress {
        position: time.zip(key).map(|(time_us, key)| Position { time_us, key: key.into() }),
        published: number(row, "published")?,
        quarantined: number(row, "quarantined")?,
        delivered: delivered(row)?,
    })
}

fn delivered(row: &PgRow) -> Result<Delivered> {
    match row.try_get::<Option<&str>, _>("delivered")? {
        Some(json) => serde_json::from_str(json).map_err(|error| decode_error("delivered", error)),
        None => Ok(Delivered::default()),
    }
}

/// A job as lists show it.
pub fn job(row: &PgRow) -> Result<JobRow> {
    let state: JobState = parsed(row, "state")?;
    Ok(JobRow {
        ordinal: row.try_get::<i32, _>("ordinal")?.try_into().map_err(|error| decode_error("ordinal", error))?,
        device: row.try_get("device_id")?,
        name: row.try_get("device_name")?,
        state,
        total: optional_number(row, "total")?,
        published: number(row, "published")?,
        quarantined: number(row, "quarantined")?,
        rows_per_second: row.try_get::<Option<f64>, _>("rows_per_second")?.filter(|_| state == JobState::Running),
        delivered: delivered(row)?,
        attempts: number(row, "attempt")?,
        outages: number(row, "outages")?,
        due_at_ms: row.try_get::<Option<i64>, _>("due_at")?.filter(|_| state == JobState::Queued),
        reason: row.try_get("reason")?,
    })
}

pub fn log_entry(task: TaskId, row: &PgRow) -> Result<LogEntry> {
    let body: &str = row.try_get("body")?;
    // An entry of a newer version may be of a kind that is unknown here.
    let event = match serde_json::from_str(body) {
        Ok(event) => event,
        Err(_) => Event::Text { text: body.to_owned(), is_error: !row.try_get::<bool, _>("ok")? },
    };
    let final_state = row.try_get::<Option<&str>, _>("final_state")?.map(str::parse::<TaskState>).transpose();
    let final_state = final_state.map_err(|error| decode_error("final_state", error))?;
    Ok(LogEntry { task, seq: number(row, "seq")?, at_ms: row.try_get("at")?, event, final_state })
}

pub fn quarantined(row: &PgRow) -> Result<(Uuid, QuarantinedRow)> {
    let position = Position { time_us: row.try_get("row_time")?, key: row.try_get::<String, _>("row_key")?.into() };
    Ok((row.try_get("device_id")?, QuarantinedRow { position, reason: row.try_get("reason")? }))
}
