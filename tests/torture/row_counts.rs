//! Compares the published rows with the source.

use std::collections::HashMap;

use uuid::Uuid;

use crate::support::{TestSource, TestTopic};

/// The rows of some devices, counted in a topic.
#[derive(Debug, Default, Clone, Copy)]
pub struct RowCounts {
    /// Rows in the source.
    pub rows: usize,
    /// Rows that are missing in the topic, or out of order.
    pub lost: usize,
    /// Rows that are in the topic more than once.
    pub repeated: usize,
}

impl RowCounts {
    /// Counts the rows that one task published of these devices; all rows of each device must be in
    /// the task's range.
    pub async fn of(source: &TestSource, topic: &TestTopic, task: &str, devices: &[Uuid]) -> Self {
        let mut of_device = HashMap::<String, Vec<(String, String)>>::new();
        for found in topic.read().await.into_iter().filter(|found| found.task == task) {
            of_device.entry(found.key).or_default().push((found.row, found.value));
        }
        let mut counts = Self::default();
        for device in devices {
            let found = of_device.remove(&device.to_string()).unwrap_or_default();
            let mut seen = std::collections::HashSet::new();
            let once: Vec<&str> = found.iter().filter(|(row, _)| seen.insert(row)).map(|(_, value)| value.as_str()).collect();
            let docs = source.docs(*device).await;
            counts.rows += docs.len();
            counts.repeated += found.len() - once.len();
            counts.lost += if docs.len() == once.len() {
                docs.iter().zip(&once).filter(|(doc, found)| doc != *found).count()
            } else {
                docs.len().abs_diff(once.len())
            };
        }
        assert!(of_device.is_empty(), "rows of devices that were not requested: {:?}", of_device.keys());
        counts
    }

    pub fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.lost += other.lost;
        self.repeated += other.repeated;
    }
}
