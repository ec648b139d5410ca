//! The key of a record, which selects its partition, and the headers, which identify its row. Both
//! are the same in every rerun, so that consumers can detect duplicates.

use std::fmt::Write as _;

use rdkafka::message::{Header, OwnedHeaders};
use uuid::Uuid;

use crate::{
    protocol::time::push_micros,
    task::{RowHasher, RowKey, TaskId},
};

/// Builds the records of one device in one task.
#[derive(Debug)]
pub struct RecordBuilder {
    task: String,
    device: String,
    /// `device/time/key` of the last row; the buffer is reused.
    row: String,
    hasher: RowHasher,
}

/// Names the task of a message.
pub const TASK_HEADER: &str = "data-patch-task";
/// Names the row of a message: `device/time/key`.
pub const ROW_HEADER: &str = "data-patch-row";

impl RecordBuilder {
    pub fn new(task: TaskId, device: Uuid) -> Self {
        Self { task: task.to_string(), device: device.to_string(), row: format!("{device}/"), hasher: RowHasher::default() }
    }

    /// The message key.
    pub fn key(&self) -> &str {
        &self.device
    }

    /// The headers of a row with this row key and time (microseconds since 1970), and the hash of
    /// the row with its document.
    pub fn headers(&mut self, instant_us: i64, key: &RowKey, doc: &[u8]) -> (OwnedHeaders, u128) {
        let hash = self.hash(instant_us, key, doc);
        let headers = OwnedHeaders::new_with_capacity(2)
            .insert(Header { key: TASK_HEADER, value: Some(&self.task) })
            .insert(Header { key: ROW_HEADER, value: Some(&self.row) });
        (headers, hash)
    }

    /// The hash of a row with its document. [`row_id`](Self::row_id) is then the row's.
    pub fn hash(&mut self, instant_us: i64, key: &RowKey, doc: &[u8]) -> u128 {
        self.row.truncate(self.device.len() + 1);
        push_micros(&mut self.row, instant_us);
        // Writing to a string cannot fail.
        let _ = write!(self.row, "/{key}");
        self.hasher.hash(&self.row, doc)
    }

    /// The value of the header `data-patch-row` of the last row.
    pub fn row_id(&self) -> &str {
        &self.row
    }
}
