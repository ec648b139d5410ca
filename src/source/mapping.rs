//! How the store's tables are laid out: names from the configuration, types found out at start.

use std::fmt;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::{SourceError, local};
use crate::{
    config::{DeviceTable, RawTable},
    task::Position,
};

/// Names and types of what is read.
#[derive(Debug, Clone)]
pub struct Mapping {
    pub device: DeviceTable,
    pub raw: RawTable,
    /// Of `device.id`, `device.thing` and `raw.device`.
    pub device_id: IdType,
    pub thing_id: IdType,
    pub raw_device: IdType,
    pub key: KeyType,
    pub time: TimeType,
    pub doc: DocType,
    /// Whether there may be rows with no key.
    pub key_nullable: bool,
    /// An index begins with the device.
    pub has_index: bool,
    /// In PostgreSQL: a condition that raises an error when columns are of other types than these.
    pub(super) check: Option<String>,
    /// What works, and could be better.
    pub warnings: Vec<String>,
}

/// A range of times as the store counts them, in microseconds; both ends are included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRange {
    /// `None`: something else says where it begins.
    pub from: Option<i64>,
    pub to: i64,
    /// Times in between that are not in the range, both ends included: local times before and after a clock was set back.
    pub holes: Vec<(i64, i64)>,
}

impl Mapping {
    /// Whether rows that are read by the one are what they are by the other, and in the same order.
    pub(super) fn reads_like(&self, other: &Self) -> bool {
        self.types() == other.types()
    }

    fn types(&self) -> (IdType, IdType, IdType, KeyType, TimeType, DocType) {
        (self.device_id, self.thing_id, self.raw_device, self.key, self.time, self.doc)
    }

    /// What a position depends on, as a short text: `timestamptz/bigint`.
    pub fn layout(&self) -> String {
        match self.time {
            TimeType::Local(zone) => format!("{}({zone})/{}", self.time.sql(), self.key.sql()),
            TimeType::Instant | TimeType::EpochMillis => format!("{}/{}", self.time.sql(), self.key.sql()),
        }
    }

    /// A position in front of a range.
    pub fn position_before(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> Position {
        let range = self.time.range(from, to);
        // One unit of the store's earlier; what has that time is left out by the range's beginning.
        let unit = if self.time == TimeType::EpochMillis { 1_000 } else { 1 };
        Position { time_us: range.from.unwrap_or_default().saturating_sub(unit), key: String::new() }
    }

    pub(super) fn changed_to(&self, now: &Self) -> SourceError {
        let mut changes = Vec::new();
        for (column, before, after) in [
            (&self.raw.time, format!("{:?}", self.time), format!("{:?}", now.time)),
            (&self.raw.id, format!("{:?}", self.key), format!("{:?}", now.key)),
            (&self.raw.doc, format!("{:?}", self.doc), format!("{:?}", now.doc)),
            (&self.raw.device, format!("{:?}", self.raw_device), format!("{:?}", now.raw_device)),
        ] {
            if before != after {
                changes.push(format!("column {column} of {} was {before} and is {after}", self.raw.table));
            }
        }
        SourceError::Changed(changes.join(", "))
    }

    /// What the store can't tell about the times of this range, if anything.
    pub fn ambiguity_note(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> Option<String> {
        let TimeType::Local(zone) = self.time else { return None };
        let twice = local::twice(zone, from, to);
        let [first, others @ ..] = twice.as_slice() else { return None };
        let more = if others.is_empty() { String::new() } else { format!(", and {} times more", others.len()) };
        Some(format!(
            "times from {} to {} exist twice in {zone} ({} keeps no zone{more}): rows are read when either may be meant, and each is taken for the earlier",
            first.0.format("%Y-%m-%d %H:%M:%S"),
            first.1.format("%H:%M:%S"),
            self.raw.time
        ))
    }
}

/// How device and thing ids are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdType {
    Uuid,
    /// Lower case, with hyphens.
    Text,
}

/// How row keys are stored; pages are ordered as the store orders them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    Integer,
    Uuid,
    Text,
}

/// How times are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeType {
    /// An instant, in microseconds.
    Instant,
    /// A local time of this zone, in microseconds.
    Local(Tz),
    /// Milliseconds since 1970.
    EpochMillis,
}

/// How documents are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocType {
    /// The store has parsed it and writes it anew.
    Jsonb,
    /// Byte for byte as it came.
    Json,
    /// Byte for byte as it came, and perhaps no JSON.
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

    /// The range in microseconds as the store counts, both ends included: no row outside it, and none of it left out,
    /// however much finer than the store the request was. A local time that exists twice is in it when either is.
    pub fn range(self, from: DateTime<Utc>, to: DateTime<Utc>) -> StoredRange {
        let whole = |from, to| StoredRange { from: Some(from), to, holes: Vec::new() };
        match self {
            Self::Instant => whole(ceil(from, 1_000), floor(to, 1_000)),
            Self::EpochMillis => whole(ceil(from, 1_000_000) * 1_000, floor(to, 1_000_000) * 1_000),
            Self::Local(zone) => local::range(zone, ceil(from, 1_000), floor(to, 1_000)),
        }
    }

    /// Microseconds as the store counts, as the instant that they mean, in microseconds since 1970.
    /// A local time that exists twice is taken for the earlier.
    pub fn instant_us(self, stored_us: i64) -> i64 {
        match self {
            Self::Instant | Self::EpochMillis => stored_us,
            Self::Local(zone) => local::instant_us(zone, stored_us),
        }
    }
}

/// Units of so many nanoseconds since 1970, rounded up.
fn ceil(time: DateTime<Utc>, nanoseconds: u32) -> i64 {
    floor(time, nanoseconds) + i64::from(!time.timestamp_subsec_nanos().is_multiple_of(nanoseconds))
}

/// Units of so many nanoseconds since 1970, rounded down.
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

/// What `data-patch check` prints.
impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, raw, .. } = self;
        writeln!(
            f,
            "devices   {:?}: id {:?} ({:?}), thing {:?} ({:?}), name {:?}",
            device.table, device.id, self.device_id, device.thing, self.thing_id, device.name
        )?;
        write!(
            f,
            "readings  {:?}: key {:?} ({:?}), device {:?} ({:?}), time {:?} ({:?}), document {:?} ({:?})",
            raw.table, raw.id, self.key, raw.device, self.raw_device, raw.time, self.time, raw.doc, self.doc
        )?;
        for advice in &self.warnings {
            write!(f, "\nadvice    {advice}")?;
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
