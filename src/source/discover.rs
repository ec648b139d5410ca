//! Builds the [`Mapping`] from the configuration and the tables that a database describes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{DocType, IdType, KeyType, Mapping, SourceError, ThingNames, TimeType, elastic::IndexLayout, select::layout_check};
use crate::config::{Iota, RawTable};

/// A column in the catalogue.
pub(super) struct Column {
    pub r#type: String,
    /// The type's OID in PostgreSQL.
    pub oid: u32,
    pub nullable: bool,
}

/// A table in the catalogue.
pub(super) struct Table {
    name: String,
    pub columns: BTreeMap<String, Column>,
    /// Columns of each unique index.
    unique: Vec<BTreeSet<String>>,
    /// The first column of each index.
    leading: BTreeSet<String>,
    /// Its full name in PostgreSQL, quoted.
    pub relation: Option<String>,
    /// Tables that inherit from it and are no partitions: its unique indexes do not cover their
    /// rows.
    pub children: Vec<String>,
    pub is_partitioned: bool,
}

/// A table that is only missed if it does not exist.
pub(super) fn optional(table: Result<Table, SourceError>) -> Result<Option<Table>, SourceError> {
    match table {
        Err(SourceError::Mapping(_)) => Ok(None),
        table => table.map(Some),
    }
}

/// The configured tables, as the database describes them.
pub(super) struct Tables {
    pub device: Table,
    /// `None`: the readings are elsewhere.
    pub raw: Option<Table>,
    pub thing: Option<Table>,
}

/// How raw readings are stored.
pub(super) struct RawLayout {
    pub raw: RawTable,
    pub raw_device: IdType,
    pub key: KeyType,
    pub time: TimeType,
    pub doc: DocType,
    pub key_nullable: bool,
    pub has_index: bool,
    pub layout_check: Option<String>,
    /// `None`: they are in a table.
    pub index: Option<Arc<IndexLayout>>,
    pub warnings: Vec<String>,
}

pub(super) fn build_mapping(config: &Iota, tables: &Tables, raw: RawLayout) -> Result<Mapping, SourceError> {
    let device = &tables.device;
    let device_id = device.column(&config.device.id, "iota.device.id")?;
    let device_thing = device.column(&config.device.thing, "iota.device.thing")?;
    device.column(&config.device.name, "iota.device.name")?;
    let RawLayout { raw, raw_device, key, time, doc, key_nullable, has_index, layout_check, index, mut warnings } = raw;
    let thing_names = thing_names(config, tables.thing.as_ref(), &mut warnings);
    Ok(Mapping {
        thing_names,
        device_id: IdType::of(&config.device.id, &device_id.r#type)?,
        thing_id: IdType::of(&config.device.thing, &device_thing.r#type)?,
        raw_device,
        key,
        time,
        doc,
        key_nullable,
        device: config.device.clone(),
        raw,
        has_index,
        layout_check,
        index,
        warnings,
    })
}

/// The layout of a table of raw readings.
pub(super) fn raw_layout(config: &Iota, raw: &Table) -> Result<RawLayout, SourceError> {
    let key = raw.column(&config.raw.id, "iota.raw.id")?;
    let raw_device = raw.column(&config.raw.device, "iota.raw.device")?;
    let time = raw.column(&config.raw.time, "iota.raw.time")?;
    let doc = raw.column(&config.raw.doc, "iota.raw.doc")?;
    let mut warnings = Vec::new();
    let used = [&config.raw.time, &config.raw.id, &config.raw.doc, &config.raw.device];
    let layout_check = raw.relation.as_ref().map(|relation| {
        let columns: Vec<_> = used.iter().filter_map(|name| Some((name.as_str(), raw.columns.get(*name)?.oid))).collect();
        layout_check(relation, &columns, raw.is_partitioned || !raw.children.is_empty())
    });
    require_unique_key(raw, &config.raw, config.assume_unique_row_key, &mut warnings)?;
    if !raw.leading.contains(&config.raw.device) {
        warnings.push(format!(
            "no index of {} begins with {:?}: every page scans the whole table. Create an index on ({}, {}, {})",
            raw.name, config.raw.device, config.raw.device, config.raw.time, config.raw.id
        ));
    }
    Ok(RawLayout {
        raw_device: IdType::of(&config.raw.device, &raw_device.r#type)?,
        key: KeyType::of(&config.raw.id, &key.r#type)?,
        time: TimeType::of(&config.raw.time, &time.r#type, config.time_zone)?,
        doc: DocType::of(&config.raw.doc, &doc.r#type)?,
        key_nullable: key.nullable,
        raw: config.raw.clone(),
        has_index: raw.leading.contains(&config.raw.device),
        layout_check,
        index: None,
        warnings,
    })
}

/// The names of things are only shown, so that no job fails for want of them.
fn thing_names(config: &Iota, thing: Option<&Table>, warnings: &mut Vec<String>) -> Option<ThingNames> {
    let names = &config.thing;
    if names.table.is_empty() {
        return None;
    }
    let id_type = thing.ok_or_else(|| no_table(&names.table)).and_then(|thing| {
        thing.column(&names.name, "iota.thing.name")?;
        IdType::of(&names.id, &thing.column(&names.id, "iota.thing.id")?.r#type)
    });
    match id_type {
        Ok(id_type) => Some(ThingNames { table: names.clone(), id_type }),
        Err(error) => {
            warnings.push(format!("things are shown without names: {error}. Correct iota.thing, or set iota.thing.table = \"\""));
            None
        }
    }
}

/// Fails unless the row key is unique. Two rows with the same device, time and key cannot be
/// distinguished at a page boundary, and one of them would be lost.
fn require_unique_key(raw: &Table, names: &RawTable, assume_unique: bool, warnings: &mut Vec<String>) -> Result<(), SourceError> {
    let within: BTreeSet<_> = [&names.id, &names.device, &names.time].into_iter().cloned().collect();
    let is_unique = raw.unique.iter().any(|columns| columns.contains(&names.id) && columns.is_subset(&within));
    if is_unique && raw.children.is_empty() {
        return Ok(());
    }
    if !raw.children.is_empty() {
        let children = raw.children.join(", ");
        if assume_unique {
            warnings.push(format!(
                "the unique indexes of {} do not cover its children by INHERITS ({children}); iota.assume_unique_row_key says that {:?} is unique in all of them",
                raw.name, names.id
            ));
            return Ok(());
        }
        return Err(SourceError::Mapping(format!(
            "{} has children by INHERITS ({children}), and a unique index of a parent does not cover its children: two rows with the same time and {:?} cannot be distinguished, and one could be lost. \
             Make them declarative partitions (ATTACH PARTITION), or set iota.assume_unique_row_key = true if you know that {:?} is unique in all of them",
            raw.name, names.id, names.id
        )));
    }
    if assume_unique {
        warnings.push(format!(
            "no unique index makes {:?} of {} unique; iota.assume_unique_row_key says that it is",
            names.id, raw.name
        ));
        return Ok(());
    }
    Err(SourceError::Mapping(format!(
        "no unique index of {} makes its row key {:?} unique (alone, or with device and time), and rows that look the same could be lost. \
         Name a unique column in iota.raw.id, add a unique index, or set iota.assume_unique_row_key = true if you know that it is unique",
        raw.name, names.id
    )))
}

impl Table {
    fn column(&self, name: &str, option: &str) -> Result<&Column, SourceError> {
        self.columns.get(name).ok_or_else(|| {
            let existing: Vec<_> = self.columns.keys().map(String::as_str).collect();
            SourceError::Mapping(format!("table {} has no column {name:?} ({option}); it has {}", self.name, existing.join(", ")))
        })
    }
}

pub(super) fn no_table(name: &str) -> SourceError {
    SourceError::Mapping(format!(
        "there is no table {name:?}; set iota.device.table, iota.raw.table and iota.thing.table (\"schema.table\" is fine), and see that this user may read them"
    ))
}

impl Table {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            columns: BTreeMap::new(),
            unique: Vec::new(),
            leading: BTreeSet::new(),
            relation: None,
            children: Vec::new(),
            is_partitioned: false,
        }
    }

    pub fn index(&mut self, columns: Vec<String>, unique: bool) {
        if let Some(first) = columns.first() {
            self.leading.insert(first.clone());
            if unique {
                self.unique.push(columns.into_iter().collect());
            }
        }
    }
}
