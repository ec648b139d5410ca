//! Every statement of the queue, and how its rows are read. No transaction begins or ends here.

mod job;
mod log;
mod task;

use std::str::FromStr;

use chrono::{DateTime, Utc};
use rusqlite::{Error, Row, types::Type};
use uuid::Uuid;

pub use job::*;
pub use log::*;
pub use task::*;

use crate::task::TaskId;

type Result<T> = rusqlite::Result<T>;

fn text(id: TaskId) -> String {
    id.to_string()
}

/// Numbers of ours stay far below 2^63.
fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A text of the file that does not say what it should.
fn bad(column: &str, error: impl std::error::Error) -> Error {
    Error::FromSqlConversionFailure(0, Type::Text, format!("{column}: {error}").into())
}

fn uuid(row: &Row<'_>, column: &str) -> Result<Uuid> {
    Uuid::try_parse(row.get_ref(column)?.as_str()?).map_err(|error| bad(column, error))
}

fn moment(row: &Row<'_>, column: &str) -> Result<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(row.get_ref(column)?.as_str()?).map_err(|error| bad(column, error))?;
    Ok(time.to_utc())
}

fn state<S: FromStr<Err: std::error::Error>>(row: &Row<'_>, column: &str) -> Result<S> {
    row.get_ref(column)?.as_str()?.parse().map_err(|error| bad(column, error))
}
