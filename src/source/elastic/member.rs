//! A device of a group: which rows are in its range and not done, and who receives them.

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};

use super::fetch::{Item, Place};
use crate::{
    source::{Row, RowSender, Selection, budget::MemoryPermit},
    task::{Position, RowKey},
};

/// A device, and who receives its rows.
pub struct Member {
    pub selection: Selection,
    pub sender: RowSender,
    /// Rows up to this one are done.
    pub done: Option<Position>,
}

impl Member {
    pub fn new(selection: Selection, sender: RowSender) -> Self {
        Self { done: selection.after.clone(), selection, sender }
    }

    /// The millisecond from which it is read.
    pub fn start_ms(&self) -> i64 {
        let from = self.selection.from.timestamp_millis();
        self.done.as_ref().map_or(from, |done| from.max(done.time_us.div_euclid(1_000)))
    }

    /// Passes on the items that are in its range and not done.
    pub fn push(&mut self, items: Vec<Item>, memory: MemoryPermit) {
        let is_done = self.find_done(&items);
        self.sender.set_memory(memory);
        for (n, item) in items.into_iter().enumerate() {
            if n < is_done || !self.is_in_range(&item.place) {
                continue;
            }
            let position = item.place.position();
            self.selection.after = Some(position.clone());
            self.sender.push(Row { position, doc: item.doc });
        }
        self.sender.end_page();
    }

    /// The number of first items that are done. They end with the row that was done last; if it
    /// does not exist any more, those at its time may be published again, but none is left out.
    fn find_done(&mut self, items: &[Item]) -> usize {
        let Some(done) = &self.done else { return 0 };
        let before = items.partition_point(|item| item.place.time_us() < done.time_us);
        let until = items.partition_point(|item| item.place.time_us() <= done.time_us);
        let at_time = items.get(before..until).unwrap_or_default();
        let count = if matches!(&done.key, RowKey::Text(key) if key.is_empty()) {
            // A position before the first row has no key.
            until
        } else {
            at_time.iter().position(|item| item.place.position().key == done.key).map_or(before, |last| before + last + 1)
        };
        if count > before || until < items.len() {
            self.done = None;
        }
        count
    }

    fn is_in_range(&self, place: &Place) -> bool {
        let time = (place.ms, place.nanos);
        let bound = |time: DateTime<Utc>| (time.timestamp_millis(), time.timestamp_subsec_nanos() % 1_000_000);
        bound(self.selection.from) <= time && time <= bound(self.selection.to)
    }
}

impl Item {
    /// Bytes in memory, as a row.
    pub fn bytes(&self) -> usize {
        self.doc.as_ref().map_or(0, Bytes::len) + size_of::<Row>()
    }
}

/// Copies the documents of a device next to each other, so that they do not keep the whole page in
/// memory.
pub fn compact(items: &mut [Item]) {
    let mut buffer = BytesMut::with_capacity(items.iter().filter_map(|item| item.doc.as_ref()).map(Bytes::len).sum());
    for doc in items.iter().filter_map(|item| item.doc.as_ref()) {
        buffer.extend_from_slice(doc);
    }
    let mut documents = buffer.freeze();
    for doc in items.iter_mut().filter_map(|item| item.doc.as_mut()) {
        *doc = documents.split_to(doc.len());
    }
}
