//! Rows that ET can't read, in addition to those of the sample.

use std::path::Path;

use chrono::TimeDelta;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::source::sample::{self, Reading};

/// Their first key, after all keys of the sample.
const FIRST_ID: i64 = 9_000_001;

/// Makes a document unreadable for ET.
type Corrupt = fn(&str) -> String;

/// Three corrupted readings of the dam, each invalid for a different reason.
pub fn rows() -> Vec<Reading> {
    /// Index of a reading within the request's range.
    const AT: usize = 150;
    let [.., strain, piezo, _, _, _] = sample::DAM.devices else { return Vec::new() };
    let corruptions: [(_, Corrupt); 3] = [
        // An array where ET expects an object; such documents have cost it whole batches.
        (strain, |doc| {
            doc.replace(r#""data":{"frequency""#, r#""data":[{"frequency""#).replace(r#"},"result""#, r#"}],"result""#)
        }),
        // A truncated document.
        (strain, |doc| doc.chars().take(doc.len() / 2).collect()),
        // A document without its time.
        (piezo, |doc| doc.replace("triggerTime", "time")),
    ];
    let rows = (FIRST_ID..).zip(corruptions).zip(AT..);
    rows.filter_map(|((id, (device, corrupt)), at)| {
        let row = sample::readings().filter(|row| row.device_id == *device).nth(at)?;
        Some(Reading { id, time: row.time + TimeDelta::seconds(1), doc: corrupt(&row.doc), ..row })
    })
    .collect()
}

/// Adds them to the sample database.
///
/// # Errors
/// The file can't be written.
pub async fn add(database: &Path) -> Result<(), sqlx::Error> {
    let mut connection = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(database)).await?;
    for row in rows() {
        sqlx::query("INSERT INTO raw_data VALUES ($1, $2, $3, $4)")
            .bind(row.id)
            .bind(row.device_id.to_string())
            .bind(row.time.timestamp_millis())
            .bind(row.doc)
            .execute(&mut connection)
            .await?;
    }
    connection.close().await
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn the_rows_are_corrupted_and_in_the_range_of_the_dams_request() {
        let time = |text| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%z").unwrap().to_utc();
        let range = time(sample::DAM.from)..=time(sample::DAM.to);
        let rows = rows();
        assert_eq!(rows.len(), 3);
        for row in rows {
            assert!(range.contains(&row.time), "{}", row.time);
            assert!(sample::readings().all(|good| good.doc != row.doc && good.id < row.id), "{}", row.doc);
        }
    }
}
