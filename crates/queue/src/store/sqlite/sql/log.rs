//! The numbered log of a task, and its quarantined rows.

use rusqlite::{Row, types::ValueRef};
use sea_query::{Expr, ExprTrait, OnConflict, Order, Query};
use uuid::Uuid;

use super::{
    Result, Statement, state,
    statement::{Sql, build_sql, eq_param, param, set},
    uuid,
};
use crate::{
    store::sqlite::schema::{Event, Quarantine, Task},
    task::{self as logged, LogEntry, Position, QuarantinedRow, TaskId, TaskState},
};

/// The sequence number of the last entry.
pub fn last_seq(task: TaskId) -> Statement<'static> {
    static TEXT: Sql =
        Sql::new(|| build_sql(Query::select().column(Task::LastSeq).from(Task::Table).and_where(eq_param(Task::Id))));
    Statement::new(&TEXT, [task.into()])
}

/// Sets the length of a task's log.
pub fn advance_log(task: TaskId, last_seq: u64) -> Statement<'static> {
    static TEXT: Sql =
        Sql::new(|| build_sql(Query::update().table(Task::Table).values([set(Task::LastSeq)]).and_where(eq_param(Task::Id))));
    Statement::new(&TEXT, [last_seq.into(), task.into()])
}

/// Sets the final length of a task's log, and finishes the task.
pub fn end_log(task: TaskId, last_seq: u64, final_state: TaskState, now_ms: i64) -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        let columns = [Task::LastSeq, Task::State, Task::FinishedAt];
        build_sql(Query::update().table(Task::Table).values(columns.map(set)).and_where(eq_param(Task::Id)))
    });
    Statement::new(&TEXT, [last_seq.into(), final_state.into(), now_ms.into(), task.into()])
}

pub fn read_last_seq(row: &Row<'_>) -> Result<u64> {
    row.get("last_seq")
}

/// # Errors
/// The event cannot be encoded as JSON.
pub fn insert_log_entry(entry: &LogEntry) -> Result<Statement<'_>> {
    static TEXT: Sql = Sql::new(|| {
        let columns = [Event::TaskId, Event::Seq, Event::At, Event::Ok, Event::Kind, Event::Body, Event::FinalState];
        build_sql(Query::insert().into_table(Event::Table).columns(columns).values_panic(columns.map(|_| param())))
    });
    let LogEntry { task, seq, at_ms, event, final_state } = entry;
    let body = serde_json::to_string(event).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let (ok, kind) = (!event.is_error(), event.kind());
    let values = [(*task).into(), (*seq).into(), (*at_ms).into(), ok.into(), kind.into(), body.into(), (*final_state).into()];
    Ok(Statement::new(&TEXT, values))
}

pub fn log_after(task: TaskId, seq: u64, limit: u64) -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        build_sql(
            Query::select()
                .columns([Event::Seq, Event::At, Event::Ok, Event::Kind, Event::Body, Event::FinalState])
                .from(Event::Table)
                .and_where(eq_param(Event::TaskId))
                .and_where(Expr::col(Event::Seq).gt(param()))
                .order_by(Event::Seq, Order::Asc)
                .limit(0),
        )
    });
    Statement::new(&TEXT, [task.into(), seq.into(), limit.into()])
}

pub fn read_log_entry(task: TaskId, row: &Row<'_>) -> Result<LogEntry> {
    Ok(LogEntry {
        task,
        seq: row.get("seq")?,
        at_ms: row.get("at")?,
        event: read_logged_event(row)?,
        final_state: match row.get_ref("final_state")? {
            ValueRef::Null => None,
            _ => Some(state(row, "final_state")?),
        },
    })
}

/// Entries of older versions are plain text. So is an entry of a newer version with a kind that is
/// unknown here.
fn read_logged_event(row: &Row<'_>) -> Result<logged::Event> {
    let body: String = row.get("body")?;
    let is_typed = !matches!(row.get_ref("kind")?, ValueRef::Null);
    let typed = if is_typed { serde_json::from_str(&body).ok() } else { None };
    match typed {
        Some(event) => Ok(event),
        None => Ok(logged::Event::Text { text: body, is_error: row.get::<_, i64>("ok")? == 0 }),
    }
}

/// Stores a quarantined row. A row that is stored already is not changed.
pub fn insert_quarantined(task: TaskId, device: Uuid, row: &QuarantinedRow, now_ms: i64) -> Statement<'_> {
    static TEXT: Sql = Sql::new(|| {
        let columns = [
            Quarantine::TaskId,
            Quarantine::DeviceId,
            Quarantine::RowTime,
            Quarantine::RowKey,
            Quarantine::Reason,
            Quarantine::QuarantinedAt,
        ];
        build_sql(
            Query::insert()
                .into_table(Quarantine::Table)
                .columns(columns)
                .values_panic(columns.map(|_| param()))
                .on_conflict(OnConflict::new().do_nothing().to_owned()),
        )
    });
    let (time, key) = (row.position.time_us, row.position.key.to_string());
    Statement::new(&TEXT, [task.into(), device.into(), time.into(), key.into(), row.reason.as_str().into(), now_ms.into()])
}

/// The quarantined rows of a task, ordered by device, time and key.
pub fn quarantined_rows(task: TaskId) -> Statement<'static> {
    static TEXT: Sql = Sql::new(|| {
        build_sql(
            Query::select()
                .columns([Quarantine::DeviceId, Quarantine::RowTime, Quarantine::RowKey, Quarantine::Reason])
                .from(Quarantine::Table)
                .and_where(eq_param(Quarantine::TaskId))
                .order_by(Quarantine::DeviceId, Order::Asc)
                .order_by(Quarantine::RowTime, Order::Asc)
                .order_by(Quarantine::RowKey, Order::Asc),
        )
    });
    Statement::new(&TEXT, [task.into()])
}

pub fn read_quarantined(row: &Row<'_>) -> Result<(Uuid, QuarantinedRow)> {
    let position = Position { time_us: row.get("row_time")?, key: row.get::<_, String>("row_key")?.into() };
    Ok((uuid(row, "device_id")?, QuarantinedRow { position, reason: row.get("reason")? }))
}
