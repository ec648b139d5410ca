//! Finding out how the store's tables are laid out.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{Row as _, SqlitePool};

use super::{
    DocType, IdType, KeyType, Mapping, SourceError, TimeType,
    postgres::Server,
    select::{layout_check, literal, quoted},
};
use crate::config::{Iota, RawTable};

/// What a column is.
struct Column {
    r#type: String,
    /// The type's number in PostgreSQL.
    oid: u32,
    nullable: bool,
}

/// A table as the catalogue tells of it.
struct Table {
    name: String,
    columns: BTreeMap<String, Column>,
    /// Columns of each unique index, and the first column of any index.
    unique: Vec<BTreeSet<String>>,
    leading: BTreeSet<String>,
    /// Its full name in PostgreSQL, quoted.
    relation: Option<String>,
    /// Tables that inherit from it, but for partitions: its indexes are not theirs.
    heirs: Vec<String>,
    is_partitioned: bool,
}

pub async fn postgres(server: &Server, config: &Iota) -> Result<Mapping, SourceError> {
    let device = postgres_table(server, &config.device.table).await?;
    let raw = postgres_table(server, &config.raw.table).await?;
    build_mapping(config, &device, &raw)
}

pub async fn sqlite(pool: &SqlitePool, config: &Iota) -> Result<Mapping, SourceError> {
    let device = sqlite_table(pool, &config.device.table).await?;
    let raw = sqlite_table(pool, &config.raw.table).await?;
    build_mapping(config, &device, &raw)
}

fn build_mapping(config: &Iota, device: &Table, raw: &Table) -> Result<Mapping, SourceError> {
    let device_id = device.column(&config.device.id, "iota.device.id")?;
    let thing = device.column(&config.device.thing, "iota.device.thing")?;
    device.column(&config.device.name, "iota.device.name")?;
    let key = raw.column(&config.raw.id, "iota.raw.id")?;
    let raw_device = raw.column(&config.raw.device, "iota.raw.device")?;
    let time = raw.column(&config.raw.time, "iota.raw.time")?;
    let doc = raw.column(&config.raw.doc, "iota.raw.doc")?;
    let mut advice = Vec::new();
    let used = [&config.raw.time, &config.raw.id, &config.raw.doc, &config.raw.device];
    let check = raw.relation.as_ref().map(|relation| {
        let columns: Vec<_> = used.iter().filter_map(|name| Some((name.as_str(), raw.columns.get(*name)?.oid))).collect();
        layout_check(relation, &columns, raw.is_partitioned || !raw.heirs.is_empty())
    });
    require_unique_key(raw, &config.raw, config.assume_unique_row_key, &mut advice)?;
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
        has_index: raw.leading.contains(&config.raw.device),
        check,
        warnings: advice,
    })
}

/// Two rows with the same device, time and key could not be told apart at a page's edge, and one would be lost.
fn require_unique_key(raw: &Table, names: &RawTable, trusted: bool, advice: &mut Vec<String>) -> Result<(), SourceError> {
    let within: BTreeSet<_> = [&names.id, &names.device, &names.time].into_iter().cloned().collect();
    let is_unique = raw.unique.iter().any(|columns| columns.contains(&names.id) && columns.is_subset(&within));
    if is_unique && raw.heirs.is_empty() {
        return Ok(());
    }
    if !raw.heirs.is_empty() {
        let heirs = raw.heirs.join(", ");
        if trusted {
            advice.push(format!(
                "the unique indexes of {} do not hold together with its children by INHERITS ({heirs}); iota.assume_unique_row_key says that {:?} is unique in all of them",
                raw.name, names.id
            ));
            return Ok(());
        }
        return Err(SourceError::Mapping(format!(
            "{} has children by INHERITS ({heirs}), and no unique index of a parent holds for its children: two rows with the same time and {:?} could not be told apart, and one could be lost. \
             Make them declarative partitions (ATTACH PARTITION), or set iota.assume_unique_row_key = true if you know that {:?} is unique in all of them",
            raw.name, names.id, names.id
        )));
    }
    if trusted {
        advice.push(format!(
            "no unique index makes {:?} of {} unique; iota.assume_unique_row_key says that it is",
            names.id, raw.name
        ));
        return Ok(());
    }
    Err(SourceError::Mapping(format!(
        "no unique index of {} says that its row key {:?} is unique (alone, or with device and time), and rows that look the same could be lost. \
         Name a unique column in iota.raw.id, add a unique index, or set iota.assume_unique_row_key = true if you know that it is unique",
        raw.name, names.id
    )))
}

impl Table {
    fn column(&self, name: &str, option: &str) -> Result<&Column, SourceError> {
        self.columns.get(name).ok_or_else(|| {
            let there_are: Vec<_> = self.columns.keys().map(String::as_str).collect();
            SourceError::Mapping(format!(
                "table {} has no column {name:?} ({option}); it has {}",
                self.name,
                there_are.join(", ")
            ))
        })
    }
}

fn no_table(name: &str) -> SourceError {
    SourceError::Mapping(format!(
        "there is no table {name:?}; set iota.device.table and iota.raw.table (\"schema.table\" is fine), and see that this user may read them"
    ))
}

async fn postgres_table(server: &Server, name: &str) -> Result<Table, SourceError> {
    let path = literal(&name.splitn(2, '.').map(quoted).collect::<Vec<_>>().join("."));
    let columns = format!(
        "SELECT attname::text AS name, format_type(atttypid, NULL) AS type, atttypid::int8 AS oid, NOT attnotnull AS nullable
         FROM pg_catalog.pg_attribute WHERE attrelid = to_regclass({path}) AND attnum > 0 AND NOT attisdropped"
    );
    let columns = server.fetch(&columns).await?;
    if columns.is_empty() {
        return Err(no_table(name));
    }
    let mut table = Table::new(name);
    for row in &columns {
        let oid = u32::try_from(row.try_get::<i64, _>("oid")?).unwrap_or_default();
        let column = Column { r#type: row.try_get("type")?, oid, nullable: row.try_get("nullable")? };
        table.columns.insert(row.try_get("name")?, column);
    }
    // One row for each heir, or one with none.
    let relation = format!(
        "SELECT format('%I.%I', nspname, relname) AS relation, inhrelid::regclass::text AS heir,
                relkind = 'p' OR inhrelid IS NOT NULL AND (SELECT relnamespace::regnamespace::text FROM pg_catalog.pg_class AS child
                                                           WHERE child.oid = inhrelid) = '_timescaledb_internal' AS is_partitioned
         FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
         LEFT JOIN pg_catalog.pg_inherits ON inhparent = pg_class.oid AND relkind <> 'p'
         WHERE pg_class.oid = to_regclass({path}) ORDER BY 2"
    );
    for row in &server.fetch(&relation).await? {
        table.relation = Some(row.try_get("relation")?);
        // TimescaleDB's chunks inherit, and its unique indexes hold for all of them together.
        if row.try_get("is_partitioned")? {
            table.is_partitioned = true;
        } else {
            table.heirs.extend(row.try_get::<Option<String>, _>("heir")?);
        }
    }
    let indexes = format!(
        "SELECT indisunique AND indpred IS NULL AND indexprs IS NULL AS is_unique,
                (SELECT array_agg(attname::text ORDER BY place)
                 FROM unnest(indkey::int2[]) WITH ORDINALITY AS k (number, place)
                 JOIN pg_catalog.pg_attribute ON attrelid = indrelid AND attnum = k.number
                 WHERE place <= indnkeyatts) AS columns
         FROM pg_catalog.pg_index WHERE indrelid = to_regclass({path}) AND indisvalid"
    );
    for row in &server.fetch(&indexes).await? {
        let columns: Vec<String> = row.try_get::<Option<_>, _>("columns")?.unwrap_or_default();
        table.index(columns, row.try_get("is_unique")?);
    }
    Ok(table)
}

async fn sqlite_table(pool: &SqlitePool, name: &str) -> Result<Table, SourceError> {
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

impl Table {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            columns: BTreeMap::new(),
            unique: Vec::new(),
            leading: BTreeSet::new(),
            relation: None,
            heirs: Vec::new(),
            is_partitioned: false,
        }
    }

    fn index(&mut self, columns: Vec<String>, unique: bool) {
        if let Some(first) = columns.first() {
            self.leading.insert(first.clone());
            if unique {
                self.unique.push(columns.into_iter().collect());
            }
        }
    }
}
