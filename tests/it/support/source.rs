//! A separate source database for each test: an SQLite file, or a schema of the real PostgreSQL.

use std::sync::Arc;

use data_patch::{
    config::{Overrides, SecretUrl},
    source::sample,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;
use uuid::Uuid;

use super::{ElasticIndex, elastic::row_key, real};

/// A row of `raw_data`.
#[derive(Debug, Clone)]
pub struct Reading {
    pub id: i64,
    pub device: Uuid,
    /// Milliseconds since 1970.
    pub time_ms: i64,
    pub doc: Option<String>,
}

/// A document that ET can read.
pub fn doc(device: Uuid, value: i64) -> String {
    format!(r#"{{"data": {{"data": {{"v": {value}}}}}, "deviceId": "{device}", "triggerTime": "2019-01-11T21:03:00+08:00"}}"#)
}

/// A lock that keeps others from reading the database.
pub enum SourceLock {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl SourceLock {
    pub async fn release(self) {
        match self {
            Self::Sqlite(connection) => connection.close().await.unwrap(),
            Self::Postgres(connection) => connection.close().await.unwrap(),
        }
    }
}

#[derive(Clone)]
pub enum TestSource {
    Sqlite(Arc<TempDir>),
    Postgres {
        url: String,
        schema: String,
    },
    /// Things and devices in a database, readings in an index.
    Elastic {
        catalog: Box<TestSource>,
        index: ElasticIndex,
    },
}

impl TestSource {
    /// Empty tables, as IoTA has them.
    pub async fn empty() -> Self {
        let source = Self::without_tables().await;
        source.execute(source.tables()).await;
        source
    }

    pub async fn without_tables() -> Self {
        let catalog = Self::database().await;
        match real("READINGS") {
            None => catalog,
            Some(server) => Self::Elastic { catalog: Box::new(catalog), index: ElasticIndex::new(&server).await },
        }
    }

    async fn database() -> Self {
        match real("POSTGRES") {
            None => Self::Sqlite(Arc::new(tempfile::tempdir().unwrap())),
            Some(server) => {
                let schema = format!("t_{}", Uuid::new_v4().simple());
                let mut connection = PgConnection::connect(&server).await.unwrap();
                let make = format!(
                    "CREATE SCHEMA {schema}; CREATE ROLE {schema} LOGIN SUPERUSER; ALTER ROLE {schema} SET search_path = {schema}"
                );
                sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut connection).await.unwrap();
                let separator = if server.contains('?') { '&' } else { '?' };
                Self::Postgres { url: format!("{server}{separator}options=-c%20search_path%3D{schema}"), schema }
            }
        }
    }

    /// Tables of things and devices, and an index for the readings.
    pub async fn with_index(index: &ElasticIndex) -> Self {
        let source = Self::Elastic { catalog: Box::new(Self::database().await), index: index.clone() };
        source.execute(source.tables()).await;
        source
    }

    /// The sample of the demo.
    pub async fn sample() -> Self {
        let source = Self::empty().await;
        for device in sample::devices() {
            source.add_device(device.thing_id, device.id, device.name).await;
        }
        let rows: Vec<Reading> = sample::readings()
            .map(|reading| Reading {
                id: reading.id,
                device: reading.device_id,
                time_ms: reading.time.timestamp_millis(),
                doc: Some(reading.doc),
            })
            .collect();
        source.add(&rows).await;
        source
    }

    pub fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres { .. })
    }

    pub fn url(&self) -> String {
        match self {
            Self::Sqlite(folder) => format!("sqlite://{}", folder.path().join("iota.db").display()),
            Self::Postgres { url, .. } => url.clone(),
            Self::Elastic { catalog, .. } => catalog.url(),
        }
    }

    /// The index of the readings, if they are in one.
    pub fn index(&self) -> Option<&ElasticIndex> {
        match self {
            Self::Sqlite(_) | Self::Postgres { .. } => None,
            Self::Elastic { index, .. } => Some(index),
        }
    }

    /// How the row key of a reading is shown.
    pub fn key(&self, id: i64) -> String {
        if self.index().is_some() { row_key(id) } else { id.to_string() }
    }

    fn tables(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => {
                r#"CREATE TABLE "Device" (id TEXT PRIMARY KEY NOT NULL, name TEXT, "thingId" TEXT NOT NULL);
                   CREATE TABLE raw_data (id INTEGER PRIMARY KEY, "deviceId" TEXT NOT NULL, "triggerTime" INTEGER NOT NULL, doc TEXT);
                   CREATE INDEX raw_data_read ON raw_data ("deviceId", "triggerTime", id);"#
            }
            Self::Postgres { .. } => {
                r#"CREATE TABLE "Device" (id uuid PRIMARY KEY, name text, "thingId" uuid NOT NULL);
                   CREATE TABLE raw_data (id bigint PRIMARY KEY, "deviceId" uuid NOT NULL, "triggerTime" timestamptz NOT NULL, doc jsonb);
                   CREATE INDEX raw_data_read ON raw_data ("deviceId", "triggerTime", id);"#
            }
            Self::Elastic { catalog, .. } => catalog.tables(),
        }
    }

    async fn sqlite(folder: &TempDir) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(folder.path().join("iota.db")).create_if_missing(true);
        SqliteConnection::connect_with(&options).await.unwrap()
    }

    /// Runs SQL statements.
    pub async fn execute(&self, sql: &str) {
        match self {
            Self::Elastic { catalog, .. } => Box::pin(catalog.execute(sql)).await,
            Self::Sqlite(folder) => {
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut Self::sqlite(folder).await).await.unwrap();
            }
            Self::Postgres { url, .. } => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
            }
        }
    }

    pub async fn add_device(&self, thing: Uuid, device: Uuid, name: &str) {
        self.execute(&format!("INSERT INTO \"Device\" (id, name, \"thingId\") VALUES ('{device}', '{name}', '{thing}')")).await;
    }

    pub async fn add(&self, rows: &[Reading]) {
        if let Some(index) = self.index() {
            return index.add(rows).await;
        }
        for rows in rows.chunks(1_000) {
            let values: Vec<String> = rows
                .iter()
                .map(|row| {
                    let time = match self {
                        Self::Sqlite(_) => row.time_ms.to_string(),
                        Self::Postgres { .. } | Self::Elastic { .. } => {
                            format!("'{}'", chrono::DateTime::from_timestamp_millis(row.time_ms).unwrap().to_rfc3339())
                        }
                    };
                    let doc = row.doc.as_ref().map_or("NULL".to_owned(), |doc| format!("'{}'", doc.replace('\'', "''")));
                    format!("({}, '{}', {time}, {doc})", row.id, row.device)
                })
                .collect();
            let sql = format!("INSERT INTO raw_data (id, \"deviceId\", \"triggerTime\", doc) VALUES {}", values.join(","));
            self.execute(&sql).await;
        }
    }

    /// Adds a thing with this many devices of one row each. The log of a task over it has two
    /// entries for each device, and one more.
    pub async fn add_devices_of_one_row(&self, count: i64) -> (Uuid, Vec<Uuid>) {
        let thing = Uuid::new_v4();
        let devices: Vec<_> = (0..count).map(|_| Uuid::new_v4()).collect();
        let mut rows = Vec::new();
        for (id, device) in (1..).zip(&devices) {
            self.add_device(thing, *device, "渗压计").await;
            rows.push(Reading { id, device: *device, time_ms: 1_600_000_000_000, doc: Some(doc(*device, id)) });
        }
        self.add(&rows).await;
        (thing, devices)
    }

    /// Adds a thing with one device and this many rows, one per second from 2019-01-11T13:03:00Z.
    pub async fn add_rows(&self, rows: i64) -> (Uuid, Uuid) {
        let thing = Uuid::new_v4();
        (thing, self.add_device_with_rows(thing, 0, rows).await)
    }

    /// Adds a further device to a thing, as [`add_rows`](Self::add_rows); its row keys follow
    /// `last_id`.
    pub async fn add_device_with_rows(&self, thing: Uuid, last_id: i64, rows: i64) -> Uuid {
        let device = Uuid::new_v4();
        self.add_this_device_with_rows(thing, device, last_id, rows).await;
        device
    }

    /// As [`add_device_with_rows`](Self::add_device_with_rows), with this id.
    pub async fn add_this_device_with_rows(&self, thing: Uuid, device: Uuid, last_id: i64, rows: i64) {
        self.add_device(thing, device, "应变计").await;
        let rows: Vec<Reading> = (0..rows)
            .map(|n| Reading { id: last_id + n + 1, device, time_ms: 1_547_211_780_000 + n * 1_000, doc: Some(doc(device, n)) })
            .collect();
        self.add(&rows).await;
    }

    /// PostgreSQL only: replaces the table of readings by a view on a thousand rows of a device, which
    /// are slow while `speed` is set. It simulates a large table without an index.
    pub async fn make_slow(&self, device: Uuid) {
        self.execute(&format!(
            "DROP TABLE raw_data;
             CREATE TABLE base (id bigint PRIMARY KEY, \"deviceId\" uuid, \"triggerTime\" timestamptz, doc jsonb);
             CREATE TABLE speed (seconds double precision); INSERT INTO speed VALUES (0.05);
             CREATE FUNCTION slow() RETURNS boolean LANGUAGE plpgsql VOLATILE AS
               $$ BEGIN PERFORM pg_sleep(seconds) FROM speed; RETURN true; END $$;
             CREATE VIEW raw_data AS SELECT * FROM base WHERE slow();
             INSERT INTO base SELECT n, '{device}', '2019-01-11T00:00:00Z'::timestamptz + n * interval '1 s', '{{}}'
               FROM generate_series(1, 1000) AS n;"
        ))
        .await;
    }

    /// The stored documents of a device, in the order of time and key.
    pub async fn docs(&self, device: Uuid) -> Vec<String> {
        if let Some(index) = self.index() {
            return index.docs(device).await;
        }
        let sql =
            format!("SELECT CAST(doc AS text) AS doc FROM raw_data WHERE \"deviceId\" = '{device}' ORDER BY \"triggerTime\", id");
        match self {
            Self::Sqlite(folder) => {
                let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut Self::sqlite(folder).await).await.unwrap();
                rows.iter().filter_map(|row| row.get("doc")).collect()
            }
            Self::Postgres { url, .. } => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
                rows.iter().filter_map(|row| row.get("doc")).collect()
            }
            Self::Elastic { .. } => Vec::new(),
        }
    }

    /// A direct connection without a pooler; `None` on SQLite.
    pub async fn postgres(&self) -> Option<PgConnection> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres { url, .. } => Some(PgConnection::connect(url).await.unwrap()),
            Self::Elastic { catalog, .. } => Box::pin(catalog.postgres()).await,
        }
    }

    /// Keeps others from reading the database until the lock is released.
    pub async fn lock(&self) -> SourceLock {
        match self {
            Self::Sqlite(folder) => {
                let mut connection = Self::sqlite(folder).await;
                sqlx::raw_sql("BEGIN EXCLUSIVE").execute(&mut connection).await.unwrap();
                SourceLock::Sqlite(connection)
            }
            Self::Postgres { url, .. } => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                let lock = r#"BEGIN; LOCK TABLE "Device", raw_data IN ACCESS EXCLUSIVE MODE"#;
                sqlx::raw_sql(lock).execute(&mut connection).await.unwrap();
                SourceLock::Postgres(connection)
            }
            Self::Elastic { catalog, .. } => Box::pin(catalog.lock()).await,
        }
    }

    /// Sets its URL in a configuration.
    pub fn configure(&self, overrides: &mut Overrides) {
        if let Self::Elastic { catalog, index } = self {
            catalog.configure(overrides);
            // What a test indexes can be found at once.
            overrides.set(&["iota", "readings", "url"], index.url()).set(&["iota", "readings", "settle_seconds"], 0);
            return;
        }
        let url = match (self, real("PGBOUNCER")) {
            (Self::Postgres { .. }, Some(address)) => self.through(&address),
            _ => self.url(),
        };
        overrides.set(&["iota", "url"], SecretUrl::new(url).reveal());
    }

    /// Its URL through a pooler. A pooler does not forward session options, so a user with the
    /// schema's name is used.
    pub fn through(&self, pooler: &str) -> String {
        let Self::Postgres { url, schema } = self else { panic!("no pooler speaks SQLite") };
        let database = url.rsplit_once('/').unwrap().1.split('?').next().unwrap();
        format!("postgres://{schema}@{pooler}/{database}?sslmode=disable")
    }
}
