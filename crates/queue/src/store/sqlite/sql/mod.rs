//! Every SQL statement of the queue, and the functions that read their rows. Transactions are not
//! begun or ended here.

mod copy;
mod job;
mod list;
mod log;
#[cfg(test)]
mod plans;
mod statement;
mod task;
mod task_list;
mod totals;

use std::str::FromStr;

use chrono::{DateTime, Utc};
use rusqlite::{Error, Row, types::Type};
use uuid::Uuid;

pub use copy::*;
pub use job::*;
pub use list::*;
pub use log::*;
pub use statement::Statement;
pub use task::*;
pub use task_list::*;
pub use totals::*;

type Result<T> = rusqlite::Result<T>;

/// The last migration of the file, which sqlx has noted.
pub const NEWEST_MIGRATION: &str = "SELECT max(version) FROM _sqlx_migrations";

/// An error for a stored string that cannot be parsed.
fn decode_error(column: &str, error: impl std::error::Error) -> Error {
    Error::FromSqlConversionFailure(0, Type::Text, format!("{column}: {error}").into())
}

fn uuid(row: &Row<'_>, column: &str) -> Result<Uuid> {
    Uuid::try_parse(row.get_ref(column)?.as_str()?).map_err(|error| decode_error(column, error))
}

fn optional_uuid(row: &Row<'_>, column: &str) -> Result<Option<Uuid>> {
    let text = row.get_ref(column)?.as_str_or_null()?;
    text.map(Uuid::try_parse).transpose().map_err(|error| decode_error(column, error))
}

fn timestamp(row: &Row<'_>, column: &str) -> Result<DateTime<Utc>> {
    let time = DateTime::parse_from_rfc3339(row.get_ref(column)?.as_str()?).map_err(|error| decode_error(column, error))?;
    Ok(time.to_utc())
}

fn state<S: FromStr<Err: std::error::Error>>(row: &Row<'_>, column: &str) -> Result<S> {
    row.get_ref(column)?.as_str()?.parse().map_err(|error| decode_error(column, error))
}
