//! Reads the layout of tables from PostgreSQL's catalogue.

use sqlx::Row as _;

use super::Server;
use crate::{
    config::Iota,
    source::{
        SourceError,
        discover::{Column, Table, Tables, no_table, optional},
        select::{literal, quoted},
    },
};

/// Reads the layout of the configured tables.
pub async fn describe(server: &Server, config: &Iota) -> Result<Tables, SourceError> {
    let device = table(server, &config.device.table).await?;
    let raw = if config.readings.is_configured() { None } else { Some(table(server, &config.raw.table).await?) };
    let thing = match config.thing.table.as_str() {
        "" => None,
        name => optional(table(server, name).await)?,
    };
    Ok(Tables { device, raw, thing })
}

async fn table(server: &Server, name: &str) -> Result<Table, SourceError> {
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
    // One row per child, or one row without a child.
    let relation = format!(
        "SELECT format('%I.%I', nspname, relname) AS relation, inhrelid::regclass::text AS child,
                relkind = 'p' OR inhrelid IS NOT NULL AND (SELECT relnamespace::regnamespace::text FROM pg_catalog.pg_class AS child
                                                           WHERE child.oid = inhrelid) = '_timescaledb_internal' AS is_partitioned
         FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
         LEFT JOIN pg_catalog.pg_inherits ON inhparent = pg_class.oid AND relkind <> 'p'
         WHERE pg_class.oid = to_regclass({path}) ORDER BY 2"
    );
    for row in &server.fetch(&relation).await? {
        table.relation = Some(row.try_get("relation")?);
        // TimescaleDB's chunks inherit too, but its unique indexes cover all chunks.
        if row.try_get("is_partitioned")? {
            table.is_partitioned = true;
        } else {
            table.children.extend(row.try_get::<Option<String>, _>("child")?);
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
