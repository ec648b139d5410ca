//! Writes the sample into an SQLite file, for the demo and the tests.

use std::path::Path;

use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use super::sample;

/// Creates the file and writes the sample into it.
///
/// # Errors
/// The file cannot be written.
pub async fn write(path: &Path) -> Result<(), sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql(
        "CREATE TABLE \"Thing\" (id TEXT PRIMARY KEY NOT NULL, name TEXT);
         CREATE TABLE \"Device\" (id TEXT PRIMARY KEY NOT NULL, name TEXT, \"thingId\" TEXT NOT NULL);
         CREATE TABLE raw_data (id INTEGER PRIMARY KEY, \"deviceId\" TEXT NOT NULL, \"triggerTime\" INTEGER NOT NULL, doc TEXT);
         CREATE INDEX raw_data_device_time ON raw_data (\"deviceId\", \"triggerTime\", id);",
    )
    .execute(&mut *transaction)
    .await?;
    for (thing, name) in sample::THINGS {
        let insert = sqlx::query("INSERT INTO \"Thing\" VALUES ($1, $2)").bind(thing.to_string()).bind(name);
        insert.execute(&mut *transaction).await?;
    }
    for device in sample::devices() {
        sqlx::query("INSERT INTO \"Device\" VALUES ($1, $2, $3)")
            .bind(device.id.to_string())
            .bind(device.name)
            .bind(device.thing_id.to_string())
            .execute(&mut *transaction)
            .await?;
    }
    for reading in sample::readings() {
        sqlx::query("INSERT INTO raw_data VALUES ($1, $2, $3, $4)")
            .bind(reading.id)
            .bind(reading.device_id.to_string())
            .bind(reading.time.timestamp_millis())
            .bind(reading.doc)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    connection.close().await
}
