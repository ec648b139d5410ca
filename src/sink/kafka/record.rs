//! The key of a record, which selects its partition, and the headers, which identify its row. Both
//! are the same in every rerun, so that consumers can detect duplicates.

use std::fmt::Write as _;

use rdkafka::message::{Header, OwnedHeaders};
use uuid::Uuid;

use crate::{
    protocol::time::push_micros,
    task::{RowKey, TaskId},
};

/// Builds the records of one device in one task.
#[derive(Debug)]
pub struct RecordBuilder {
    task: String,
    device: String,
    /// `device/time/key` of the last row; the buffer is reused.
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

    /// The headers of a row with this row key and time (microseconds since 1970).
    pub fn headers(&mut self, instant_us: i64, key: &RowKey) -> OwnedHeaders {
        self.row.truncate(self.device.len() + 1);
        push_micros(&mut self.row, instant_us);
        // Writing to a string cannot fail.
        let _ = write!(self.row, "/{key}");
        OwnedHeaders::new_with_capacity(2)
            .insert(Header { key: "data-patch-task", value: Some(&self.task) })
            .insert(Header { key: "data-patch-row", value: Some(&self.row) })
    }
}
