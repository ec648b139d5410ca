//! Runs the queries of a job once, for `data-patch check`.

use std::fmt::Write;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    Selection, Source, SourceError,
    backend::{CatalogBackend as _, ReadingsBackend as _},
    select,
};
use crate::protocol::time::show_micros;

impl Source {
    /// Looks a device up, reads one row as a job does, and asks for the plan of counting. Returns
    /// the findings as text.
    ///
    /// # Errors
    /// A job would fail in the same way.
    pub async fn examine(&self) -> Result<String, SourceError> {
        let mapping = self.mapping().await?;
        let mut report = mapping.to_string();
        let device = self.shared.catalog.any_device(&mapping).await?;
        let _ = write!(report, "\na device  ");
        match device.as_deref().and_then(|ids| ids.split_once(' ')) {
            None => report.push_str("there is none: the table is empty"),
            Some((device, thing)) => {
                let (device, thing) = (uuid(device, &mapping.device.id)?, uuid(thing, &mapping.device.thing)?);
                let name = self.device(thing, device).await?.map(|device| device.name);
                let name = name.flatten().unwrap_or_else(|| "with no name".to_owned());
                let _ = write!(report, "{device} {name}");
            }
        }
        let Some(device) = self.shared.readings.any_reading(&mapping).await? else {
            report.push_str("\na reading there is none: the table is empty");
            return Ok(report);
        };
        let device = uuid(&device, &mapping.raw.device)?;
        let (from, to) = (DateTime::UNIX_EPOCH, DateTime::<Utc>::MAX_UTC.min(last_second()));
        let selection = Selection { device, from, to, after: None };
        let first = self.rows_with_first_page(selection.clone(), Some(1)).next().await?;
        match first.as_ref().and_then(|rows| rows.first()) {
            None => report.push_str("\na reading none of that device since 1970"),
            Some(row) => {
                let instant = show_micros(mapping.time.instant_us(row.position.time_us));
                let bytes = row.doc.as_ref().map_or(0, Bytes::len);
                let _ = write!(report, "\na reading of device {device}, key {} at {instant}, {bytes} bytes", row.position.key);
            }
        }
        if mapping.index.is_some() {
            report.push_str("\ncounting  by the index");
        }
        if let Some(plan) = self.shared.readings.explain_count(&mapping, device, &select::range(&mapping, &selection)).await? {
            let scan = plan.lines().find(|line| line.contains("Scan") && !line.contains(" pg_class"));
            let scan = scan.map_or_else(|| plan.clone(), |line| line.trim_start_matches([' ', '-', '>']).to_owned());
            let access = if scan.contains("Index") { "by an index" } else { "with no index: each device reads the whole table" };
            let _ = write!(report, "\ncounting  {access} ({})", scan.split("  (").next().unwrap_or_default());
        }
        Ok(report)
    }
}

/// The last second of 9999: PostgreSQL cannot parse a longer year in this format.
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
