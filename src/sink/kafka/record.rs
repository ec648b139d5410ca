//! What a row is in Kafka beside its document: the key that chooses its partition, and the headers that say where it is
//! from. Both are the same in every rerun, so that repeats can be told.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat};
use rdkafka::message::{Header, OwnedHeaders};
use uuid::Uuid;

use crate::{source::Key, task::TaskId};

/// The records of one device in one task.
#[derive(Debug)]
pub struct RecordBuilder {
    task: String,
    device: String,
    /// The device with a slash behind it, then time and key of the last row; its memory is used again for the next.
    row: String,
}

impl RecordBuilder {
    pub fn new(task: TaskId, device: Uuid) -> Self {
        Self { task: task.to_string(), device: device.to_string(), row: format!("{device}/") }
    }

    /// The message key.
    pub fn key(&self) -> &str {
        &self.device
    }

    /// The headers of a row of this key, read at a moment (microseconds since 1970).
    pub fn headers(&mut self, instant_us: i64, key: &Key) -> OwnedHeaders {
        self.row.truncate(self.device.len() + 1);
        self.row.push_str(&row_time(instant_us));
        // Writing to a string can't fail.
        let _ = write!(self.row, "/{key}");
        OwnedHeaders::new_with_capacity(2)
            .insert(Header { key: "data-patch-task", value: Some(&self.task) })
            .insert(Header { key: "data-patch-row", value: Some(&self.row) })
    }
}

/// The time in the header of a row: RFC 3339 in UTC, with as many digits as it needs. Part of the contract with consumers.
fn row_time(instant_us: i64) -> String {
    DateTime::from_timestamp_micros(instant_us)
        .map_or_else(|| format!("{instant_us} µs"), |time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}
