//! Statements whose text is built only once. Building it for each use took a third of the writer's
//! time.

use std::{borrow::Cow, sync::LazyLock};

use chrono::{DateTime, SecondsFormat, Utc};
use rusqlite::{
    ToSql,
    types::{Null, ToSqlOutput},
};
use sea_query::{Expr, ExprTrait, Func, IntoColumnRef, QueryStatementWriter, SqliteQueryBuilder};
use uuid::Uuid;

use crate::task::{JobState, TaskId, TaskState};

/// The text of a statement, built on first use.
pub type Sql = LazyLock<String>;

/// A statement and its values, in the order of its placeholders.
pub struct Statement<'a> {
    pub text: Cow<'static, str>,
    pub values: Vec<Value<'a>>,
}

impl<'a> Statement<'a> {
    pub fn new<const N: usize>(text: &'static Sql, values: [Value<'a>; N]) -> Self {
        Self { text: Cow::Borrowed(text.as_str()), values: values.into() }
    }
}

/// Builds the text of a statement. Every value in it becomes a `?`, including the numbers of
/// `limit`.
pub fn build_sql(statement: &impl QueryStatementWriter) -> String {
    statement.build(SqliteQueryBuilder).0
}

/// Adds `INDEXED BY` for the table that `at` ends with, which sea-query does not support.
///
/// Only for statements whose plan would otherwise depend on planner statistics, which may be
/// misleading: taken from a queue with one task, they suggest reading the whole table. The tests in
/// `plans.rs` show which statements these are.
pub fn by_index(text: &str, at: &str, index: &str) -> String {
    text.replacen(at, &format!("{at} INDEXED BY \"{index}\""), 1)
}

/// A placeholder for a value that is bound at each use.
pub fn param() -> Expr {
    Expr::val(0)
}

/// Sets a column to a bound value.
pub fn set<C>(column: C) -> (C, Expr) {
    (column, param())
}

/// Sets a column to a bound value, or keeps the present one if NULL is bound.
pub fn set_or_keep<C: IntoColumnRef + Copy>(column: C) -> (C, Expr) {
    (column, Func::coalesce([param(), Expr::col(column)]).into())
}

/// Compares a column with a bound value.
pub fn eq_param(column: impl IntoColumnRef) -> Expr {
    Expr::col(column).eq(param())
}

/// A value in its stored form.
pub struct Value<'a>(ToSqlOutput<'a>);

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        self.0.to_sql()
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self(number.into())
    }
}

impl From<u32> for Value<'_> {
    fn from(number: u32) -> Self {
        Self(number.into())
    }
}

impl From<u64> for Value<'_> {
    /// The queue's numbers stay far below 2^63.
    fn from(number: u64) -> Self {
        i64::try_from(number).unwrap_or(i64::MAX).into()
    }
}

impl From<f64> for Value<'_> {
    fn from(number: f64) -> Self {
        Self(number.into())
    }
}

impl From<bool> for Value<'_> {
    fn from(yes: bool) -> Self {
        Self(yes.into())
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self(text.into())
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<Uuid> for Value<'_> {
    fn from(id: Uuid) -> Self {
        id.to_string().into()
    }
}

impl From<TaskId> for Value<'_> {
    fn from(id: TaskId) -> Self {
        id.to_string().into()
    }
}

impl From<DateTime<Utc>> for Value<'_> {
    fn from(time: DateTime<Utc>) -> Self {
        time.to_rfc3339_opts(SecondsFormat::Nanos, true).into()
    }
}

impl From<JobState> for Value<'_> {
    fn from(state: JobState) -> Self {
        state.as_str().into()
    }
}

impl From<TaskState> for Value<'_> {
    fn from(state: TaskState) -> Self {
        state.as_str().into()
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(some: Option<T>) -> Self {
        some.map_or(Self(Null.into()), Into::into)
    }
}
