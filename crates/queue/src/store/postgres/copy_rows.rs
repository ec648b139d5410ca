//! The rows of a copy. They are written as JSON: a page is one value, whatever its columns.

use sqlx::{Result, Row, postgres::PgRow};
use uuid::Uuid;

use super::rows::{parsed, stored_time, time};
use crate::{
    store::copy::{JobRecord, LogEntryRecord, QuarantinedRecord, Record, Table, TaskRecord},
    task::TaskState,
};

pub const INSERT_TASKS: &str =
    "INSERT INTO task (id, request_id, thing_id, topic, range_from, range_to, state, served_seq, last_seq, created_at,
         finished_at, cancel_requested_at, paused_at, rate, reason, retry_of, requester, requester_address, totals)
     SELECT id, request_id, thing_id, topic, range_from, range_to, state, served_seq, last_seq, created_at,
         finished_at, cancel_requested_at, paused_at, rate, reason, retry_of, requester, requester_address, totals
     FROM json_to_recordset($1::json) AS new (id uuid, request_id text, thing_id uuid, topic text, range_from text,
         range_to text, state text, served_seq bigint, last_seq bigint, created_at bigint, finished_at bigint,
         cancel_requested_at bigint, paused_at bigint, rate bigint, reason text, retry_of uuid, requester text,
         requester_address text, totals text)";

pub const INSERT_JOBS: &str =
    "INSERT INTO job (task_id, ordinal, device_id, device_name, state, attempt, owner, due_at, outages, crashes,
         suspected, waiting, total, published, quarantined, cursor_time, cursor_key, cursor_layout, unanswered,
         rows_per_second, delivered, reason)
     SELECT task_id, ordinal, device_id, device_name, state, attempt, owner, $2 + due_in_ms, outages, crashes,
         suspected, waiting, total, published, quarantined, cursor_time, cursor_key, cursor_layout, unanswered,
         rows_per_second, delivered, reason
     FROM json_to_recordset($1::json) AS new (task_id uuid, ordinal integer, device_id uuid, device_name text, state text,
         attempt bigint, owner text, due_in_ms bigint, outages bigint, crashes bigint, suspected bigint, waiting boolean,
         total bigint, published bigint, quarantined bigint, cursor_time bigint, cursor_key text,
         cursor_layout text, unanswered bigint, rows_per_second float8, delivered text, reason text)";

pub const INSERT_LOG_ENTRIES: &str = "INSERT INTO event (task_id, seq, at, ok, kind, body, final_state)
     SELECT task_id, seq, at, ok, kind, body, final_state
     FROM json_to_recordset($1::json) AS new (task_id uuid, seq bigint, at bigint, ok boolean, kind text, body text,
         final_state text)";

pub const INSERT_QUARANTINED: &str = "INSERT INTO quarantine (task_id, device_id, row_time, row_key, reason, quarantined_at)
     SELECT task_id, device_id, row_time, row_key, reason, quarantined_at
     FROM json_to_recordset($1::json) AS new (task_id uuid, device_id uuid, row_time bigint, row_key text, reason text,
         quarantined_at bigint)";

/// Reads a row of a table. `now_ms` is the time that its due time is relative to. An error names the
/// task.
pub fn record(table: Table, row: &PgRow, now_ms: i64) -> Result<Record> {
    let read = match table {
        Table::Tasks => task_record(row).map(|task| Record::Task(Box::new(task))),
        Table::Jobs => job_record(row, now_ms).map(|job| Record::Job(Box::new(job))),
        Table::LogEntries => log_entry_record(row).map(Record::LogEntry),
        Table::Quarantined => quarantined_record(row).map(Record::Quarantined),
    };
    read.map_err(|error| {
        let task = row.try_get::<Uuid, _>(if table == Table::Tasks { "id" } else { "task_id" }).unwrap_or_default();
        sqlx::Error::ColumnDecode { index: format!("a row of task {task}"), source: error.into() }
    })
}

fn task_record(row: &PgRow) -> Result<TaskRecord> {
    Ok(TaskRecord {
        id: row.try_get("id")?,
        request_id: row.try_get("request_id")?,
        thing_id: row.try_get("thing_id")?,
        topic: row.try_get("topic")?,
        range_from: stored_time(time(row, "range_from")?),
        range_to: stored_time(time(row, "range_to")?),
        state: parsed::<TaskState>(row, "state")?.as_str().to_owned(),
        served_seq: row.try_get("served_seq")?,
        last_seq: row.try_get("last_seq")?,
        created_at: row.try_get("created_at")?,
        finished_at: row.try_get("finished_at")?,
        cancel_requested_at: row.try_get("cancel_requested_at")?,
        paused_at: row.try_get("paused_at")?,
        rate: row.try_get("rate")?,
        reason: row.try_get("reason")?,
        retry_of: row.try_get("retry_of")?,
        requester: row.try_get("requester")?,
        requester_address: row.try_get("requester_address")?,
        totals: row.try_get("totals")?,
    })
}

fn job_record(row: &PgRow, now_ms: i64) -> Result<JobRecord> {
    Ok(JobRecord {
        task_id: row.try_get("task_id")?,
        ordinal: row.try_get::<i32, _>("ordinal")?.into(),
        device_id: row.try_get("device_id")?,
        device_name: row.try_get("device_name")?,
        state: parsed(row, "state")?,
        attempt: row.try_get("attempt")?,
        owner: row.try_get("owner")?,
        due_in_ms: row.try_get::<Option<i64>, _>("due_at")?.map(|due_at| due_at.saturating_sub(now_ms)),
        outages: row.try_get("outages")?,
        crashes: row.try_get("crashes")?,
        suspected: row.try_get("suspected")?,
        waiting: row.try_get("waiting")?,
        total: row.try_get("total")?,
        published: row.try_get("published")?,
        quarantined: row.try_get("quarantined")?,
        cursor_time: row.try_get("cursor_time")?,
        cursor_key: row.try_get("cursor_key")?,
        cursor_layout: row.try_get("cursor_layout")?,
        unanswered: row.try_get("unanswered")?,
        // A number that JSON has, as do all that the service writes.
        rows_per_second: row.try_get::<Option<f64>, _>("rows_per_second")?.filter(|speed| speed.is_finite()),
        delivered: row.try_get("delivered")?,
        reason: row.try_get("reason")?,
    })
}

fn log_entry_record(row: &PgRow) -> Result<LogEntryRecord> {
    Ok(LogEntryRecord {
        task_id: row.try_get("task_id")?,
        seq: row.try_get("seq")?,
        at: row.try_get("at")?,
        ok: row.try_get("ok")?,
        kind: row.try_get("kind")?,
        body: row.try_get("body")?,
        final_state: row.try_get("final_state")?,
    })
}

fn quarantined_record(row: &PgRow) -> Result<QuarantinedRecord> {
    Ok(QuarantinedRecord {
        task_id: row.try_get("task_id")?,
        device_id: row.try_get("device_id")?,
        row_time: row.try_get("row_time")?,
        row_key: row.try_get("row_key")?,
        reason: row.try_get("reason")?,
        quarantined_at: row.try_get("quarantined_at")?,
    })
}
