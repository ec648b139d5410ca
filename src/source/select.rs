//! The SQL queries. They have no bind parameters, which `COPY` does not support: values are
//! literals, made from numbers, UUIDs, and texts that sea-query escapes.
//!
//! In PostgreSQL each query is bound to its mapping: the selected columns are cast to the types of
//! the mapping, and the condition contains a check, evaluated once ([`layout_check`]).

pub mod catalog;
pub mod preview;

use chrono::DateTime;
use sea_query::{
    Alias, BinOper, Condition, Expr, ExprTrait, Func, IntoTableRef, JoinType, Order, Query, SelectStatement, TableRef,
};
use uuid::Uuid;

use super::{IdType, KeyType, Mapping, Selection, StoredRange, TimeType, postgres::error::LAYOUT_CHANGED};
use crate::task::{Position, RowKey};

/// Table aliases. A table's own name could be ambiguous with the name of a selected column.
const DEVICE_ALIAS: &str = "dev";
const RAW_ALIAS: &str = "raw";

/// A condition that is true, or raises an error whose message begins with [`LAYOUT_CHANGED`]: if
/// the type (an OID) of a column has changed, or if the statement's snapshot is older than the last
/// rewrite of the table. A COPY takes its snapshot before it waits for locks, and then sees a table
/// that was rewritten in between (`ALTER TABLE … TYPE`, `VACUUM FULL`, `TRUNCATE`) as empty:
/// `pg_class` shows what the snapshot sees, `pg_relation_filenode` the current state.
pub fn layout_check(relation: &str, columns: &[(&str, u32)], has_children: bool) -> String {
    let types: Vec<_> = columns
        .iter()
        .map(|(column, oid)| format!("pg_catalog.pg_typeof((NULL::{relation}).{})::oid = {oid}", quoted(column)))
        .collect();
    let oid = format!("{}::regclass::oid", literal(relation));
    let relations = if has_children {
        format!(
            "WITH RECURSIVE tree (oid) AS (SELECT {oid} UNION ALL SELECT inhrelid FROM pg_catalog.pg_inherits JOIN tree ON inhparent = tree.oid) \
             SELECT oid FROM tree"
        )
    } else {
        format!("SELECT {oid}")
    };
    // `concat` with `clock_timestamp` is evaluated at run time: the planner would evaluate a
    // constant, and raise the error.
    format!(
        "(SELECT CASE WHEN {} AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_class WHERE oid IN ({relations}) \
         AND NULLIF(relfilenode, 0) IS DISTINCT FROM pg_catalog.pg_relation_filenode(oid)) \
         THEN true ELSE CAST(pg_catalog.concat('{LAYOUT_CHANGED} ', pg_catalog.clock_timestamp()) AS boolean) END)",
        types.join(" AND ")
    )
}

/// Quotes a name as an SQL identifier.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A PostgreSQL string literal, independent of `standard_conforming_strings`.
pub fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// Selects the name of a device, if it is mounted on the thing.
pub fn device(mapping: &Mapping, thing: Uuid, device: Uuid) -> SelectStatement {
    Query::select()
        .expr_as(column(DEVICE_ALIAS, &mapping.device.name).cast_as(Alias::new("text")), Alias::new("name"))
        .from(table(&mapping.device.table, DEVICE_ALIAS))
        .and_where(column(DEVICE_ALIAS, &mapping.device.id).eq(id(mapping.device_id, device)))
        .and_where(column(DEVICE_ALIAS, &mapping.device.thing).eq(id(mapping.thing_id, thing)))
        .limit(1)
        .take()
}

/// Selects the ids (as text) and names of those devices that are mounted on the thing.
pub fn devices(mapping: &Mapping, thing: Uuid, devices: impl Iterator<Item = Uuid>) -> SelectStatement {
    Query::select()
        .expr_as(column(DEVICE_ALIAS, &mapping.device.id).cast_as(Alias::new("text")), Alias::new("id"))
        .expr_as(column(DEVICE_ALIAS, &mapping.device.name).cast_as(Alias::new("text")), Alias::new("name"))
        .from(table(&mapping.device.table, DEVICE_ALIAS))
        .and_where(column(DEVICE_ALIAS, &mapping.device.id).is_in(devices.map(|device| id(mapping.device_id, device))))
        .and_where(column(DEVICE_ALIAS, &mapping.device.thing).eq(id(mapping.thing_id, thing)))
        .take()
}

/// Selects the ids of any device and of its thing, in one text.
pub fn any_device(mapping: &Mapping) -> SelectStatement {
    let text = |name: &str| column(DEVICE_ALIAS, name).cast_as(Alias::new("text"));
    let ids = text(&mapping.device.id).binary(BinOper::Custom("||"), Expr::val(" "));
    Query::select()
        .expr(ids.binary(BinOper::Custom("||"), text(&mapping.device.thing)))
        .from(table(&mapping.device.table, DEVICE_ALIAS))
        .limit(1)
        .take()
}

/// Selects the device id of any row, as text.
pub fn any_reading(mapping: &Mapping) -> SelectStatement {
    let device = column(RAW_ALIAS, &mapping.raw.device).cast_as(Alias::new("text"));
    Query::select().expr(device).from(table(&mapping.raw.table, RAW_ALIAS)).limit(1).take()
}

/// Selects the first rows, at most `limit`, of each of several selections with the same range: the
/// selection's number (from 0), time, key and document. Rows of one selection are adjacent and in
/// order.
pub fn first_rows(mapping: &Mapping, selections: &[&Selection], limit: u32) -> Option<SelectStatement> {
    let first = selections.first()?;
    let device_id = Expr::col((Alias::new("d"), Alias::new("column2")));
    let device = match mapping.raw_device {
        IdType::Uuid => device_id.cast_as(Alias::new("uuid")),
        IdType::Text => device_id.cast_as(Alias::new("text")),
    };
    let rows = columns(mapping)
        .and_where(column(RAW_ALIAS, &mapping.raw.device).eq(device))
        .cond_where(in_range(mapping, &range(mapping, first)))
        .order_by_expr(column(RAW_ALIAS, &mapping.raw.time), Order::Asc)
        .order_by_expr(column(RAW_ALIAS, &mapping.raw.id), Order::Asc)
        .limit(u64::from(limit))
        .take();
    let devices = (0..).zip(selections).map(|(number, selection): (i32, _)| (number, selection.device.to_string()));
    let of_row = |name: &str| Expr::col((Alias::new("r"), Alias::new(name)));
    Some(
        Query::select()
            .expr_as(Expr::col((Alias::new("d"), Alias::new("column1"))), Alias::new("n"))
            .exprs([of_row("t"), of_row("k"), of_row("d")])
            .from_values(devices, Alias::new("d"))
            // A lateral join reads one device after the other, each by the index.
            .join_lateral(JoinType::InnerJoin, rows, Alias::new("r"), Condition::all())
            .and_where_option(check(mapping))
            .take(),
    )
}

/// Counts the rows of a device in a range, and the rows that have a key.
pub fn count(mapping: &Mapping, device: Uuid, range: &StoredRange) -> SelectStatement {
    let keys = if mapping.key_nullable { column(RAW_ALIAS, &mapping.raw.id) } else { Expr::val(1) };
    Query::select()
        .expr_as(Func::count(Expr::val(1)), Alias::new("rows"))
        .expr_as(Func::count(keys), Alias::new("keys"))
        .from(table(&mapping.raw.table, RAW_ALIAS))
        .and_where(column(RAW_ALIAS, &mapping.raw.device).eq(id(mapping.raw_device, device)))
        .cond_where(in_range(mapping, range))
        .and_where_option(check(mapping))
        .take()
}

/// Selects the next `limit` rows, none of them after the position `until`: time, key and document,
/// in the order of time and key.
pub fn page(mapping: &Mapping, selection: &Selection, limit: u32, until: Option<&Position>) -> SelectStatement {
    let end = until.map(|last| sort_key(mapping).lte(position(mapping, last)));
    remaining_rows(mapping, selection, columns(mapping)).and_where_option(end).limit(u64::from(limit)).take()
}

/// Selects time and key of the last of the next `rows` rows (at least 1), without its document; no
/// row if there are fewer.
pub fn boundary(mapping: &Mapping, selection: &Selection, rows: u32) -> SelectStatement {
    let mut query = remaining_rows(mapping, selection, time_and_key(mapping));
    query.expr_as(Expr::cust("NULL"), Alias::new("d")).offset(u64::from(rows) - 1).limit(1);
    query
}

/// Adds the condition and order of the remaining rows of a selection.
fn remaining_rows(mapping: &Mapping, selection: &Selection, mut select: SelectStatement) -> SelectStatement {
    let mut range = range(mapping, selection);
    if let Some(after) = &selection.after {
        // The position already bounds the start, and an index scan works best with one lower bound.
        range.from = range.from.filter(|from| after.time_us < *from);
        select.and_where(sort_key(mapping).gt(position(mapping, after)));
    }
    select
        .and_where(column(RAW_ALIAS, &mapping.raw.device).eq(id(mapping.raw_device, selection.device)))
        .cond_where(in_range(mapping, &range))
        .and_where_option(check(mapping))
        .order_by_expr(column(RAW_ALIAS, &mapping.raw.time), Order::Asc)
        .order_by_expr(column(RAW_ALIAS, &mapping.raw.id), Order::Asc)
        .take()
}

/// The range of a selection in stored times.
pub fn range(mapping: &Mapping, selection: &Selection) -> StoredRange {
    mapping.time.range(selection.from, selection.to)
}

fn in_range(mapping: &Mapping, range: &StoredRange) -> Condition {
    let time = || column(RAW_ALIAS, &mapping.raw.time);
    let mut in_range = Condition::all().add(time().lte(timestamp_literal(mapping.time, range.to)));
    if let Some(from) = range.from {
        in_range = in_range.add(time().gte(timestamp_literal(mapping.time, from)));
    }
    if range.holes.is_empty() { in_range } else { in_range.add(outside_holes(mapping, range)) }
}

/// The condition that a time is in no hole of a range.
fn outside_holes(mapping: &Mapping, range: &StoredRange) -> Condition {
    let time = || column(RAW_ALIAS, &mapping.raw.time);
    let literal = |time_us: i64| timestamp_literal(mapping.time, time_us);
    range.holes.iter().fold(Condition::all(), |outside, (from, to)| {
        outside.add(Expr::expr(time().gte(literal(*from))).and(time().lte(literal(*to))).not())
    })
}

/// The sort key of a row, to be compared with a [`position`].
fn sort_key(mapping: &Mapping) -> Expr {
    Expr::tuple([column(RAW_ALIAS, &mapping.raw.time), column(RAW_ALIAS, &mapping.raw.id)])
}

fn position(mapping: &Mapping, position: &Position) -> Expr {
    Expr::tuple([timestamp_literal(mapping.time, position.time_us), key_value(mapping.key, &position.key)])
}

/// Selects time, key and document.
fn columns(mapping: &Mapping) -> SelectStatement {
    let doc = column(RAW_ALIAS, &mapping.raw.doc);
    let doc = if mapping.layout_check.is_some() { doc.cast_as(Alias::new(mapping.doc.sql())) } else { doc };
    time_and_key(mapping).expr_as(doc, Alias::new("d")).take()
}

fn time_and_key(mapping: &Mapping) -> SelectStatement {
    let (time, key) = (column(RAW_ALIAS, &mapping.raw.time), column(RAW_ALIAS, &mapping.raw.id));
    let (time, key) = if mapping.layout_check.is_some() {
        (time.cast_as(Alias::new(mapping.time.sql())), key.cast_as(Alias::new(mapping.key.sql())))
    } else {
        (time, key)
    };
    Query::select().expr_as(time, Alias::new("t")).expr_as(key, Alias::new("k")).from(table(&mapping.raw.table, RAW_ALIAS)).take()
}

/// `table` or `schema.table`.
fn table(name: &str, alias: &'static str) -> TableRef {
    let table = match name.split_once('.') {
        Some((schema, table)) => (Alias::new(schema), Alias::new(table)).into_table_ref(),
        None => Alias::new(name).into_table_ref(),
    };
    table.alias(Alias::new(alias))
}

fn column(table: &'static str, column: &str) -> Expr {
    Expr::col((Alias::new(table), Alias::new(column)))
}

/// The check that the mapping is still valid, in PostgreSQL.
fn check(mapping: &Mapping) -> Option<Expr> {
    mapping.layout_check.clone().map(Expr::cust)
}

fn id(r#type: IdType, id: Uuid) -> Expr {
    match r#type {
        IdType::Uuid => Expr::val(id.to_string()).cast_as(Alias::new("uuid")),
        IdType::Text => Expr::val(id.to_string()),
    }
}

/// A stored time in microseconds as a literal of the column's type.
fn timestamp_literal(r#type: TimeType, time_us: i64) -> Expr {
    let cast = |name: &str| Expr::val(timestamp_text(r#type, time_us)).cast_as(Alias::new(name));
    match r#type {
        TimeType::Instant => cast("timestamptz"),
        TimeType::Local(_) => cast("timestamp"),
        TimeType::EpochMillis => Expr::val(time_us.div_euclid(1_000)),
    }
}

/// A stored time in microseconds as PostgreSQL reads it.
fn timestamp_text(r#type: TimeType, time_us: i64) -> String {
    // Years have four digits here: requests have no others, and rows are in their range.
    let time = DateTime::from_timestamp_micros(time_us).unwrap_or_default();
    let zone = if r#type == TimeType::Instant { "+00" } else { "" };
    format!("{}{zone}", time.format("%Y-%m-%d %H:%M:%S%.6f"))
}

/// A row key as a literal of the column's type. A key that is no value of the type was stored under
/// another mapping: it is replaced by the smallest value, so that rows may be duplicated but none
/// is skipped.
fn key_value(r#type: KeyType, key: &RowKey) -> Expr {
    match (r#type, key) {
        (KeyType::Integer, RowKey::Integer(key)) => Expr::val(*key),
        (KeyType::Integer, _) => Expr::val(i64::MIN),
        (KeyType::Uuid, RowKey::Uuid(key)) => Expr::val(key.to_string()).cast_as(Alias::new("uuid")),
        (KeyType::Uuid, _) => Expr::val(Uuid::nil().to_string()).cast_as(Alias::new("uuid")),
        (KeyType::Text, key) => Expr::val(key.to_string()),
    }
}
