//! Trying what a job does, for `data-patch check`.

use std::fmt::Write;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sea_query::{PostgresQueryBuilder, SqliteQueryBuilder};
use sqlx::{AssertSqlSafe, Row as _};
use uuid::Uuid;

use super::{Backend, Mapping, Selection, Source, SourceError, postgres, select};

impl Source {
    /// Looks a device up, reads one row as a job would, and asks how rows would be counted; tells what was found.
    ///
    /// # Errors
    /// A job could not do it either.
    pub async fn examine(&self) -> Result<String, SourceError> {
        let mapping = self.mapping().await?;
        let mut found = mapping.to_string();
        let [device, row] = self.any(&mapping).await?;
        let _ = write!(found, "\na device  ");
        match device.as_deref().and_then(|ids| ids.split_once(' ')) {
            None => found.push_str("there is none: the table is empty"),
            Some((device, thing)) => {
                let (device, thing) = (uuid(device, &mapping.device.id)?, uuid(thing, &mapping.device.thing)?);
                let named = self.device(thing, device).await?.map(|device| device.name);
                let name = named.flatten().unwrap_or_else(|| "with no name".to_owned());
                let _ = write!(found, "{device} {name}");
            }
        }
        let Some(device) = row else {
            found.push_str("\na reading there is none: the table is empty");
            return Ok(found);
        };
        let device = uuid(&device, &mapping.raw.device)?;
        let (from, to) = (DateTime::UNIX_EPOCH, DateTime::<Utc>::MAX_UTC.min(last_second()));
        let selection = Selection { device, from, to, after: None };
        let first = self.rows_of(selection.clone(), 1).next().await?;
        match first.as_ref().and_then(|rows| rows.first()) {
            None => found.push_str("\na reading none of that device since 1970"),
            Some(row) => {
                let instant = DateTime::from_timestamp_micros(mapping.time.instant_us(row.time_us)).unwrap_or_default();
                let bytes = row.doc.as_ref().map_or(0, Bytes::len);
                let _ =
                    write!(found, "\na reading of device {device}, key {} at {}, {bytes} bytes", row.key, instant.to_rfc3339());
            }
        }
        if let Backend::Postgres(server) = &self.backend {
            let query = select::count(&mapping, device, &select::range(&mapping, &selection));
            let plan = postgres::explain(server, &query).await?;
            let scan = plan.lines().find(|line| line.contains("Scan") && !line.contains(" pg_class"));
            let scan = scan.map_or_else(|| plan.clone(), |line| line.trim_start_matches([' ', '-', '>']).to_owned());
            let how = if scan.contains("Index") { "by an index" } else { "with no index: each device reads the whole table" };
            let _ = write!(found, "\ncounting  {how} ({})", scan.split("  (").next().unwrap_or_default());
        }
        Ok(found)
    }

    /// Any device and its thing, and the device of any reading.
    async fn any(&self, mapping: &Mapping) -> Result<[Option<String>; 2], SourceError> {
        let mut found = [None, None];
        for (found, query) in found.iter_mut().zip([select::any_device(mapping), select::any_reading(mapping)]) {
            *found = match &self.backend {
                Backend::Postgres(server) => {
                    let rows = server.fetch(&query.to_string(PostgresQueryBuilder)).await?;
                    rows.first().map(|row| row.try_get(0)).transpose()?
                }
                Backend::Sqlite(pool) => {
                    let row = sqlx::query(AssertSqlSafe(query.to_string(SqliteQueryBuilder))).fetch_optional(pool).await?;
                    row.map(|row| row.try_get(0)).transpose()?
                }
            };
        }
        Ok(found)
    }
}

/// The end of 9999, after which PostgreSQL reads no year.
fn last_second() -> DateTime<Utc> {
    DateTime::from_timestamp(253_402_300_799, 0).unwrap_or_default()
}

fn uuid(text: &str, column: &str) -> Result<Uuid, SourceError> {
    Uuid::try_parse(text.trim()).map_err(|_| {
        SourceError::Mapping(format!(
            "column {column} holds {text:?}, which is no UUID; requests name things and devices by UUID"
        ))
    })
}
