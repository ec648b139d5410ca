//! Lists of things and devices.

use sea_query::{Alias, Expr, ExprTrait, Func, JoinType, LikeExpr, Order, Query, SelectStatement, TableRef};
use uuid::Uuid;

use super::{DEVICE_ALIAS, column, id, table};
use crate::source::{
    Mapping,
    catalog::{CatalogQuery, ThingNames},
};

const THING_ALIAS: &str = "thing";
/// The list that is searched and cut into pages.
const LIST_ALIAS: &str = "list";
/// Characters of a name that the order and so a cursor depends on.
const SORT_CHARS: i32 = 100;

/// Selects things that have devices: id, name, sort key and the number of devices.
pub fn things(mapping: &Mapping, query: &CatalogQuery) -> SelectStatement {
    let thing = || column(DEVICE_ALIAS, &mapping.device.thing);
    let mut grouped = Query::select();
    grouped
        .expr_as(text(thing()), Alias::new("id"))
        .expr_as(Func::count_distinct(column(DEVICE_ALIAS, &mapping.device.id)), Alias::new("devices"))
        .from(table(&mapping.device.table, DEVICE_ALIAS))
        .and_where(thing().is_not_null())
        .group_by_col((Alias::new(DEVICE_ALIAS), Alias::new(&mapping.device.thing)));
    let name = match &mapping.thing_names {
        None => text(Expr::cust("NULL")),
        Some(ThingNames { table: names, id_type }) => {
            let known: TableRef = table(&names.table, THING_ALIAS);
            let of_name = column(THING_ALIAS, &names.id);
            // Different types do not compare; as text both are lower case.
            let is_same = if *id_type == mapping.thing_id { of_name.eq(thing()) } else { text(of_name).eq(text(thing())) };
            grouped.join(JoinType::LeftJoin, known, is_same);
            Func::min(text(column(THING_ALIAS, &names.name))).into()
        }
    };
    grouped.expr_as(name, Alias::new("name"));
    page(grouped.take(), query).column((Alias::new(LIST_ALIAS), Alias::new("devices"))).take()
}

/// Selects devices of a thing: id, name and sort key.
pub fn devices_of(mapping: &Mapping, thing: Uuid, query: &CatalogQuery) -> SelectStatement {
    let all = Query::select()
        .expr_as(text(column(DEVICE_ALIAS, &mapping.device.id)), Alias::new("id"))
        .expr_as(text(column(DEVICE_ALIAS, &mapping.device.name)), Alias::new("name"))
        .from(table(&mapping.device.table, DEVICE_ALIAS))
        .and_where(column(DEVICE_ALIAS, &mapping.device.thing).eq(id(mapping.thing_id, thing)))
        .take();
    page(all, query)
}

/// The page of a list of ids and names, ordered by name and id.
fn page(list: SelectStatement, query: &CatalogQuery) -> SelectStatement {
    let of_list = |name: &str| column(LIST_ALIAS, name);
    let name = || -> Expr { Func::coalesce([of_list("name"), Expr::val("")]).into() };
    let sort = || -> Expr { Func::cust(Alias::new("substr")).args([name(), Expr::val(1), Expr::val(SORT_CHARS)]).into() };
    let mut select = Query::select();
    select
        .column((Alias::new(LIST_ALIAS), Alias::new("id")))
        .column((Alias::new(LIST_ALIAS), Alias::new("name")))
        .expr_as(sort(), Alias::new("sort"))
        .from_subquery(list, Alias::new(LIST_ALIAS))
        .order_by_expr(sort(), Order::Asc)
        .order_by_expr(of_list("id"), Order::Asc)
        .limit(u64::from(query.limit));
    if let Some(searched) = &query.text {
        let pattern = format!("%{}%", escaped(&searched.to_lowercase()));
        let contains = |searched_in: Expr| Expr::expr(Func::lower(searched_in)).like(LikeExpr::new(&pattern).escape('!'));
        select.and_where(contains(name()).or(contains(of_list("id"))));
    }
    if let Some(after) = &query.after {
        let position = Expr::tuple([Expr::val(&after.sort), Expr::val(&after.id)]);
        select.and_where(Expr::tuple([sort(), of_list("id")]).gt(position));
    }
    select
}

/// A text in a LIKE pattern, with `!` as the escape character.
fn escaped(text: &str) -> String {
    text.chars().flat_map(|c| ['!', '%', '_'].contains(&c).then_some('!').into_iter().chain([c])).collect()
}

fn text(value: Expr) -> Expr {
    value.cast_as(Alias::new("text"))
}
