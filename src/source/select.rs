//! The queries on the store. They take no parameters, since `COPY` knows none: values are built in, from numbers and
//! UUIDs, and from texts that sea-query escapes.
//!
//! In PostgreSQL each is bound to the mapping that it was made for: what is selected is cast to the types of the mapping,
//! and a check is part of the condition, evaluated once ([`layout_check`]).

use chrono::DateTime;
use sea_query::{
    Alias, BinOper, Condition, Expr, ExprTrait, Func, IntoTableRef, JoinType, Order, Query, SelectStatement, TableRef,
};
use uuid::Uuid;

use super::{IdType, KeyType, Mapping, Selection, StoredRange, TimeType, error::CHANGED};
use crate::task::Position;

/// What the tables are called in the queries: a bare name could be taken for the name of something that is selected.
const DEVICE: &str = "dev";
const RAW: &str = "raw";

/// A condition that is true, or raises an error that begins with [`CHANGED`]: when a column is not of the type (an OID)
/// that it had, and when the statement's snapshot is older than the last rewrite of the table. A COPY takes its snapshot
/// before it waits for its locks, and then sees a table that was rewritten meanwhile (`ALTER TABLE … TYPE`, `VACUUM FULL`,
/// `TRUNCATE`) empty: `pg_class` tells what the snapshot sees, `pg_relation_filenode` what there is now.
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
    // The message is put together when it is needed: a constant would be evaluated, and raised, by the planner.
    format!(
        "(SELECT CASE WHEN {} AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_class WHERE oid IN ({relations}) \
         AND NULLIF(relfilenode, 0) IS DISTINCT FROM pg_catalog.pg_relation_filenode(oid)) \
         THEN true ELSE CAST(pg_catalog.concat('{CHANGED} ', pg_catalog.clock_timestamp()) AS boolean) END)",
        types.join(" AND ")
    )
}

/// A name as SQL reads it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as PostgreSQL reads it, whatever its settings.
pub fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// The name of a device, if it is mounted on the thing.
pub fn device(mapping: &Mapping, thing: Uuid, device: Uuid) -> SelectStatement {
    Query::select()
        .expr_as(of(DEVICE, &mapping.device.name).cast_as(Alias::new("text")), Alias::new("name"))
        .from(table(&mapping.device.table, DEVICE))
        .and_where(of(DEVICE, &mapping.device.id).eq(id(mapping.device_id, device)))
        .and_where(of(DEVICE, &mapping.device.thing).eq(id(mapping.thing_id, thing)))
        .limit(1)
        .take()
}

/// Ids, as text, and names of those of these devices that are mounted on the thing.
pub fn devices(mapping: &Mapping, thing: Uuid, devices: impl Iterator<Item = Uuid>) -> SelectStatement {
    Query::select()
        .expr_as(of(DEVICE, &mapping.device.id).cast_as(Alias::new("text")), Alias::new("id"))
        .expr_as(of(DEVICE, &mapping.device.name).cast_as(Alias::new("text")), Alias::new("name"))
        .from(table(&mapping.device.table, DEVICE))
        .and_where(of(DEVICE, &mapping.device.id).is_in(devices.map(|device| id(mapping.device_id, device))))
        .and_where(of(DEVICE, &mapping.device.thing).eq(id(mapping.thing_id, thing)))
        .take()
}

/// Ids of any device and of its thing, in one text.
pub fn any_device(mapping: &Mapping) -> SelectStatement {
    let text = |column: &str| of(DEVICE, column).cast_as(Alias::new("text"));
    let ids = text(&mapping.device.id).binary(BinOper::Custom("||"), Expr::val(" "));
    Query::select()
        .expr(ids.binary(BinOper::Custom("||"), text(&mapping.device.thing)))
        .from(table(&mapping.device.table, DEVICE))
        .limit(1)
        .take()
}

/// The device of any row, as text.
pub fn any_reading(mapping: &Mapping) -> SelectStatement {
    let device = of(RAW, &mapping.raw.device).cast_as(Alias::new("text"));
    Query::select().expr(device).from(table(&mapping.raw.table, RAW)).limit(1).take()
}

/// The first rows of each of several selections of one range, `limit` of each at the most: the selection's number (from 0
/// on), time, key and document. Each selection's rows come in its order.
pub fn first_rows(mapping: &Mapping, selections: &[&Selection], limit: u32) -> Option<SelectStatement> {
    let first = selections.first()?;
    let each = Expr::col((Alias::new("d"), Alias::new("column2")));
    let device = match mapping.raw_device {
        IdType::Uuid => each.cast_as(Alias::new("uuid")),
        IdType::Text => each.cast_as(Alias::new("text")),
    };
    let rows = columns(mapping)
        .and_where(of(RAW, &mapping.raw.device).eq(device))
        .cond_where(within(mapping, &range(mapping, first)))
        .order_by_expr(of(RAW, &mapping.raw.time), Order::Asc)
        .order_by_expr(of(RAW, &mapping.raw.id), Order::Asc)
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
            .and_where_option(check(mapping))
            .take(),
    )
}

/// Rows of a device in a range, and rows that have a key.
pub fn count(mapping: &Mapping, device: Uuid, range: &StoredRange) -> SelectStatement {
    let keys = if mapping.key_nullable { of(RAW, &mapping.raw.id) } else { Expr::val(1) };
    Query::select()
        .expr_as(Func::count(Expr::val(1)), Alias::new("rows"))
        .expr_as(Func::count(keys), Alias::new("keys"))
        .from(table(&mapping.raw.table, RAW))
        .and_where(of(RAW, &mapping.raw.device).eq(id(mapping.raw_device, device)))
        .cond_where(within(mapping, range))
        .and_where_option(check(mapping))
        .take()
}

/// The next `limit` rows, none of them behind the row `until`: time, key and document, in the order of time and key.
pub fn page(mapping: &Mapping, selection: &Selection, limit: u32, until: Option<&Position>) -> SelectStatement {
    let end = until.map(|last| sort_key(mapping).lte(position(mapping, last)));
    remaining_rows(mapping, selection, columns(mapping)).and_where_option(end).limit(u64::from(limit)).take()
}

/// Time and key of the row that is the last of the next `rows` (at least 1), with no document; no row if there are fewer.
pub fn boundary(mapping: &Mapping, selection: &Selection, rows: u32) -> SelectStatement {
    let mut edge = remaining_rows(mapping, selection, time_and_key(mapping));
    edge.expr_as(Expr::cust("NULL"), Alias::new("d")).offset(u64::from(rows) - 1).limit(1);
    edge
}

/// The rows of a selection that are left, in the order of time and key.
fn remaining_rows(mapping: &Mapping, selection: &Selection, mut select: SelectStatement) -> SelectStatement {
    let mut range = range(mapping, selection);
    if let Some(after) = &selection.after {
        // The place says where to begin, and an index serves one beginning best.
        range.from = range.from.filter(|from| after.time_us < *from);
        select.and_where(sort_key(mapping).gt(position(mapping, after)));
    }
    select
        .and_where(of(RAW, &mapping.raw.device).eq(id(mapping.raw_device, selection.device)))
        .cond_where(within(mapping, &range))
        .and_where_option(check(mapping))
        .order_by_expr(of(RAW, &mapping.raw.time), Order::Asc)
        .order_by_expr(of(RAW, &mapping.raw.id), Order::Asc)
        .take()
}

/// The range of a selection as the store counts.
pub fn range(mapping: &Mapping, selection: &Selection) -> StoredRange {
    mapping.time.range(selection.from, selection.to)
}

fn within(mapping: &Mapping, range: &StoredRange) -> Condition {
    let time = || of(RAW, &mapping.raw.time);
    let from = range.from.map(|from| time().gte(timestamp_literal(mapping.time, from)));
    let holes = range.holes.iter().map(|(from, to)| {
        Expr::expr(time().gte(timestamp_literal(mapping.time, *from))).and(time().lte(timestamp_literal(mapping.time, *to))).not()
    });
    let mut within = Condition::all().add(time().lte(timestamp_literal(mapping.time, range.to)));
    for condition in from.into_iter().chain(holes) {
        within = within.add(condition);
    }
    within
}

/// Where a row stands, to be compared with a [`position`].
fn sort_key(mapping: &Mapping) -> Expr {
    Expr::tuple([of(RAW, &mapping.raw.time), of(RAW, &mapping.raw.id)])
}

fn position(mapping: &Mapping, position: &Position) -> Expr {
    Expr::tuple([timestamp_literal(mapping.time, position.time_us), key_value(mapping.key, position)])
}

/// Time, key and document of rows.
fn columns(mapping: &Mapping) -> SelectStatement {
    let doc = of(RAW, &mapping.raw.doc);
    let doc = if mapping.check.is_some() { doc.cast_as(Alias::new(mapping.doc.sql())) } else { doc };
    time_and_key(mapping).expr_as(doc, Alias::new("d")).take()
}

fn time_and_key(mapping: &Mapping) -> SelectStatement {
    let (time, key) = (of(RAW, &mapping.raw.time), of(RAW, &mapping.raw.id));
    let (time, key) = if mapping.check.is_some() {
        (time.cast_as(Alias::new(mapping.time.sql())), key.cast_as(Alias::new(mapping.key.sql())))
    } else {
        (time, key)
    };
    Query::select().expr_as(time, Alias::new("t")).expr_as(key, Alias::new("k")).from(table(&mapping.raw.table, RAW)).take()
}

/// `table` or `schema.table`.
fn table(name: &str, alias: &'static str) -> TableRef {
    let table = match name.split_once('.') {
        Some((schema, table)) => (Alias::new(schema), Alias::new(table)).into_table_ref(),
        None => Alias::new(name).into_table_ref(),
    };
    table.alias(Alias::new(alias))
}

fn of(table: &'static str, column: &str) -> Expr {
    Expr::col((Alias::new(table), Alias::new(column)))
}

/// Nothing, or that the mapping is still true.
fn check(mapping: &Mapping) -> Option<Expr> {
    mapping.check.clone().map(Expr::cust)
}

fn id(r#type: IdType, id: Uuid) -> Expr {
    match r#type {
        IdType::Uuid => Expr::val(id.to_string()).cast_as(Alias::new("uuid")),
        IdType::Text => Expr::val(id.to_string()),
    }
}

/// Microseconds as the store counts, as a value of its type.
fn timestamp_literal(r#type: TimeType, time_us: i64) -> Expr {
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
