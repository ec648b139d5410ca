//! Rows that ET can't read, beside those of the sample.

use std::path::Path;

use chrono::TimeDelta;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::source::sample::{self, Reading};

/// Where their keys begin: behind all of the sample's.
const FIRST_ID: i64 = 9_000_001;

/// Makes a document unreadable for ET.
type Spoil = fn(&str) -> String;

/// Three readings of the dam that are spoilt, each in another way.
pub fn rows() -> Vec<Reading> {
    /// Far enough from the first for its device's reading to be in the request's range.
    const AT: usize = 150;
    let [.., strain, piezo, _, _, _] = sample::DAM.devices else { return Vec::new() };
    let spoil: [(_, Spoil); 3] = [
        // The document that has cost ET whole batches: a list where it expects an object.
        (strain, |doc| {
            doc.replace(r#""data":{"frequency""#, r#""data":[{"frequency""#).replace(r#"},"result""#, r#"}],"result""#)
        }),
        // One that was cut off.
        (strain, |doc| doc.chars().take(doc.len() / 2).collect()),
        // One without its time.
        (piezo, |doc| doc.replace("triggerTime", "time")),
    ];
    let rows = (FIRST_ID..).zip(spoil).zip(AT..);
    rows.filter_map(|((id, (device, spoil)), at)| {
        let row = sample::readings().filter(|row| row.device_id == *device).nth(at)?;
        Some(Reading { id, time: row.time + TimeDelta::seconds(1), doc: spoil(&row.doc), ..row })
    })
    .collect()
}

/// Adds them to the sample store.
///
/// # Errors
/// The file can't be written.
pub async fn add(store: &Path) -> Result<(), sqlx::Error> {
    let mut connection = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(store)).await?;
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
    fn they_are_spoilt_and_in_the_range_of_the_dams_request() {
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
