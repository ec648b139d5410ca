//! The numbered log of a task, and the rows that were held back.

use rusqlite::{Row, types::ValueRef};
use sea_query::{Expr, ExprTrait, InsertStatement, OnConflict, Order, Query, SelectStatement, UpdateStatement};
use uuid::Uuid;

use super::{Result, int, state, text, uuid};
use crate::{
    queue::schema::{Event, Quarantine, Task},
    task::{HeldRow, LogEvent, Position, TaskId, TaskState},
};

/// The number of the last line.
pub fn last_seq(task: TaskId) -> SelectStatement {
    Query::select().column(Task::LastSeq).from(Task::Table).and_where(Expr::col(Task::Id).eq(text(task))).take()
}

/// Makes a task's log longer; with its last line the task ends.
pub fn advance_log(task: TaskId, last_seq: u64, ends: Option<TaskState>, now_ms: i64) -> UpdateStatement {
    let mut update = Query::update();
    update.table(Task::Table).value(Task::LastSeq, int(last_seq)).and_where(Expr::col(Task::Id).eq(text(task)));
    if let Some(state) = ends {
        update.value(Task::State, state.as_str()).value(Task::FinishedAt, now_ms);
    }
    update
}

pub fn read_last_seq(row: &Row<'_>) -> Result<u64> {
    row.get("last_seq")
}

pub fn insert_events(events: &[LogEvent]) -> InsertStatement {
    let mut insert = Query::insert()
        .into_table(Event::Table)
        .columns([Event::TaskId, Event::Seq, Event::At, Event::Ok, Event::Message, Event::Ends])
        .take();
    for event in events {
        insert.values_panic([
            text(event.task).into(),
            int(event.seq).into(),
            event.at_ms.into(),
            i32::from(event.ok).into(),
            event.message.clone().into(),
            event.ends.map(TaskState::as_str).into(),
        ]);
    }
    insert
}

pub fn events_after(task: TaskId, seq: u64, limit: u64) -> SelectStatement {
    Query::select()
        .columns([Event::Seq, Event::At, Event::Ok, Event::Message, Event::Ends])
        .from(Event::Table)
        .and_where(Expr::col(Event::TaskId).eq(text(task)))
        .and_where(Expr::col(Event::Seq).gt(int(seq)))
        .order_by(Event::Seq, Order::Asc)
        .limit(limit)
        .take()
}

pub fn read_event(task: TaskId, row: &Row<'_>) -> Result<LogEvent> {
    Ok(LogEvent {
        task,
        seq: row.get("seq")?,
        at_ms: row.get("at")?,
        ok: row.get::<_, i64>("ok")? != 0,
        message: row.get("message")?,
        ends: match row.get_ref("ends")? {
            ValueRef::Null => None,
            _ => Some(state(row, "ends")?),
        },
    })
}

pub fn insert_held(task: TaskId, device: Uuid, rows: &[HeldRow], now_ms: i64) -> InsertStatement {
    let mut insert = Query::insert()
        .into_table(Quarantine::Table)
        .columns([
            Quarantine::TaskId,
            Quarantine::DeviceId,
            Quarantine::RowTime,
            Quarantine::RowKey,
            Quarantine::Reason,
            Quarantine::HeldAt,
        ])
        .on_conflict(OnConflict::new().do_nothing().to_owned())
        .take();
    for row in rows {
        insert.values_panic([
            text(task).into(),
            device.to_string().into(),
            row.position.time_us.into(),
            row.position.key.clone().into(),
            row.reason.clone().into(),
            now_ms.into(),
        ]);
    }
    insert
}

/// The held-back rows of a task, in the order of device, time and key.
pub fn held_rows(task: TaskId) -> SelectStatement {
    Query::select()
        .columns([Quarantine::DeviceId, Quarantine::RowTime, Quarantine::RowKey, Quarantine::Reason])
        .from(Quarantine::Table)
        .and_where(Expr::col(Quarantine::TaskId).eq(text(task)))
        .order_by(Quarantine::DeviceId, Order::Asc)
        .order_by(Quarantine::RowTime, Order::Asc)
        .order_by(Quarantine::RowKey, Order::Asc)
        .take()
}

pub fn read_held(row: &Row<'_>) -> Result<(Uuid, HeldRow)> {
    let position = Position { time_us: row.get("row_time")?, key: row.get("row_key")? };
    Ok((uuid(row, "device_id")?, HeldRow { position, reason: row.get("reason")? }))
}
