//! How the store's tables are laid out: names from the configuration, types found out at start.

use std::fmt;

use chrono::{DateTime, NaiveDateTime, Utc};
use chrono_tz::Tz;

use super::StoreError;
use crate::config::{DeviceTable, RawTable};

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
    /// What works, and could be better.
    pub advice: Vec<String>,
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
    pub(super) fn of(column: &str, r#type: &str) -> Result<Self, StoreError> {
        match r#type {
            "uuid" => Ok(Self::Uuid),
            "text" | "character varying" | "character" | "TEXT" => Ok(Self::Text),
            _ => Err(unfit(column, r#type, "uuid or text")),
        }
    }
}

impl KeyType {
    pub(super) fn of(column: &str, r#type: &str) -> Result<Self, StoreError> {
        match r#type {
            "smallint" | "integer" | "bigint" | "INTEGER" => Ok(Self::Integer),
            "uuid" => Ok(Self::Uuid),
            "text" | "character varying" | "TEXT" => Ok(Self::Text),
            _ => Err(unfit(column, r#type, "an integer, uuid or text")),
        }
    }
}

impl TimeType {
    pub(super) fn of(column: &str, r#type: &str, zone: Tz) -> Result<Self, StoreError> {
        match r#type {
            "timestamp with time zone" => Ok(Self::Instant),
            "timestamp without time zone" => Ok(Self::Local(zone)),
            "bigint" | "INTEGER" => Ok(Self::EpochMillis),
            _ => Err(unfit(column, r#type, "timestamptz, timestamp, or a bigint of milliseconds since 1970")),
        }
    }

    /// The range in microseconds as the store counts, both ends included: no row outside it, and none of it left out,
    /// however much finer than the store the request was.
    pub fn range(self, from: DateTime<Utc>, to: DateTime<Utc>) -> (i64, i64) {
        match self {
            Self::Instant => (ceil(from, 1_000), floor(to, 1_000)),
            Self::EpochMillis => (ceil(from, 1_000_000) * 1_000, floor(to, 1_000_000) * 1_000),
            Self::Local(zone) => {
                let local = |time: DateTime<Utc>| time.with_timezone(&zone).naive_local().min(last_local()).and_utc();
                (ceil(local(from), 1_000), floor(local(to), 1_000))
            }
        }
    }

    /// Microseconds as the store counts, as the instant that they mean, in microseconds since 1970.
    /// A local time that came twice is taken for the earlier.
    pub fn instant_us(self, stored_us: i64) -> i64 {
        match self {
            Self::Instant | Self::EpochMillis => stored_us,
            Self::Local(zone) => DateTime::from_timestamp_micros(stored_us)
                .and_then(|local| local.naive_utc().and_local_timezone(zone).earliest())
                .map_or(stored_us, |time| time.timestamp_micros()),
        }
    }
}

/// PostgreSQL reads no year of five digits.
fn last_local() -> NaiveDateTime {
    DateTime::<Utc>::from_timestamp(253_402_300_799, 999_999_999).unwrap_or_default().naive_utc()
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
    pub(super) fn of(column: &str, r#type: &str) -> Result<Self, StoreError> {
        match r#type {
            "jsonb" => Ok(Self::Jsonb),
            "json" => Ok(Self::Json),
            "text" | "character varying" | "TEXT" => Ok(Self::Text),
            _ => Err(unfit(column, r#type, "jsonb, json or text")),
        }
    }
}

fn unfit(column: &str, r#type: &str, expected: &str) -> StoreError {
    StoreError::Mapping(format!("column {column} is of type {type}; it must be {expected}"))
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
        for advice in &self.advice {
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
        assert_eq!(TimeType::Instant.range(time(1), time(1_999)), (100_000_001, 100_000_001));
        assert_eq!(TimeType::Instant.range(time(1_000), time(1_000)), (100_000_001, 100_000_001));
        assert_eq!(TimeType::EpochMillis.range(time(1), time(999_999)), (100_001_000, 100_000_000));
        let before = Utc.timestamp_opt(-1, 999_999_999).unwrap();
        assert_eq!(TimeType::EpochMillis.range(before, before), (0, -1_000));
    }

    #[test]
    fn local_times_are_read_in_their_zone() {
        let zone = TimeType::Local(chrono_tz::Asia::Shanghai);
        let time = Utc.with_ymd_and_hms(2019, 1, 11, 13, 3, 0).unwrap();
        let (from, to) = zone.range(time, time);
        assert_eq!(from, to);
        assert_eq!(zone.instant_us(from), time.timestamp_micros());
        assert_eq!(from - time.timestamp_micros(), 8 * 3_600 * 1_000_000);
    }
}
