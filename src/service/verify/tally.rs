//! Compares the messages of a topic with the checksums of a receipt, in one pass and in bounded
//! memory.

use std::collections::HashMap;

use uuid::Uuid;

use crate::{
    queue::JobRow,
    sink::kafka::TopicMessage,
    task::{Checksum, PartitionOffsets, RowHasher, TaskId},
};

/// Rows that are remembered, to recognise those that come again. A row comes again after a restart,
/// which goes back to the last checkpoint, so the last ones are enough.
const REMEMBERED: usize = 1 << 20;

/// How many rows a verdict names.
pub const MAX_NAMED: usize = 10;

/// Some rows by name, and how many there are.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Named {
    pub rows: Vec<String>,
    pub count: u64,
}

impl Named {
    pub fn add(&mut self, row: &str) {
        self.count += 1;
        if self.rows.len() < MAX_NAMED {
            self.rows.push(row.to_owned());
        }
    }

    /// Adds the rows of another.
    pub fn append(&mut self, other: &Self) {
        self.count += other.count;
        self.rows.extend(other.rows.iter().take(MAX_NAMED.saturating_sub(self.rows.len())).cloned());
    }
}

/// What the topic has of a device.
#[derive(Debug, Default)]
pub struct DeviceTally {
    /// Where its rows are.
    partitions: Vec<PartitionOffsets>,
    /// Different rows.
    pub found: u64,
    /// Of the first copy of each row.
    pub checksum: Checksum,
    /// Further copies.
    pub repeated: u64,
    /// Further copies with another document.
    pub changed_copies: Named,
    /// The latest time of its rows, as text.
    latest: String,
}

impl DeviceTally {
    pub fn new(partitions: Vec<PartitionOffsets>) -> Self {
        Self { partitions, ..Self::default() }
    }

    /// Whether a message lies between the offsets of the receipt.
    pub fn contains(&self, message: &TopicMessage<'_>) -> bool {
        let is_inside =
            |span: &PartitionOffsets| span.partition == message.partition && (span.first..=span.last).contains(&message.offset);
        self.partitions.iter().any(is_inside)
    }
}

/// What the topic has of a task.
pub struct Tally {
    task: String,
    devices: HashMap<Uuid, DeviceTally>,
    remembered: Remembered,
    hasher: RowHasher,
}

impl Tally {
    pub fn new(task: TaskId, jobs: &[JobRow]) -> Self {
        let devices = jobs.iter().map(|job| (job.device, DeviceTally::new(job.delivered.partitions.clone())));
        Self {
            task: task.to_string(),
            devices: devices.collect(),
            remembered: Remembered::default(),
            hasher: RowHasher::default(),
        }
    }

    pub fn into_devices(self) -> HashMap<Uuid, DeviceTally> {
        self.devices
    }

    /// Adds a message, if it belongs to the receipt.
    pub fn add(&mut self, message: &TopicMessage<'_>) {
        let Some((device, row)) = row_of_task(message, &self.task) else { return };
        let Some(tally) = self.devices.get_mut(&device).filter(|tally| tally.contains(message)) else { return };
        let hash = self.hasher.hash(row, message.doc);
        match self.remembered.insert(row_key(&mut self.hasher, row), hash as u64) {
            Seen::Same => tally.repeated += 1,
            Seen::Changed => {
                tally.repeated += 1;
                tally.changed_copies.add(row);
            }
            // The rows of a device are in order, so an earlier one comes again.
            Seen::Never if self.remembered.has_forgotten && row_time(row) < tally.latest.as_str() => tally.repeated += 1,
            Seen::Never => {
                tally.found += 1;
                tally.checksum.add(hash);
                let time = row_time(row);
                if time > tally.latest.as_str() {
                    tally.latest.clear();
                    tally.latest.push_str(time);
                }
            }
        }
    }
}

/// The device and the row of a message, if it belongs to the task.
pub fn row_of_task<'m>(message: &TopicMessage<'m>, task: &str) -> Option<(Uuid, &'m str)> {
    if message.task != Some(task) {
        return None;
    }
    let row = message.row?;
    let device = Uuid::try_parse(row.get(..uuid::fmt::Hyphenated::LENGTH)?).ok()?;
    Some((device, row))
}

/// A short hash of a row's id.
pub fn row_key(hasher: &mut RowHasher, row: &str) -> u64 {
    hasher.hash(row, &[]) as u64
}

/// The time in a row's id, without the `Z`: in UTC, these texts sort like the times.
fn row_time(row: &str) -> &str {
    row.split('/').nth(1).unwrap_or_default().trim_end_matches('Z')
}

/// Whether a row was there before.
enum Seen {
    Never,
    Same,
    /// With another document.
    Changed,
}

/// The last rows, between [`REMEMBERED`] and twice as many, with hashes of their documents.
#[derive(Default)]
struct Remembered {
    recent: HashMap<u64, u64>,
    older: HashMap<u64, u64>,
    has_forgotten: bool,
}

impl Remembered {
    fn insert(&mut self, row: u64, doc: u64) -> Seen {
        if let Some(before) = self.recent.get(&row).or_else(|| self.older.get(&row)) {
            return if *before == doc { Seen::Same } else { Seen::Changed };
        }
        if self.recent.len() >= REMEMBERED {
            self.has_forgotten |= !self.older.is_empty();
            std::mem::swap(&mut self.recent, &mut self.older);
            self.recent.clear();
        }
        self.recent.insert(row, doc);
        Seen::Never
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: Uuid = Uuid::from_u128(7);

    fn task() -> TaskId {
        TaskId(Uuid::from_u128(1))
    }

    /// Adds rows, each with its document, at the offsets from 0.
    fn tally<'r>(rows: impl IntoIterator<Item = (&'r str, &'r str)>) -> DeviceTally {
        let partitions = vec![PartitionOffsets { partition: 0, first: 0, last: 99 }];
        let devices = HashMap::from([(DEVICE, DeviceTally::new(partitions))]);
        let mut tally =
            Tally { task: task().to_string(), devices, remembered: Remembered::default(), hasher: RowHasher::default() };
        for (offset, (row, doc)) in (0..).zip(rows) {
            let (task, row) = (task().to_string(), format!("{DEVICE}/{row}"));
            tally.add(&TopicMessage { partition: 0, offset, task: Some(&task), row: Some(&row), doc: doc.as_bytes() });
        }
        tally.into_devices().remove(&DEVICE).unwrap()
    }

    #[test]
    fn only_the_first_copy_of_a_row_counts() {
        let (first, second) = (("2019-01-11T13:03:00Z/1", "a"), ("2019-01-11T13:03:00.500Z/2", "b"));
        let (once, repeated) = (tally([first, second]), tally([first, second, first, second]));
        assert_eq!((repeated.found, repeated.repeated, repeated.changed_copies.count), (2, 2, 0));
        assert_eq!(repeated.checksum, once.checksum);
        assert_ne!(once.checksum, tally([first, (second.0, "c")]).checksum);
    }

    #[test]
    fn a_copy_with_another_document_is_named() {
        let changed = tally([("2019-01-11T13:03:00Z/1", "a"), ("2019-01-11T13:03:00Z/1", "b")]);
        assert_eq!((changed.found, changed.repeated), (1, 1));
        assert_eq!(changed.changed_copies, Named { rows: vec![format!("{DEVICE}/2019-01-11T13:03:00Z/1")], count: 1 });
    }

    #[test]
    fn what_lies_outside_the_offsets_or_belongs_to_others_does_not_count() {
        let rows: Vec<_> = (0..120).map(|n| (format!("2019-01-11T13:{:02}:00Z/{n}", n / 2), n.to_string())).collect();
        assert_eq!(tally(rows.iter().map(|(row, doc)| (row.as_str(), doc.as_str()))).found, 100);
        let other = TopicMessage { partition: 0, offset: 0, task: Some("other"), row: Some("x"), doc: b"" };
        assert_eq!(row_of_task(&other, &task().to_string()), None);
    }

    #[test]
    fn an_earlier_row_comes_again_even_if_it_is_forgotten() {
        let partitions = vec![PartitionOffsets { partition: 0, first: 0, last: 9 }];
        let devices = HashMap::from([(DEVICE, DeviceTally::new(partitions))]);
        let remembered = Remembered { has_forgotten: true, ..Remembered::default() };
        let mut tally = Tally { task: task().to_string(), devices, remembered, hasher: RowHasher::default() };
        for (offset, time) in [(0, "13:03:00.500"), (1, "13:03:00"), (2, "13:03:01")] {
            let (task, row) = (task().to_string(), format!("{DEVICE}/2019-01-11T{time}Z/{offset}"));
            tally.add(&TopicMessage { partition: 0, offset, task: Some(&task), row: Some(&row), doc: b"" });
        }
        let tally = tally.into_devices().remove(&DEVICE).unwrap();
        assert_eq!((tally.found, tally.repeated), (2, 1));
    }
}
