//! The SQLite backend: the embedded sample, and small installations.

mod connection;
pub(super) mod error;

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use futures_util::TryStreamExt;
use sea_query::{SelectStatement, SqliteQueryBuilder};
use sqlx::{AssertSqlSafe, FromRow as _, Row as _, SqlitePool, sqlite::SqliteRow};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    CatalogQuery, Device, DeviceRow, KeyType, Mapping, Page, Row, RowSender, Selection, Source, SourceError, StoredRange,
    ThingRow, Timeouts,
    backend::{CatalogBackend, PagedReadings, ReadingsBackend, RowCount},
    discover::{Column, Table, Tables, no_table, optional},
    pages::PAGE_BYTES,
    preview::{CountedGroup, Edges, ProbedGroup, SamplePoint},
    rows::LookUpResult,
    select,
};
use crate::{
    config::Iota,
    task::{Position, RowKey},
};

/// An SQLite file; clones share its connections.
#[derive(Clone)]
pub(super) struct File(SqlitePool);

impl File {
    pub fn new(config: &Iota) -> Result<Self, SourceError> {
        let options = connection::read_only_options(config.url.reveal())
            .map_err(|error| SourceError::Rejected(format!("iota.url {} can't be read: {error}", config.url)))?;
        Ok(Self(connection::pool(options, config.connections)))
    }

    async fn fetch_optional(&self, query: &SelectStatement) -> Result<Option<SqliteRow>, sqlx::Error> {
        let sql = AssertSqlSafe(query.to_string(SqliteQueryBuilder));
        sqlx::query(sql).persistent(false).fetch_optional(&self.0).await
    }
}

impl File {
    async fn fetch_all(&self, query: &SelectStatement) -> Result<Vec<SqliteRow>, sqlx::Error> {
        let sql = AssertSqlSafe(query.to_string(SqliteQueryBuilder));
        sqlx::query(sql).persistent(false).fetch_all(&self.0).await
    }
}

impl CatalogBackend for File {
    async fn describe(&self, config: &Iota) -> Result<Tables, SourceError> {
        let device = table(&self.0, &config.device.table).await?;
        let raw = if config.readings.is_configured() { None } else { Some(table(&self.0, &config.raw.table).await?) };
        let thing = match config.thing.table.as_str() {
            "" => None,
            name => optional(table(&self.0, name).await)?,
        };
        Ok(Tables { device, raw, thing })
    }

    async fn ping(&self) -> Result<(), SourceError> {
        Ok(sqlx::query("SELECT 1").execute(&self.0).await.map(|_| ())?)
    }

    async fn device(&self, mapping: &Mapping, thing: Uuid, device: Uuid) -> Result<Option<Device>, SourceError> {
        let row = self.fetch_optional(&select::device(mapping, thing, device)).await?;
        Ok(row.as_ref().map(Device::from_row).transpose()?)
    }

    async fn things(&self, mapping: &Mapping, query: &CatalogQuery) -> Result<Vec<ThingRow>, SourceError> {
        let rows = self.fetch_all(&select::catalog::things(mapping, query)).await?;
        Ok(rows.iter().map(ThingRow::from_row).collect::<Result<_, _>>()?)
    }

    async fn devices_of(&self, mapping: &Mapping, thing: Uuid, query: &CatalogQuery) -> Result<Vec<DeviceRow>, SourceError> {
        let rows = self.fetch_all(&select::catalog::devices_of(mapping, thing, query)).await?;
        Ok(rows.iter().map(DeviceRow::from_row).collect::<Result<_, _>>()?)
    }

    async fn look_up(&self, mapping: &Mapping, thing: Uuid, devices: &[Uuid]) -> Result<HashMap<Uuid, Device>, SourceError> {
        let rows = self.fetch_all(&select::devices(mapping, thing, devices.iter().copied())).await?;
        let read = |row: &SqliteRow| {
            let id = Uuid::try_parse(row.try_get("id")?).map_err(|error| sqlx::Error::Decode(error.into()))?;
            Ok((id, Device::from_row(row)?))
        };
        Ok(rows.iter().map(read).collect::<Result<_, sqlx::Error>>()?)
    }

    async fn any_device(&self, mapping: &Mapping) -> Result<Option<String>, SourceError> {
        Ok(self.fetch_optional(&select::any_device(mapping)).await?.map(|row| row.try_get(0)).transpose()?)
    }
}

impl ReadingsBackend for File {
    async fn bucket_counts(
        &self,
        mapping: &Mapping,
        devices: &[Uuid],
        edges: &Edges,
        cap: Option<u32>,
        limit: Duration,
    ) -> Result<Option<Vec<CountedGroup>>, SourceError> {
        let work = async {
            let mut groups = Vec::new();
            for (n, device) in (0..).zip(devices) {
                let rows = self.fetch_all(&select::preview::device_buckets(mapping, *device, edges, cap)).await?;
                for row in &rows {
                    groups.push(CountedGroup { n, ..CountedGroup::from_row(row)? });
                }
            }
            Ok(groups)
        };
        within(limit, work).await
    }

    async fn probe(
        &self,
        mapping: &Mapping,
        device: Uuid,
        ranges: &[StoredRange],
        rows: u32,
        limit: Duration,
    ) -> Result<Option<Vec<(usize, ProbedGroup)>>, SourceError> {
        let work = async {
            let mut groups = Vec::new();
            for (n, range) in ranges.iter().enumerate() {
                let row = self.fetch_optional(&select::preview::probe(mapping, device, range, rows)).await?;
                let group = ProbedGroup::from_row(&row.ok_or(sqlx::Error::RowNotFound)?)?;
                groups.push((n, group));
            }
            Ok(groups)
        };
        within(limit, work).await
    }

    async fn sample(
        &self,
        mapping: &Mapping,
        points: &[SamplePoint],
        rows: u32,
        limit: Duration,
        on_row: &mut (dyn FnMut(usize, Option<Bytes>) + Send),
    ) -> Result<bool, SourceError> {
        let work = async {
            for (n, point) in points.iter().enumerate() {
                for row in &self.fetch_all(&select::preview::sample(mapping, point, rows)).await? {
                    // Unchecked: a column of text may contain a blob in SQLite.
                    let doc: Option<Vec<u8>> = row.try_get_unchecked("d")?;
                    on_row(n, doc.map(Bytes::from));
                }
            }
            Ok(())
        };
        Ok(within(limit, work).await?.is_some())
    }

    async fn count(&self, mapping: &Mapping, device: Uuid, range: &StoredRange) -> Result<RowCount, SourceError> {
        let row = self.fetch_optional(&select::count(mapping, device, range)).await?.ok_or(sqlx::Error::RowNotFound)?;
        Ok(RowCount::from_row(&row)?)
    }

    async fn read(&self, source: &Source, selection: Selection, sender: RowSender, first_rows: Option<u32>, is_finished: bool) {
        source.read_pages(self, selection, sender, first_rows, is_finished).await;
    }

    fn open(
        &self,
        source: &Source,
        thing: Uuid,
        selection: Selection,
        reply_to: oneshot::Sender<LookUpResult>,
        sender: RowSender,
    ) {
        let (source, file) = (source.clone(), self.clone());
        tokio::spawn(async move {
            let _ = reply_to.send(source.device(thing, selection.device).await);
            source.read_pages(&file, selection, sender, None, false).await;
        });
    }

    async fn any_reading(&self, mapping: &Mapping) -> Result<Option<String>, SourceError> {
        Ok(self.fetch_optional(&select::any_reading(mapping)).await?.map(|row| row.try_get(0)).transpose()?)
    }

    async fn explain_count(&self, _: &Mapping, _: Uuid, _: &StoredRange) -> Result<Option<String>, SourceError> {
        Ok(None)
    }
}

impl PagedReadings for File {
    async fn page(
        &self,
        mapping: &Mapping,
        selection: &Selection,
        limit: u32,
        timeouts: Timeouts,
        sender: &mut RowSender,
    ) -> Result<Page, SourceError> {
        let query = sqlx::query(AssertSqlSafe(select::page(mapping, selection, limit, None).to_string(SqliteQueryBuilder)))
            .persistent(false);
        let mut rows = query.fetch(&self.0);
        let mut page = Page::default();
        let mut timeout = timeouts.first;
        while let Some(row) = tokio::time::timeout(timeout, rows.try_next())
            .await
            .map_err(|_| SourceError::timeout("waiting for rows", timeout.as_secs()))??
        {
            let row = read(&row, mapping.key)?;
            page.rows += 1;
            page.bytes += row.bytes() as u64;
            timeout = timeouts.next;
            page.last = Some(row.position.clone());
            if !sender.push(row) || page.bytes > PAGE_BYTES as u64 {
                return Ok(page);
            }
        }
        page.is_complete = true;
        Ok(page)
    }
}

/// The result of short statements; `None` if they take longer than `limit`. Each of them ends by
/// itself soon.
async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, SourceError>>) -> Result<Option<T>, SourceError> {
    tokio::time::timeout(limit, work).await.ok().transpose()
}

async fn table(pool: &SqlitePool, name: &str) -> Result<Table, SourceError> {
    let columns = sqlx::query("SELECT name, type, \"notnull\" AS not_null, pk FROM pragma_table_info($1)")
        .bind(name)
        .fetch_all(pool)
        .await?;
    if columns.is_empty() {
        return Err(no_table(name));
    }
    let mut table = Table::new(name);
    let mut primary_key = Vec::new();
    for row in &columns {
        let name: String = row.try_get("name")?;
        let declared = row.try_get::<String, _>("type")?.to_uppercase();
        let is_primary_key = row.try_get::<i64, _>("pk")? > 0;
        if is_primary_key {
            primary_key.push(name.clone());
        }
        // SQLite's rules of type affinity, for the two affinities that are supported here.
        let r#type = if declared.contains("INT") {
            "INTEGER".to_owned()
        } else if ["CHAR", "CLOB", "TEXT", "JSON", "UUID"].iter().any(|word| declared.contains(word)) {
            "TEXT".to_owned()
        } else {
            declared
        };
        // In SQLite, only an INTEGER PRIMARY KEY is never NULL; other primary keys can be.
        let nullable = row.try_get::<i64, _>("not_null")? == 0 && !(is_primary_key && r#type == "INTEGER");
        table.columns.insert(name, Column { r#type, oid: 0, nullable });
    }
    table.index(primary_key, true);
    let indexes = sqlx::query("SELECT name, \"unique\" AS is_unique, partial FROM pragma_index_list($1)")
        .bind(name)
        .fetch_all(pool)
        .await?;
    for row in &indexes {
        let columns = sqlx::query("SELECT name FROM pragma_index_info($1) ORDER BY seqno")
            .bind(row.try_get::<String, _>("name")?)
            .fetch_all(pool)
            .await?;
        let columns =
            columns.iter().map(|column| column.try_get::<Option<String>, _>("name")).collect::<Result<Option<Vec<_>>, _>>()?;
        let unique = row.try_get::<i64, _>("is_unique")? != 0 && row.try_get::<i64, _>("partial")? == 0;
        table.index(columns.unwrap_or_default(), unique);
    }
    Ok(table)
}

fn read(row: &SqliteRow, key: KeyType) -> Result<Row, SourceError> {
    let key = match key {
        KeyType::Integer => RowKey::Integer(row.try_get("k")?),
        KeyType::Uuid => RowKey::Uuid(Uuid::try_parse(row.try_get("k")?).map_err(|error| sqlx::Error::Decode(error.into()))?),
        KeyType::Text => RowKey::from(row.try_get::<&str, _>("k")?),
    };
    // Unchecked: a column of text may contain a blob in SQLite.
    let doc: Option<Vec<u8>> = row.try_get_unchecked("d")?;
    let position = Position { time_us: row.try_get::<i64, _>("t")?.saturating_mul(1_000), key };
    Ok(Row { position, doc: doc.map(Bytes::from) })
}
