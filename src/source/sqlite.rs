//! Reading from SQLite: the embedded sample, and small installations.

use bytes::Bytes;
use futures_util::TryStreamExt;
use sea_query::{SelectStatement, SqliteQueryBuilder};
use sqlx::{AssertSqlSafe, Row as _, SqlitePool, sqlite::SqliteRow};
use uuid::Uuid;

use super::{
    Device, Key, KeyType, Mapping, Page, Row, RowSender, SourceError, Timeouts,
    discover::{Column, Table, build_mapping, no_table},
    pages::PAGE_BYTES,
};
use crate::{config::Iota, db};

pub fn pool(config: &Iota) -> Result<SqlitePool, SourceError> {
    let options = db::read_only_options(config.url.reveal())
        .map_err(|error| SourceError::Rejected(format!("iota.url {} can't be read: {error}", config.url)))?;
    Ok(db::pool(options, config.connections))
}

/// Reads the layout of the configured tables.
pub async fn describe(pool: &SqlitePool, config: &Iota) -> Result<Mapping, SourceError> {
    let device = table(pool, &config.device.table).await?;
    let raw = table(pool, &config.raw.table).await?;
    build_mapping(config, &device, &raw)
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
    let mut primary = Vec::new();
    for row in &columns {
        let name: String = row.try_get("name")?;
        let declared = row.try_get::<String, _>("type")?.to_uppercase();
        let in_primary = row.try_get::<i64, _>("pk")? > 0;
        if in_primary {
            primary.push(name.clone());
        }
        // SQLite's own rule of affinity, for the two that are of use here.
        let r#type = if declared.contains("INT") {
            "INTEGER".to_owned()
        } else if ["CHAR", "CLOB", "TEXT", "JSON", "UUID"].iter().any(|word| declared.contains(word)) {
            "TEXT".to_owned()
        } else {
            declared
        };
        // Only a primary key that is the row's own number can't be NULL; others can, in SQLite.
        let nullable = row.try_get::<i64, _>("not_null")? == 0 && !(in_primary && r#type == "INTEGER");
        table.columns.insert(name, Column { r#type, oid: 0, nullable });
    }
    table.index(primary, true);
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

pub async fn device(pool: &SqlitePool, query: &SelectStatement) -> Result<Option<Device>, sqlx::Error> {
    let row = sqlx::query(AssertSqlSafe(query.to_string(SqliteQueryBuilder))).persistent(false).fetch_optional(pool).await?;
    row.map(|row| Ok(Device { name: row.try_get("name")? })).transpose()
}

/// Rows, and rows that have a key.
pub async fn count(pool: &SqlitePool, query: &SelectStatement) -> Result<(u64, u64), sqlx::Error> {
    let row = sqlx::query(AssertSqlSafe(query.to_string(SqliteQueryBuilder))).persistent(false).fetch_one(pool).await?;
    Ok((row.try_get::<i64, _>("rows")?.unsigned_abs(), row.try_get::<i64, _>("keys")?.unsigned_abs()))
}

/// Reads one page, and queues its rows as they come.
pub async fn page(
    pool: &SqlitePool,
    mapping: &Mapping,
    query: SelectStatement,
    timeouts: Timeouts,
    out: &mut RowSender,
) -> Result<Page, SourceError> {
    let query = sqlx::query(AssertSqlSafe(query.to_string(SqliteQueryBuilder))).persistent(false);
    let mut rows = query.fetch(pool);
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
        page.last = Some(row.position());
        if !out.push(row) || page.bytes > PAGE_BYTES as u64 {
            return Ok(page);
        }
    }
    page.is_whole = true;
    Ok(page)
}

fn read(row: &SqliteRow, key: KeyType) -> Result<Row, SourceError> {
    let key = match key {
        KeyType::Integer => Key::Integer(row.try_get("k")?),
        KeyType::Uuid => Key::Uuid(Uuid::try_parse(row.try_get("k")?).map_err(|error| sqlx::Error::Decode(error.into()))?),
        KeyType::Text => Key::Text(row.try_get::<&str, _>("k")?.into()),
    };
    // Unchecked: SQLite keeps what it was given, and a text may be stored as a blob.
    let doc: Option<Vec<u8>> = row.try_get_unchecked("d")?;
    Ok(Row { time_us: row.try_get::<i64, _>("t")?.saturating_mul(1_000), key, doc: doc.map(Bytes::from) })
}
