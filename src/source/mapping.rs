//! The layout of the tables: names from the configuration, types from the database.

use std::{fmt, sync::Arc};

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::{SourceError, ThingNames, elastic::IndexLayout, local};
use crate::{
    config::{DeviceTable, RawTable},
    task::Position,
};

/// Names and types of the tables and columns that are read.
#[derive(Debug, Clone)]
pub struct Mapping {
    pub device: DeviceTable,
    pub raw: RawTable,
    /// Where the names of things are.
    pub thing_names: Option<ThingNames>,
    /// Type of `device.id`.
    pub device_id: IdType,
    pub thing_id: IdType,
    pub raw_device: IdType,
    pub key: KeyType,
    pub time: TimeType,
    pub doc: DocType,
    /// Whether rows without a key are possible.
    pub key_nullable: bool,
    /// Whether an index begins with the device column.
    pub has_index: bool,
    /// In PostgreSQL: a condition that raises an error if the types of the columns have changed.
    pub(super) layout_check: Option<String>,
    /// The indices, if the readings are in Elasticsearch or `OpenSearch`.
    pub(super) index: Option<Arc<IndexLayout>>,
    /// Problems that do not prevent reading, such as a missing index.
    pub warnings: Vec<String>,
}

/// A range of stored times, in microseconds; both ends are inclusive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRange {
    /// `None` if another condition limits the start.
    pub from: Option<i64>,
    pub to: i64,
    /// Ranges of times in between that are excluded, both ends inclusive; they occur around a
    /// change of the zone's offset.
    pub holes: Vec<(i64, i64)>,
}

impl Mapping {
    /// Whether rows read by both mappings are equal and in the same order.
    pub(super) fn has_same_types(&self, other: &Self) -> bool {
        let have_same_index = match (&self.index, &other.index) {
            (Some(index), Some(other)) => index.reads_like(other),
            (None, None) => true,
            _ => false,
        };
        have_same_index && self.types() == other.types()
    }

    fn types(&self) -> (IdType, IdType, IdType, KeyType, TimeType, DocType) {
        (self.device_id, self.thing_id, self.raw_device, self.key, self.time, self.doc)
    }

    /// The types that a position depends on, for example `timestamptz/bigint`.
    pub fn layout(&self) -> String {
        if let Some(index) = &self.index {
            return format!("{:?}/_id", index.time_field);
        }
        match self.time {
            TimeType::Local(zone) => format!("{}({zone})/{}", self.time.sql(), self.key.sql()),
            TimeType::Instant | TimeType::EpochMillis => format!("{}/{}", self.time.sql(), self.key.sql()),
        }
    }

    /// A position before the first row of a range.
    pub fn position_before(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> Position {
        let range = self.time.range(from, to);
        // One unit of the stored time earlier; a row at that time is excluded by the start of the
        // range.
        let unit = if self.time == TimeType::EpochMillis { 1_000 } else { 1 };
        Position { time_us: range.from.unwrap_or_default().saturating_sub(unit), key: "".into() }
    }

    pub(super) fn change_error(&self, new: &Self) -> SourceError {
        let mut changes = Vec::new();
        for (column, before, after) in [
            (&self.raw.time, format!("{:?}", self.time), format!("{:?}", new.time)),
            (&self.raw.id, format!("{:?}", self.key), format!("{:?}", new.key)),
            (&self.raw.doc, format!("{:?}", self.doc), format!("{:?}", new.doc)),
            (&self.raw.device, format!("{:?}", self.raw_device), format!("{:?}", new.raw_device)),
        ] {
            if before != after {
                changes.push(format!("column {column} of {} was {before} and is {after}", self.raw.table));
            }
        }
        SourceError::Changed(changes.join(", "))
    }

    /// A remark on a range: some of its times are ambiguous, or it ends where rows may not be found
    /// yet.
    pub fn range_note(&self, from: DateTime<Utc>, to: DateTime<Utc>, now: DateTime<Utc>) -> Option<String> {
        if let Some(index) = &self.index {
            return index.settle_note(to, now);
        }
        let TimeType::Local(zone) = self.time else { return None };
        let ambiguous = local::ambiguous_times(zone, from, to);
        let [first, more @ ..] = ambiguous.as_slice() else { return None };
        let suffix = if more.is_empty() { String::new() } else { format!(", and {} times more", more.len()) };
        Some(format!(
            "times from {} to {} exist twice in {zone} ({} keeps no zone{suffix}): rows are read when either may be meant, and each is taken for the earlier",
            first.0.format("%Y-%m-%d %H:%M:%S"),
            first.1.format("%H:%M:%S"),
            self.raw.time
        ))
    }
}

/// The column type of device and thing ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdType {
    Uuid,
    /// A UUID in lower case, with hyphens.
    Text,
}

/// The column type of row keys; pages are ordered as the database orders this type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    Integer,
    Uuid,
    Text,
}

/// The column type of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeType {
    /// An instant, in microseconds.
    Instant,
    /// A local time in this time zone, in microseconds.
    Local(Tz),
    /// Milliseconds since 1970.
    EpochMillis,
}

/// The column type of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocType {
    /// Parsed on write, and serialised again on read.
    Jsonb,
    /// Byte for byte as written.
    Json,
    /// Byte for byte as written, and possibly not JSON.
    Text,
}

impl IdType {
    pub(super) fn of(column: &str, r#type: &str) -> Result<Self, SourceError> {
        match r#type {
            "uuid" => Ok(Self::Uuid),
            "text" | "character varying" | "character" | "TEXT" => Ok(Self::Text),
            _ => Err(type_mismatch(column, r#type, "uuid or text")),
        }
    }
}

impl KeyType {
    /// Its name in PostgreSQL.
    pub(super) fn sql(self) -> &'static str {
        match self {
            Self::Integer => "bigint",
            Self::Uuid => "uuid",
            Self::Text => "text",
        }
    }

    pub(super) fn of(column: &str, r#type: &str) -> Result<Self, SourceError> {
        match r#type {
            "smallint" | "integer" | "bigint" | "INTEGER" => Ok(Self::Integer),
            "uuid" => Ok(Self::Uuid),
            "text" | "character varying" | "TEXT" => Ok(Self::Text),
            _ => Err(type_mismatch(column, r#type, "an integer, uuid or text")),
        }
    }
}

impl TimeType {
    /// Its name in PostgreSQL.
    pub(super) fn sql(self) -> &'static str {
        match self {
            Self::Instant => "timestamptz",
            Self::Local(_) => "timestamp",
            Self::EpochMillis => "bigint",
        }
    }

    pub(super) fn of(column: &str, r#type: &str, zone: Tz) -> Result<Self, SourceError> {
        match r#type {
            "timestamp with time zone" => Ok(Self::Instant),
            "timestamp without time zone" => Ok(Self::Local(zone)),
            "bigint" | "INTEGER" => Ok(Self::EpochMillis),
            _ => Err(type_mismatch(column, r#type, "timestamptz, timestamp, or a bigint of milliseconds since 1970")),
        }
    }

    /// Converts a range to stored microseconds, both ends inclusive. It is exact even if the
    /// request is of a finer resolution than the stored times. An ambiguous local time is included
    /// if either of its instants is in the range.
    pub fn range(self, from: DateTime<Utc>, to: DateTime<Utc>) -> StoredRange {
        let range = |from, to| StoredRange { from: Some(from), to, holes: Vec::new() };
        match self {
            Self::Instant => range(ceil(from, 1_000), floor(to, 1_000)),
            Self::EpochMillis => range(ceil(from, 1_000_000) * 1_000, floor(to, 1_000_000) * 1_000),
            Self::Local(zone) => local::range(zone, ceil(from, 1_000), floor(to, 1_000)),
        }
    }

    /// Converts a stored time to an instant, both in microseconds since 1970. An ambiguous local
    /// time is taken as the earlier instant.
    pub fn instant_us(self, stored_us: i64) -> i64 {
        match self {
            Self::Instant | Self::EpochMillis => stored_us,
            Self::Local(zone) => local::instant_us(zone, stored_us),
        }
    }
}

/// Units of `nanoseconds` since 1970, rounded up.
fn ceil(time: DateTime<Utc>, nanoseconds: u32) -> i64 {
    floor(time, nanoseconds) + i64::from(!time.timestamp_subsec_nanos().is_multiple_of(nanoseconds))
}

/// Units of `nanoseconds` since 1970, rounded down.
fn floor(time: DateTime<Utc>, nanoseconds: u32) -> i64 {
    time.timestamp() * i64::from(1_000_000_000 / nanoseconds) + i64::from(time.timestamp_subsec_nanos() / nanoseconds)
}

impl DocType {
    /// Its name in PostgreSQL.
    pub(super) fn sql(self) -> &'static str {
        match self {
            Self::Jsonb => "jsonb",
            Self::Json => "json",
            Self::Text => "text",
        }
    }

    pub(super) fn of(column: &str, r#type: &str) -> Result<Self, SourceError> {
        match r#type {
            "jsonb" => Ok(Self::Jsonb),
            "json" => Ok(Self::Json),
            "text" | "character varying" | "TEXT" => Ok(Self::Text),
            _ => Err(type_mismatch(column, r#type, "jsonb, json or text")),
        }
    }
}

fn type_mismatch(column: &str, r#type: &str, expected: &str) -> SourceError {
    SourceError::Mapping(format!("column {column} is of type {type}; it must be {expected}"))
}

/// The output of `data-patch check`.
impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, raw, .. } = self;
        writeln!(
            f,
            "devices   {:?}: id {:?} ({:?}), thing {:?} ({:?}), name {:?}",
            device.table, device.id, self.device_id, device.thing, self.thing_id, device.name
        )?;
        match &self.index {
            Some(index) => write!(f, "readings  {index}")?,
            None => write!(
                f,
                "readings  {:?}: key {:?} ({:?}), device {:?} ({:?}), time {:?} ({:?}), document {:?} ({:?})",
                raw.table, raw.id, self.key, raw.device, self.raw_device, raw.time, self.time, raw.doc, self.doc
            )?,
        }
        if let Some(ThingNames { table, id_type }) = &self.thing_names {
            write!(f, "\nthings    {:?}: id {:?} ({id_type:?}), name {:?}", table.table, table.id, table.name)?;
        }
        for warning in &self.warnings {
            write!(f, "\nadvice    {warning}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    #[test]
    fn a_range_is_never_wider_or_narrower_than_asked() {
        let time = |nanos| Utc.timestamp_opt(100, nanos).unwrap();
        let ends = |of: TimeType, from, to| {
            let range = of.range(from, to);
            (range.from.unwrap(), range.to)
        };
        assert_eq!(ends(TimeType::Instant, time(1), time(1_999)), (100_000_001, 100_000_001));
        assert_eq!(ends(TimeType::Instant, time(1_000), time(1_000)), (100_000_001, 100_000_001));
        assert_eq!(ends(TimeType::EpochMillis, time(1), time(999_999)), (100_001_000, 100_000_000));
        let before = Utc.timestamp_opt(-1, 999_999_999).unwrap();
        assert_eq!(ends(TimeType::EpochMillis, before, before), (0, -1_000));
    }

    #[test]
    fn local_times_are_read_in_their_zone() {
        let zone = TimeType::Local(chrono_tz::Asia::Shanghai);
        let time = Utc.with_ymd_and_hms(2019, 1, 11, 13, 3, 0).unwrap();
        let StoredRange { from, to, .. } = zone.range(time, time);
        let from = from.unwrap();
        assert_eq!(from, to);
        assert_eq!(zone.instant_us(from), time.timestamp_micros());
        assert_eq!(from - time.timestamp_micros(), 8 * 3_600 * 1_000_000);
    }
}
