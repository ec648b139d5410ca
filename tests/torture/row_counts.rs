//! Compares the published rows with the source: source, topic, queue file and log must agree.

use std::{collections::HashMap, path::Path};

use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};
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

/// Reads a queue file directly, without the service.
pub struct File(SqliteConnection);

impl File {
    pub async fn open(folder: &Path) -> Self {
        let options = SqliteConnectOptions::new().filename(folder.join("queue.db")).busy_timeout(crate::support::TIMEOUT);
        Self(SqliteConnection::connect_with(&options).await.unwrap())
    }

    /// Queries one number.
    pub async fn number(&mut self, sql: &'static str) -> i64 {
        sqlx::query(sql).fetch_one(&mut self.0).await.unwrap().get(0)
    }

    /// The id of the only task.
    pub async fn task(&mut self) -> Option<String> {
        sqlx::query("SELECT id FROM task").fetch_optional(&mut self.0).await.unwrap().map(|row| row.get(0))
    }

    /// The checkpoint of the only job, in microseconds since 1970: no row up to it may be sent
    /// again.
    pub async fn position(&mut self) -> Option<i64> {
        sqlx::query("SELECT cursor_time FROM job").fetch_optional(&mut self.0).await.unwrap().and_then(|row| row.get(0))
    }

    /// Asserts that all work is finished: no job is open or leased, and each log is numbered
    /// without gaps or duplicates and has one final line, the last one.
    pub async fn assert_finished(&mut self) {
        let open = "SELECT count(*) FROM job WHERE state NOT IN ('succeeded', 'failed', 'cancelled') OR due_at IS NOT NULL";
        assert_eq!(self.number(open).await, 0, "jobs are open");
        assert_eq!(self.number("SELECT count(*) FROM task WHERE finished_at IS NULL").await, 0, "tasks are open");
        let gaps = "SELECT count(*) FROM task LEFT JOIN (SELECT task_id, count(*) AS lines, min(seq) AS low, max(seq) AS high, \
                    sum(final_state IS NOT NULL) AS ends, max(CASE WHEN final_state IS NOT NULL THEN seq END) AS end FROM event GROUP BY task_id) \
                    ON task_id = id WHERE lines IS NULL OR low <> 1 OR high <> lines OR last_seq <> high OR ends <> 1 OR end <> high";
        assert_eq!(self.number(gaps).await, 0, "a log has gaps, or no end");
    }
}
