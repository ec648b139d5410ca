//! Whole tables, for a copy of the queue.

use chrono::SecondsFormat;
use rusqlite::Row;
use sea_query::{Expr, Order, Query};

use super::{
    Result, Statement, decode_error, optional_uuid, state,
    statement::{Sql, Value, build_sql, by_index, param},
    timestamp, uuid,
};
use crate::{
    store::{
        copy::{JobRecord, LogEntryRecord, Place, QuarantinedRecord, Record, Table, TaskRecord},
        sqlite::schema::{Event, Job, Quarantine, Task, index},
    },
    task::{self as logged, TaskState},
};

const TASK_COLUMNS: [Task; 19] = [
    Task::Id,
    Task::RequestId,
    Task::ThingId,
    Task::Topic,
    Task::RangeFrom,
    Task::RangeTo,
    Task::State,
    Task::ServedSeq,
    Task::LastSeq,
    Task::CreatedAt,
    Task::FinishedAt,
    Task::CancelRequestedAt,
    Task::PausedAt,
    Task::Rate,
    Task::Reason,
    Task::RetryOf,
    Task::Requester,
    Task::RequesterAddress,
    Task::Totals,
];

const JOB_COLUMNS: [Job; 22] = [
    Job::TaskId,
    Job::Ordinal,
    Job::DeviceId,
    Job::DeviceName,
    Job::State,
    Job::Attempt,
    Job::Owner,
    Job::DueAt,
    Job::Outages,
    Job::Crashes,
    Job::Suspected,
    Job::Waiting,
    Job::Total,
    Job::Published,
    Job::Quarantined,
    Job::CursorTime,
    Job::CursorKey,
    Job::CursorLayout,
    Job::Unanswered,
    Job::RowsPerSecond,
    Job::Delivered,
    Job::Reason,
];

const EVENT_COLUMNS: [Event; 7] = [Event::TaskId, Event::Seq, Event::At, Event::Ok, Event::Kind, Event::Body, Event::FinalState];

const QUARANTINE_COLUMNS: [Quarantine; 6] = [
    Quarantine::TaskId,
    Quarantine::DeviceId,
    Quarantine::RowTime,
    Quarantine::RowKey,
    Quarantine::Reason,
    Quarantine::QuarantinedAt,
];

/// The number of rows of a table.
pub fn count_rows(table: Table) -> Statement<'static> {
    fn count(table: impl sea_query::IntoTableRef) -> String {
        build_sql(Query::select().expr(Expr::cust("count(*)")).from(table))
    }
    static TASKS: Sql = Sql::new(|| by_index(&count(Task::Table), r#"FROM "task""#, index::TASK_ID));
    static JOBS: Sql = Sql::new(|| by_index(&count(Job::Table), r#"FROM "job""#, index::JOB_TASK));
    static EVENTS: Sql = Sql::new(|| count(Event::Table));
    static QUARANTINED: Sql = Sql::new(|| count(Quarantine::Table));
    let text = match table {
        Table::Tasks => &TASKS,
        Table::Jobs => &JOBS,
        Table::LogEntries => &EVENTS,
        Table::Quarantined => &QUARANTINED,
    };
    Statement::new(text, [])
}

/// The rows of a table after a place, in the order of their primary keys, or of tasks and ordinals.
pub fn rows_after(table: Table, after: &Place, limit: u32) -> Statement<'static> {
    static TASKS: Sql = Sql::new(|| {
        let select = Query::select().columns(TASK_COLUMNS).from(Task::Table).and_where(after_place("\"id\" > ?", 1)).take();
        by_index(&build_sql(&select.clone().order_by(Task::Id, Order::Asc).limit(0).take()), r#"FROM "task""#, index::TASK_ID)
    });
    static JOBS: Sql = Sql::new(|| {
        let place = after_place("(\"task_id\", \"ordinal\") > (?, ?)", 2);
        let mut select = Query::select().columns(JOB_COLUMNS).from(Job::Table).and_where(place).take();
        let select = select.order_by(Job::TaskId, Order::Asc).order_by(Job::Ordinal, Order::Asc).limit(0);
        by_index(&build_sql(select), r#"FROM "job""#, index::JOB_TASK)
    });
    static EVENTS: Sql = Sql::new(|| {
        let place = after_place("(\"task_id\", \"seq\") > (?, ?)", 2);
        let mut select = Query::select().columns(EVENT_COLUMNS).from(Event::Table).and_where(place).take();
        build_sql(select.order_by(Event::TaskId, Order::Asc).order_by(Event::Seq, Order::Asc).limit(0))
    });
    static QUARANTINED: Sql = Sql::new(|| {
        let place = after_place("(\"task_id\", \"device_id\", \"row_time\", \"row_key\") > (?, ?, ?, ?)", 4);
        let mut select = Query::select().columns(QUARANTINE_COLUMNS).from(Quarantine::Table).and_where(place).take();
        let key = [Quarantine::TaskId, Quarantine::DeviceId, Quarantine::RowTime, Quarantine::RowKey];
        build_sql(key.into_iter().fold(&mut select, |select, column| select.order_by(column, Order::Asc)).limit(0))
    });
    let Place { task, device, number, key } = after;
    let (task, number, limit) = (Value::from(*task), Value::from(*number), Value::from(limit));
    match table {
        Table::Tasks => Statement::new(&TASKS, [task, limit]),
        Table::Jobs => Statement::new(&JOBS, [task, number, limit]),
        Table::LogEntries => Statement::new(&EVENTS, [task, number, limit]),
        Table::Quarantined => Statement::new(&QUARANTINED, [task, (*device).into(), number, key.clone().into(), limit]),
    }
}

/// A condition with so many bound values.
fn after_place(condition: &'static str, values: usize) -> Expr {
    Expr::cust_with_exprs(condition, (0..values).map(|_| param()))
}

/// Inserts a row. `now_ms` is the time that its due time is relative to.
pub fn insert_record(record: &Record, now_ms: i64) -> Statement<'_> {
    match record {
        Record::Task(task) => insert_task_record(task),
        Record::Job(job) => insert_job_record(job, now_ms),
        Record::LogEntry(entry) => insert_log_entry_record(entry),
        Record::Quarantined(row) => insert_quarantined_record(row),
    }
}

fn insert_task_record(task: &TaskRecord) -> Statement<'_> {
    static TEXT: Sql = Sql::new(|| {
        let values = TASK_COLUMNS.map(|_| param());
        build_sql(Query::insert().into_table(Task::Table).columns(TASK_COLUMNS).values_panic(values))
    });
    let values = [
        task.id.into(),
        task.request_id.as_deref().into(),
        task.thing_id.into(),
        task.topic.as_str().into(),
        task.range_from.as_str().into(),
        task.range_to.as_str().into(),
        task.state.as_str().into(),
        task.served_seq.into(),
        task.last_seq.into(),
        task.created_at.into(),
        task.finished_at.into(),
        task.cancel_requested_at.into(),
        task.paused_at.into(),
        task.rate.into(),
        task.reason.as_deref().into(),
        task.retry_of.into(),
        task.requester.as_deref().into(),
        task.requester_address.as_deref().into(),
        task.totals.as_deref().into(),
    ];
    Statement::new(&TEXT, values)
}

fn insert_job_record(job: &JobRecord, now_ms: i64) -> Statement<'_> {
    static TEXT: Sql = Sql::new(|| {
        let values = JOB_COLUMNS.map(|_| param());
        build_sql(Query::insert().into_table(Job::Table).columns(JOB_COLUMNS).values_panic(values))
    });
    let values = [
        job.task_id.into(),
        job.ordinal.into(),
        job.device_id.into(),
        job.device_name.as_deref().into(),
        job.state.into(),
        job.attempt.into(),
        job.owner.as_deref().into(),
        job.due_in_ms.map(|due_in_ms| now_ms.saturating_add(due_in_ms)).into(),
        job.outages.into(),
        job.crashes.into(),
        job.suspected.into(),
        job.waiting.into(),
        job.total.into(),
        job.published.into(),
        job.quarantined.into(),
        job.cursor_time.into(),
        job.cursor_key.as_deref().into(),
        job.cursor_layout.as_deref().into(),
        job.unanswered.into(),
        job.rows_per_second.into(),
        job.delivered.as_deref().into(),
        job.reason.as_deref().into(),
    ];
    Statement::new(&TEXT, values)
}

fn insert_log_entry_record(entry: &LogEntryRecord) -> Statement<'_> {
    static TEXT: Sql = Sql::new(|| {
        let values = EVENT_COLUMNS.map(|_| param());
        build_sql(Query::insert().into_table(Event::Table).columns(EVENT_COLUMNS).values_panic(values))
    });
    let values = [
        entry.task_id.into(),
        entry.seq.into(),
        entry.at.into(),
        entry.ok.into(),
        entry.kind.as_str().into(),
        entry.body.as_str().into(),
        entry.final_state.as_deref().into(),
    ];
    Statement::new(&TEXT, values)
}

fn insert_quarantined_record(row: &QuarantinedRecord) -> Statement<'_> {
    static TEXT: Sql = Sql::new(|| {
        let values = QUARANTINE_COLUMNS.map(|_| param());
        build_sql(Query::insert().into_table(Quarantine::Table).columns(QUARANTINE_COLUMNS).values_panic(values))
    });
    let values = [
        row.task_id.into(),
        row.device_id.into(),
        row.row_time.into(),
        row.row_key.as_str().into(),
        row.reason.as_str().into(),
        row.quarantined_at.into(),
    ];
    Statement::new(&TEXT, values)
}

/// Reads a row of a table. An error names the task.
pub fn read_record(table: Table, row: &Row<'_>, now_ms: i64) -> Result<Record> {
    let read = match table {
        Table::Tasks => task_record(row).map(|task| Record::Task(Box::new(task))),
        Table::Jobs => job_record(row, now_ms).map(|job| Record::Job(Box::new(job))),
        Table::LogEntries => log_entry_record(row).map(Record::LogEntry),
        Table::Quarantined => quarantined_record(row).map(Record::Quarantined),
    };
    read.map_err(|error| {
        let task: Result<String> = row.get(0);
        decode_error(&format!("a row of task {}", task.as_deref().unwrap_or("?")), error)
    })
}

fn task_record(row: &Row<'_>) -> Result<TaskRecord> {
    let time = |column| timestamp(row, column).map(|time| time.to_rfc3339_opts(SecondsFormat::Nanos, true));
    Ok(TaskRecord {
        id: uuid(row, "id")?,
        request_id: row.get("request_id")?,
        thing_id: uuid(row, "thing_id")?,
        topic: row.get("topic")?,
        range_from: time("range_from")?,
        range_to: time("range_to")?,
        state: state::<TaskState>(row, "state")?.as_str().to_owned(),
        served_seq: row.get("served_seq")?,
        last_seq: row.get("last_seq")?,
        created_at: row.get("created_at")?,
        finished_at: row.get("finished_at")?,
        cancel_requested_at: row.get("cancel_requested_at")?,
        paused_at: row.get("paused_at")?,
        rate: row.get("rate")?,
        reason: row.get("reason")?,
        retry_of: optional_uuid(row, "retry_of")?,
        requester: row.get("requester")?,
        requester_address: row.get("requester_address")?,
        totals: row.get("totals")?,
    })
}

fn job_record(row: &Row<'_>, now_ms: i64) -> Result<JobRecord> {
    Ok(JobRecord {
        task_id: uuid(row, "task_id")?,
        ordinal: row.get("ordinal")?,
        device_id: uuid(row, "device_id")?,
        device_name: row.get("device_name")?,
        state: state(row, "state")?,
        attempt: row.get("attempt")?,
        owner: row.get("owner")?,
        due_in_ms: row.get::<_, Option<i64>>("due_at")?.map(|due_at| due_at.saturating_sub(now_ms)),
        outages: row.get("outages")?,
        crashes: row.get("crashes")?,
        suspected: row.get("suspected")?,
        waiting: row.get::<_, i64>("waiting")? != 0,
        total: row.get("total")?,
        published: row.get("published")?,
        quarantined: row.get("quarantined")?,
        cursor_time: row.get("cursor_time")?,
        cursor_key: row.get("cursor_key")?,
        cursor_layout: row.get("cursor_layout")?,
        unanswered: row.get("unanswered")?,
        rows_per_second: row.get("rows_per_second")?,
        delivered: row.get("delivered")?,
        reason: row.get("reason")?,
    })
}

/// An entry of a version that stored texts becomes an event, as it is read everywhere.
fn log_entry_record(row: &Row<'_>) -> Result<LogEntryRecord> {
    let (ok, body) = (row.get::<_, i64>("ok")? != 0, row.get::<_, String>("body")?);
    let (kind, body) = if let Some(kind) = row.get::<_, Option<String>>("kind")? {
        (kind, body)
    } else {
        let event = logged::Event::Text { text: body, is_error: !ok };
        (event.kind().to_owned(), serde_json::to_string(&event).map_err(|error| decode_error("body", error))?)
    };
    Ok(LogEntryRecord {
        task_id: uuid(row, "task_id")?,
        seq: row.get("seq")?,
        at: row.get("at")?,
        ok,
        kind,
        body,
        final_state: row.get("final_state")?,
    })
}

fn quarantined_record(row: &Row<'_>) -> Result<QuarantinedRecord> {
    Ok(QuarantinedRecord {
        task_id: uuid(row, "task_id")?,
        device_id: uuid(row, "device_id")?,
        row_time: row.get("row_time")?,
        row_key: row.get("row_key")?,
        reason: row.get("reason")?,
        quarantined_at: row.get("quarantined_at")?,
    })
}
