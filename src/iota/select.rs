//! The queries on the store. They take no parameters, since `COPY` knows none: values are built in, from numbers and
//! UUIDs, and from texts that sea-query escapes.

use chrono::DateTime;
use sea_query::{
    Alias, Condition, Expr, ExprTrait, Func, IntoTableRef, JoinType, Order, Query, SelectStatement, SimpleExpr, TableRef,
};
use uuid::Uuid;

use super::{IdType, KeyType, Mapping, Selection, TimeType};
use crate::task::Position;

/// The name of a device, if it is mounted on the thing.
pub fn device(mapping: &Mapping, thing: Uuid, device: Uuid) -> SelectStatement {
    Query::select()
        .expr_as(column(&mapping.device.name), Alias::new("name"))
        .from(table(&mapping.device.table))
        .and_where(column(&mapping.device.id).eq(id(mapping.device_id, device)))
        .and_where(column(&mapping.device.thing).eq(id(mapping.thing_id, thing)))
        .limit(1)
        .take()
}

/// Ids, as text, and names of those of these devices that are mounted on the thing.
pub fn devices(mapping: &Mapping, thing: Uuid, devices: impl Iterator<Item = Uuid>) -> SelectStatement {
    Query::select()
        .expr_as(column(&mapping.device.id).cast_as(Alias::new("text")), Alias::new("id"))
        .expr_as(column(&mapping.device.name), Alias::new("name"))
        .from(table(&mapping.device.table))
        .and_where(column(&mapping.device.id).is_in(devices.map(|device| id(mapping.device_id, device))))
        .and_where(column(&mapping.device.thing).eq(id(mapping.thing_id, thing)))
        .take()
}

/// The first rows of each of several selections of one range, `limit` of each at the most: the selection's number (from 0
/// on), time, key and document. Each selection's rows come in its order.
pub fn beginnings(mapping: &Mapping, selections: &[&Selection], limit: u32) -> Option<SelectStatement> {
    let first = selections.first()?;
    let each = Expr::col((Alias::new("d"), Alias::new("column2")));
    let device = match mapping.raw_device {
        IdType::Uuid => each.cast_as(Alias::new("uuid")),
        IdType::Text => each.cast_as(Alias::new("text")),
    };
    let rows = columns(mapping)
        .and_where(column(&mapping.raw.device).eq(device))
        .and_where(not_before(mapping, first))
        .and_where(not_after(mapping, first))
        .order_by_expr(column(&mapping.raw.time), Order::Asc)
        .order_by_expr(column(&mapping.raw.id), Order::Asc)
        .limit(u64::from(limit))
        .take();
    let devices = (0..).zip(selections).map(|(number, selection): (i32, _)| (number, selection.device.to_string()));
    let of_row = |name: &str| Expr::col((Alias::new("r"), Alias::new(name)));
    Some(
        Query::select()
            .expr_as(Expr::col((Alias::new("d"), Alias::new("column1"))), Alias::new("n"))
            .exprs([of_row("t"), of_row("k"), of_row("d")])
            .from_values(devices, Alias::new("d"))
            // A device after the other, each by the index.
            .join_lateral(JoinType::InnerJoin, rows, Alias::new("r"), Condition::all())
            .take(),
    )
}

/// Rows, and rows that have a key.
pub fn count(mapping: &Mapping, selection: &Selection) -> SelectStatement {
    let keys = if mapping.key_nullable { column(&mapping.raw.id) } else { Expr::val(1) };
    Query::select()
        .expr_as(Func::count(Expr::val(1)), Alias::new("rows"))
        .expr_as(Func::count(keys), Alias::new("keys"))
        .from(table(&mapping.raw.table))
        .and_where(of_device(mapping, selection))
        .and_where(not_before(mapping, selection))
        .and_where(not_after(mapping, selection))
        .take()
}

/// The next `limit` rows, none of them behind the row `until`: time, key and document, in the order of time and key.
pub fn page(mapping: &Mapping, selection: &Selection, limit: u32, until: Option<&Position>) -> SelectStatement {
    let end = until.map(|last| place(mapping).lte(position(mapping, last)));
    rest(mapping, selection, columns(mapping)).and_where_option(end).limit(u64::from(limit)).take()
}

/// Time and key of the row that is the last of the next `rows` (at least 1), with no document; no row if there are fewer.
pub fn edge(mapping: &Mapping, selection: &Selection, rows: u32) -> SelectStatement {
    let mut edge = rest(mapping, selection, time_and_key(mapping));
    edge.expr_as(Expr::cust("NULL"), Alias::new("d")).offset(u64::from(rows) - 1).limit(1);
    edge
}

/// The rows of a selection that are left, in the order of time and key.
fn rest(mapping: &Mapping, selection: &Selection, mut select: SelectStatement) -> SelectStatement {
    let start = match &selection.after {
        None => not_before(mapping, selection),
        Some(after) => place(mapping).gt(position(mapping, after)),
    };
    select
        .and_where(of_device(mapping, selection))
        .and_where(start)
        .and_where(not_after(mapping, selection))
        .order_by_expr(column(&mapping.raw.time), Order::Asc)
        .order_by_expr(column(&mapping.raw.id), Order::Asc)
        .take()
}

/// Where a row stands, to be compared with a [`position`].
fn place(mapping: &Mapping) -> Expr {
    Expr::tuple([column(&mapping.raw.time), column(&mapping.raw.id)])
}

fn position(mapping: &Mapping, position: &Position) -> Expr {
    Expr::tuple([moment(mapping.time, position.time_us), key_value(mapping.key, position)])
}

/// Time, key and document of rows.
fn columns(mapping: &Mapping) -> SelectStatement {
    time_and_key(mapping).expr_as(column(&mapping.raw.doc), Alias::new("d")).take()
}

fn time_and_key(mapping: &Mapping) -> SelectStatement {
    let key = column(&mapping.raw.id);
    let key_as = match mapping.key {
        KeyType::Integer => key.cast_as(Alias::new("bigint")),
        KeyType::Uuid => key,
        KeyType::Text => key.cast_as(Alias::new("text")),
    };
    Query::select()
        .expr_as(column(&mapping.raw.time), Alias::new("t"))
        .expr_as(key_as, Alias::new("k"))
        .from(table(&mapping.raw.table))
        .take()
}

fn of_device(mapping: &Mapping, selection: &Selection) -> SimpleExpr {
    column(&mapping.raw.device).eq(id(mapping.raw_device, selection.device))
}

fn not_before(mapping: &Mapping, selection: &Selection) -> SimpleExpr {
    let (from, _) = mapping.time.range(selection.from, selection.to);
    column(&mapping.raw.time).gte(moment(mapping.time, from))
}

fn not_after(mapping: &Mapping, selection: &Selection) -> SimpleExpr {
    let (_, to) = mapping.time.range(selection.from, selection.to);
    column(&mapping.raw.time).lte(moment(mapping.time, to))
}

/// `table` or `schema.table`.
pub fn table(name: &str) -> TableRef {
    match name.split_once('.') {
        Some((schema, table)) => (Alias::new(schema), Alias::new(table)).into_table_ref(),
        None => Alias::new(name).into_table_ref(),
    }
}

fn column(name: &str) -> Expr {
    Expr::col(Alias::new(name))
}

fn id(r#type: IdType, id: Uuid) -> Expr {
    match r#type {
        IdType::Uuid => Expr::val(id.to_string()).cast_as(Alias::new("uuid")),
        IdType::Text => Expr::val(id.to_string()),
    }
}

/// Microseconds as the store counts, as a value of its type.
fn moment(r#type: TimeType, time_us: i64) -> Expr {
    let cast = |name: &str| {
        // A year of more than four digits can't come here: requests have none, and rows are in their range.
        let time = DateTime::from_timestamp_micros(time_us).unwrap_or_default();
        let zone = if r#type == TimeType::Instant { "+00" } else { "" };
        Expr::val(format!("{}{zone}", time.format("%Y-%m-%d %H:%M:%S%.6f"))).cast_as(Alias::new(name))
    };
    match r#type {
        TimeType::Instant => cast("timestamptz"),
        TimeType::Local(_) => cast("timestamp"),
        TimeType::EpochMillis => Expr::val(time_us.div_euclid(1_000)),
    }
}

/// A cursor's key as a value of the column's type. What is no such value was stored for another mapping: it sorts
/// before every other, so that rows may come twice but none is skipped.
fn key_value(r#type: KeyType, position: &Position) -> Expr {
    match r#type {
        KeyType::Integer => Expr::val(position.key.parse::<i64>().unwrap_or(i64::MIN)),
        KeyType::Uuid => {
            let key = Uuid::try_parse(&position.key).unwrap_or(Uuid::nil());
            Expr::val(key.to_string()).cast_as(Alias::new("uuid"))
        }
        KeyType::Text => Expr::val(position.key.clone()),
    }
}
