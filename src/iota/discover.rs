//! Finding out how the store's tables are laid out.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{PgPool, Row as _, SqlitePool};

use super::{DocType, IdType, KeyType, Mapping, StoreError, TimeType};
use crate::config::{Iota, RawTable};

/// What a column is.
struct Column {
    r#type: String,
    nullable: bool,
}

/// A table as the catalogue tells of it.
struct Table {
    name: String,
    columns: BTreeMap<String, Column>,
    /// Columns of each unique index, and the first column of any index.
    unique: Vec<BTreeSet<String>>,
    leading: BTreeSet<String>,
}

pub async fn postgres(pool: &PgPool, config: &Iota) -> Result<Mapping, StoreError> {
    let device = postgres_table(pool, &config.device.table).await?;
    let raw = postgres_table(pool, &config.raw.table).await?;
    fit(config, &device, &raw)
}

pub async fn sqlite(pool: &SqlitePool, config: &Iota) -> Result<Mapping, StoreError> {
    let device = sqlite_table(pool, &config.device.table).await?;
    let raw = sqlite_table(pool, &config.raw.table).await?;
    fit(config, &device, &raw)
}

fn fit(config: &Iota, device: &Table, raw: &Table) -> Result<Mapping, StoreError> {
    let device_id = device.column(&config.device.id, "iota.device.id")?;
    let thing = device.column(&config.device.thing, "iota.device.thing")?;
    device.column(&config.device.name, "iota.device.name")?;
    let key = raw.column(&config.raw.id, "iota.raw.id")?;
    let raw_device = raw.column(&config.raw.device, "iota.raw.device")?;
    let time = raw.column(&config.raw.time, "iota.raw.time")?;
    let doc = raw.column(&config.raw.doc, "iota.raw.doc")?;
    let mut advice = Vec::new();
    require_unique_key(raw, &config.raw, config.trust_row_key, &mut advice)?;
    if !raw.leading.contains(&config.raw.device) {
        advice.push(format!(
            "no index of {} begins with {:?}: every page reads the whole table. An index on ({}, {}, {}) makes it quick",
            raw.name, config.raw.device, config.raw.device, config.raw.time, config.raw.id
        ));
    }
    Ok(Mapping {
        device_id: IdType::of(&config.device.id, &device_id.r#type)?,
        thing_id: IdType::of(&config.device.thing, &thing.r#type)?,
        raw_device: IdType::of(&config.raw.device, &raw_device.r#type)?,
        key: KeyType::of(&config.raw.id, &key.r#type)?,
        time: TimeType::of(&config.raw.time, &time.r#type, config.time_zone)?,
        doc: DocType::of(&config.raw.doc, &doc.r#type)?,
        key_nullable: key.nullable,
        device: config.device.clone(),
        raw: config.raw.clone(),
        advice,
    })
}

/// Two rows with the same device, time and key could not be told apart at a page's edge, and one would be lost.
fn require_unique_key(raw: &Table, names: &RawTable, trusted: bool, advice: &mut Vec<String>) -> Result<(), StoreError> {
    let within: BTreeSet<_> = [&names.id, &names.device, &names.time].into_iter().cloned().collect();
    if raw.unique.iter().any(|columns| columns.contains(&names.id) && columns.is_subset(&within)) {
        return Ok(());
    }
    if trusted {
        advice.push(format!("no unique index makes {:?} of {} unique; iota.trust_row_key says that it is", names.id, raw.name));
        return Ok(());
    }
    Err(StoreError::Mapping(format!(
        "no unique index of {} says that its row key {:?} is unique (alone, or with device and time), and rows that look the same could be lost. \
         Name a unique column in iota.raw.id, add a unique index, or set iota.trust_row_key = true if you know that it is unique",
        raw.name, names.id
    )))
}

impl Table {
    fn column(&self, name: &str, option: &str) -> Result<&Column, StoreError> {
        self.columns.get(name).ok_or_else(|| {
            let there_are: Vec<_> = self.columns.keys().map(String::as_str).collect();
            StoreError::Mapping(format!("table {} has no column {name:?} ({option}); it has {}", self.name, there_are.join(", ")))
        })
    }
}

fn no_table(name: &str) -> StoreError {
    StoreError::Mapping(format!(
        "there is no table {name:?}; set iota.device.table and iota.raw.table (\"schema.table\" is fine), and see that this user may read them"
    ))
}

async fn postgres_table(pool: &PgPool, name: &str) -> Result<Table, StoreError> {
    let quoted = name.splitn(2, '.').map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect::<Vec<_>>().join(".");
    let columns = sqlx::query(
        "SELECT attname::text AS name, format_type(atttypid, NULL) AS type, NOT attnotnull AS nullable
         FROM pg_catalog.pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped",
    )
    .bind(&quoted)
    .fetch_all(pool)
    .await?;
    if columns.is_empty() {
        return Err(no_table(name));
    }
    let mut table = Table { name: name.to_owned(), columns: BTreeMap::new(), unique: Vec::new(), leading: BTreeSet::new() };
    for row in &columns {
        let column = Column { r#type: row.try_get("type")?, nullable: row.try_get("nullable")? };
        table.columns.insert(row.try_get("name")?, column);
    }
    let indexes = sqlx::query(
        "SELECT indisunique AND indpred IS NULL AND indexprs IS NULL AS is_unique,
                (SELECT array_agg(attname::text ORDER BY place)
                 FROM unnest(indkey::int2[]) WITH ORDINALITY AS k (number, place)
                 JOIN pg_catalog.pg_attribute ON attrelid = indrelid AND attnum = k.number
                 WHERE place <= indnkeyatts) AS columns
         FROM pg_catalog.pg_index WHERE indrelid = to_regclass($1) AND indisvalid",
    )
    .bind(&quoted)
    .fetch_all(pool)
    .await?;
    for row in &indexes {
        let columns: Vec<String> = row.try_get::<Option<_>, _>("columns")?.unwrap_or_default();
        table.index(columns, row.try_get("is_unique")?);
    }
    Ok(table)
}

async fn sqlite_table(pool: &SqlitePool, name: &str) -> Result<Table, StoreError> {
    let columns = sqlx::query("SELECT name, type, \"notnull\" AS not_null, pk FROM pragma_table_info($1)")
        .bind(name)
        .fetch_all(pool)
        .await?;
    if columns.is_empty() {
        return Err(no_table(name));
    }
    let mut table = Table { name: name.to_owned(), columns: BTreeMap::new(), unique: Vec::new(), leading: BTreeSet::new() };
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
        table.columns.insert(name, Column { r#type, nullable });
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

impl Table {
    fn index(&mut self, columns: Vec<String>, unique: bool) {
        if let Some(first) = columns.first() {
            self.leading.insert(first.clone());
            if unique {
                self.unique.push(columns.into_iter().collect());
            }
        }
    }
}
