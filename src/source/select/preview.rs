//! Counts and samples for previews.

use sea_query::{Alias, Asterisk, Condition, Expr, ExprTrait, Func, JoinType, Order, Query, SelectStatement};
use uuid::Uuid;

use super::{RAW_ALIAS, check, column, id, in_range, table};
use crate::source::{
    IdType, Mapping, StoredRange, TimeType,
    preview::{Edges, SamplePoint},
};

/// The devices or times that a statement reads, one after the other.
const LIST_ALIAS: &str = "list";
const ROWS_ALIAS: &str = "found";
const GROUPS_ALIAS: &str = "counted";

/// In PostgreSQL: counts the rows of each device by bucket, at most `cap` rows of each: the device's
/// number (from 0), the bucket's place, its rows, its first and last time.
pub fn bucket_counts(mapping: &Mapping, devices: &[Uuid], edges: &Edges, cap: Option<u32>) -> SelectStatement {
    let list = (0..).zip(devices).map(|(number, device): (i32, _)| (number, device.to_string()));
    let number = || Expr::col((Alias::new(LIST_ALIAS), Alias::new("column1")));
    let device = listed_id(mapping.raw_device, "column2");
    let place: Expr = if edges.stored.is_empty() {
        Expr::val(0)
    } else {
        // A binary search for the bucket: independent of the session's time zone, and as fast for
        // every type of time.
        Func::cust(Alias::new("width_bucket"))
            .args([column(RAW_ALIAS, &mapping.raw.time), edge_array(mapping.time, edges)])
            .into()
    };
    let in_selection =
        Condition::all().add(column(RAW_ALIAS, &mapping.raw.device).eq(device)).add(in_range(mapping, &edges.range));
    let of_group = |name: &str| Expr::col((Alias::new(GROUPS_ALIAS), Alias::new(name)));
    let mut select = Query::select();
    select
        .from_values(list, Alias::new(LIST_ALIAS))
        .expr_as(as_bigint(number()), Alias::new("n"))
        .and_where_option(check(mapping));
    if !mapping.has_index {
        // All devices in one pass over the table.
        return select
            .expr_as(as_bigint(place), Alias::new("place"))
            .expr_as(Func::count(Expr::col(Asterisk)), Alias::new("rows"))
            .expr_as(microseconds(mapping.time, Func::min(column(RAW_ALIAS, &mapping.raw.time)).into()), Alias::new("first"))
            .expr_as(microseconds(mapping.time, Func::max(column(RAW_ALIAS, &mapping.raw.time)).into()), Alias::new("last"))
            .join(JoinType::InnerJoin, table(&mapping.raw.table, RAW_ALIAS), in_selection)
            .add_group_by([number(), Expr::cust("2")])
            .take();
    }
    let mut rows = Query::select();
    rows.expr_as(as_bigint(place), Alias::new("place"))
        .expr_as(column(RAW_ALIAS, &mapping.raw.time), Alias::new("t"))
        .from(table(&mapping.raw.table, RAW_ALIAS))
        .cond_where(in_selection);
    if let Some(cap) = cap {
        rows.limit(u64::from(cap));
    }
    let groups = Query::select()
        .column(Alias::new("place"))
        .expr_as(Func::count(Expr::col(Asterisk)), Alias::new("rows"))
        .expr_as(microseconds(mapping.time, Func::min(Expr::col(Alias::new("t"))).into()), Alias::new("first"))
        .expr_as(microseconds(mapping.time, Func::max(Expr::col(Alias::new("t"))).into()), Alias::new("last"))
        .from_subquery(rows.take(), Alias::new(ROWS_ALIAS))
        .add_group_by([Expr::col(Alias::new("place"))])
        .take();
    select
        .exprs(["place", "rows", "first", "last"].map(of_group))
        .join_lateral(JoinType::InnerJoin, groups, Alias::new(GROUPS_ALIAS), Condition::all())
        .take()
}

/// In SQLite: counts at most `limit` rows from the start of a stored range: their number, the first time, the
/// last time of those that were counted, and the last time of the range.
pub fn probe(mapping: &Mapping, device: Uuid, range: &StoredRange, limit: u32) -> SelectStatement {
    probed(mapping, &id(mapping.raw_device, device), &in_range(mapping, range), limit)
}

/// In PostgreSQL: as [`probe`], for several ranges, each with its number.
pub fn probes(mapping: &Mapping, device: Uuid, ranges: &[StoredRange], limit: u32) -> SelectStatement {
    let text = |time_us| stored_text(mapping.time, time_us);
    let list = (0..).zip(ranges).map(|(number, range): (i32, _)| (number, text(range.from.unwrap_or_default()), text(range.to)));
    let time = || column(RAW_ALIAS, &mapping.raw.time);
    let mut in_range = Condition::all()
        .add(time().gte(listed_time(mapping.time, "column2")))
        .add(time().lte(listed_time(mapping.time, "column3")));
    if let Some(range) = ranges.first().filter(|range| !range.holes.is_empty()) {
        in_range = in_range.add(super::outside_holes(mapping, range));
    }
    let probe = probed(mapping, &id(mapping.raw_device, device), &in_range, limit);
    let of_group = |name: &str| Expr::col((Alias::new(GROUPS_ALIAS), Alias::new(name)));
    Query::select()
        .expr_as(as_bigint(Expr::col((Alias::new(LIST_ALIAS), Alias::new("column1")))), Alias::new("n"))
        .exprs(["rows", "first", "reached", "last"].map(of_group))
        .from_values(list, Alias::new(LIST_ALIAS))
        .join_lateral(JoinType::InnerJoin, probe, Alias::new(GROUPS_ALIAS), Condition::all())
        .and_where(of_group("rows").gt(0))
        .and_where_option(check(mapping))
        .take()
}

fn probed(mapping: &Mapping, device: &Expr, range: &Condition, limit: u32) -> SelectStatement {
    let selected = |order| {
        Query::select()
            .expr_as(column(RAW_ALIAS, &mapping.raw.time), Alias::new("t"))
            .from(table(&mapping.raw.table, RAW_ALIAS))
            .and_where(column(RAW_ALIAS, &mapping.raw.device).eq(device.clone()))
            .cond_where(range.clone())
            .order_by_expr(column(RAW_ALIAS, &mapping.raw.time), order)
            .take()
    };
    let first = selected(Order::Asc).limit(u64::from(limit)).take();
    let last = Expr::SubQuery(None, Box::new(selected(Order::Desc).limit(1).take().into()));
    let time = |of: Expr| microseconds(mapping.time, of);
    Query::select()
        .expr_as(Func::count(Expr::col(Asterisk)), Alias::new("rows"))
        .expr_as(time(Func::min(Expr::col(Alias::new("t"))).into()), Alias::new("first"))
        .expr_as(time(Func::max(Expr::col(Alias::new("t"))).into()), Alias::new("reached"))
        .expr_as(time(last), Alias::new("last"))
        .from_subquery(first, Alias::new(ROWS_ALIAS))
        .take()
}

/// In SQLite: counts the rows of a device by bucket, at most `cap` rows.
pub fn device_buckets(mapping: &Mapping, device: Uuid, edges: &Edges, cap: Option<u32>) -> SelectStatement {
    let (start, length) = (edges.start_us.div_euclid(1_000), Ord::max(edges.length_us / 1_000, 1));
    let place = column(RAW_ALIAS, &mapping.raw.time).sub(start).div(length);
    let mut rows = Query::select();
    rows.expr_as(place, Alias::new("place"))
        .expr_as(column(RAW_ALIAS, &mapping.raw.time), Alias::new("t"))
        .from(table(&mapping.raw.table, RAW_ALIAS))
        .and_where(column(RAW_ALIAS, &mapping.raw.device).eq(id(mapping.raw_device, device)))
        .cond_where(in_range(mapping, &edges.range));
    if let Some(cap) = cap {
        rows.limit(u64::from(cap));
    }
    Query::select()
        .expr_as(Expr::val(0), Alias::new("n"))
        .column(Alias::new("place"))
        .expr_as(Func::count(Expr::col(Asterisk)), Alias::new("rows"))
        .expr_as(microseconds(mapping.time, Func::min(Expr::col(Alias::new("t"))).into()), Alias::new("first"))
        .expr_as(microseconds(mapping.time, Func::max(Expr::col(Alias::new("t"))).into()), Alias::new("last"))
        .from_subquery(rows.take(), Alias::new(ROWS_ALIAS))
        .add_group_by([Expr::col(Alias::new("place"))])
        .take()
}

/// In SQLite: selects the documents of the first rows of a device in a stored range.
pub fn sample(mapping: &Mapping, point: &SamplePoint, rows: u32) -> SelectStatement {
    let range = StoredRange { from: Some(point.from_us), to: point.to_us, holes: Vec::new() };
    sampled(mapping, id(mapping.raw_device, point.device), in_range(mapping, &range), rows)
}

/// In PostgreSQL: as [`sample`] for several points, each row with the number of its point.
pub fn samples(mapping: &Mapping, points: &[SamplePoint], rows: u32) -> SelectStatement {
    let text = |time_us| stored_text(mapping.time, time_us);
    let list = (0..)
        .zip(points)
        .map(|(number, point): (i32, _)| (number, point.device.to_string(), text(point.from_us), text(point.to_us)));
    let time = || column(RAW_ALIAS, &mapping.raw.time);
    let in_range = Condition::all()
        .add(time().gte(listed_time(mapping.time, "column3")))
        .add(time().lte(listed_time(mapping.time, "column4")));
    let documents = sampled(mapping, listed_id(mapping.raw_device, "column2"), in_range, rows);
    Query::select()
        .expr_as(as_bigint(Expr::col((Alias::new(LIST_ALIAS), Alias::new("column1")))), Alias::new("n"))
        .expr(Expr::col((Alias::new(ROWS_ALIAS), Alias::new("d"))))
        .from_values(list, Alias::new(LIST_ALIAS))
        .join_lateral(JoinType::InnerJoin, documents, Alias::new(ROWS_ALIAS), Condition::all())
        .and_where_option(check(mapping))
        .take()
}

fn sampled(mapping: &Mapping, device: Expr, range: Condition, rows: u32) -> SelectStatement {
    Query::select()
        .expr_as(column(RAW_ALIAS, &mapping.raw.doc).cast_as(Alias::new("text")), Alias::new("d"))
        .from(table(&mapping.raw.table, RAW_ALIAS))
        .and_where(column(RAW_ALIAS, &mapping.raw.device).eq(device))
        .cond_where(range)
        .order_by_expr(column(RAW_ALIAS, &mapping.raw.time), Order::Asc)
        .limit(u64::from(rows))
        .take()
}

fn as_bigint(value: Expr) -> Expr {
    value.cast_as(Alias::new("bigint"))
}

fn listed_id(r#type: IdType, name: &str) -> Expr {
    let listed = Expr::col((Alias::new(LIST_ALIAS), Alias::new(name)));
    listed.cast_as(Alias::new(match r#type {
        IdType::Uuid => "uuid",
        IdType::Text => "text",
    }))
}

/// A time of the list, which has it as [`stored_text`].
fn listed_time(r#type: TimeType, name: &str) -> Expr {
    Expr::col((Alias::new(LIST_ALIAS), Alias::new(name))).cast_as(Alias::new(r#type.sql()))
}

/// A stored time, in microseconds, as a text that can be cast to the column's type.
fn stored_text(r#type: TimeType, time_us: i64) -> String {
    match r#type {
        TimeType::EpochMillis => time_us.div_euclid(1_000).to_string(),
        TimeType::Instant | TimeType::Local(_) => super::timestamp_text(r#type, time_us),
    }
}

fn edge_array(r#type: TimeType, edges: &Edges) -> Expr {
    // The texts are made from numbers.
    let literal = |time_us| format!("CAST('{}' AS {})", stored_text(r#type, time_us), r#type.sql());
    let literals: Vec<_> = edges.stored.iter().map(|(time_us, _)| literal(*time_us)).collect();
    Expr::cust(format!("ARRAY[{}]", literals.join(", ")))
}

/// A stored time as microseconds.
fn microseconds(r#type: TimeType, time: Expr) -> Expr {
    match r#type {
        TimeType::EpochMillis => time.mul(1_000),
        // The seconds of a `timestamp` are counted as if it were in UTC, in every session.
        TimeType::Instant | TimeType::Local(_) => {
            let seconds = Expr::expr(Func::cust(Alias::new("date_part")).args([Expr::val("epoch"), time]));
            as_bigint(seconds.mul(1_000_000))
        }
    }
}
