//! Every statement of the queue, and how its rows are read. No transaction begins or ends here.

mod job;
mod log;
mod task;

use chrono::{DateTime, Utc};
use sqlx::{Row, sqlite::SqliteRow};
use uuid::Uuid;

pub use job::*;
pub use log::*;
pub use task::*;

use crate::task::TaskId;

type Result<T> = std::result::Result<T, sqlx::Error>;

fn text(id: TaskId) -> String {
    id.to_string()
}

/// Numbers of ours stay far below 2^63.
fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn bad<E: Into<Box<dyn std::error::Error + Send + Sync>>>(error: E) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}

fn count(row: &SqliteRow, column: &str) -> Result<u64> {
    row.try_get::<i64, _>(column)?.try_into().map_err(bad)
}

fn uuid(row: &SqliteRow, column: &str) -> Result<Uuid> {
    Uuid::try_parse(row.try_get(column)?).map_err(bad)
}

fn moment(row: &SqliteRow, column: &str) -> Result<DateTime<Utc>> {
    Ok(DateTime::parse_from_rfc3339(row.try_get(column)?).map_err(bad)?.to_utc())
}
