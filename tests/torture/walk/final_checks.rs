//! The checks at the end: source, topics, queue and logs must agree.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::Value;
use uuid::Uuid;

use super::{
    driver::{Driver, Task},
    fixture::Fixture,
};
use crate::{
    queue_reader::QueueReader,
    row_counts::RowCounts,
    support::{Client, message, seqs},
};

/// Timeout for the tasks that are unfinished after the last round.
const FINISH_TIMEOUT: Duration = Duration::from_mins(4);

impl Driver {
    /// Waits until all tasks have ended, and checks the results; returns the row counts and a
    /// summary of the walk.
    pub async fn finish(mut self) -> (RowCounts, String) {
        self.wait_until_finished().await;
        let logs = read_logs(&self.services[0].url, &self.tasks).await;
        let rows = count_rows(&self.fixture, &self.tasks).await;
        for watcher in std::mem::take(&mut self.watchers) {
            let (task, after) = (watcher.task, usize::try_from(watcher.after).unwrap());
            assert_eq!(watcher.log(), logs[task][after..], "task {task}: a watcher received another log");
        }

        let totals = self.job_history.update().await;
        let of_tasks = |count: fn(&Task) -> i64| self.tasks.iter().map(count).sum::<i64>();
        assert_eq!(totals.published, of_tasks(published), "the queue's count of published rows");
        assert_eq!(totals.quarantined, of_tasks(quarantined), "the queue's count of quarantined rows");
        let mut file = QueueReader::open(self.fixture.folder.path()).await;
        file.assert_finished().await;
        assert_eq!(
            file.number("SELECT count(*) FROM task").await,
            i64::try_from(self.tasks.len()).unwrap(),
            "each request is one task"
        );
        assert_eq!(file.number("SELECT count(*) FROM quarantine").await, totals.quarantined, "each quarantined row is stored");
        for service in std::mem::take(&mut self.services) {
            assert_eq!(service.terminate().await.0, Some(0));
        }
        let counts = &self.counts;
        let note = format!(
            "{} tasks, {} kills ({} jobs running), {} freezes ({} jobs taken over), {} stops, {} cuts, {} attaches, {} joins, {} repeated requests",
            self.tasks.len(),
            counts.kills,
            counts.orphans,
            counts.freezes,
            counts.taken,
            counts.stops,
            counts.cuts,
            counts.attaches,
            counts.joins,
            counts.twice
        );
        (rows, note)
    }

    /// Waits until all jobs have ended and all watchers have received the last line.
    async fn wait_until_finished(&mut self) {
        let started = Instant::now();
        loop {
            let totals = self.job_history.update().await;
            let mut listening = 0;
            for watcher in &mut self.watchers {
                listening += usize::from(!watcher.is_done().await);
            }
            if totals.open == 0 && listening == 0 {
                return;
            }
            assert!(started.elapsed() < FINISH_TIMEOUT, "{totals:?} and {listening} watchers are open after {FINISH_TIMEOUT:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Counts the rows of all tasks, of several tasks at a time.
pub async fn count_rows(fixture: &Fixture, tasks: &[Task]) -> RowCounts {
    let mut sum = RowCounts::default();
    for tasks in tasks.chunks(8) {
        for counts in join_all(tasks.iter().map(|task| count_task(fixture, task))).await {
            sum.add(counts);
        }
    }
    sum
}

async fn count_task(fixture: &Fixture, task: &Task) -> RowCounts {
    let devices: Vec<Uuid> = task.devices.iter().map(|device| device.id).collect();
    let counts = RowCounts::of(&fixture.source, &fixture.topics[task.topic], &task.id, &devices).await;
    assert_eq!(counts.lost, 0, "task {}: {counts:?}", task.id);
    counts
}

/// Reads the logs of all tasks with a new client, and checks their ends.
pub async fn read_logs(url: &str, tasks: &[Task]) -> Vec<Vec<Value>> {
    let (mut client, mut logs) = (Client::connect(url).await, Vec::new());
    for task in tasks {
        let reply = client.attach(&task.id, 0).await;
        let state = if task.has_foreign_device { "failed" } else { "succeeded" };
        assert_eq!((message(&reply), reply["payload"]["state"].as_str()), ("task attached.", Some(state)), "{reply}");
        let log = client.log().await;
        assert_eq!(seqs(&log), (1..=log.len() as u64).collect::<Vec<_>>(), "task {}", task.id);
        assert_log_end(task, &log);
        logs.push(log);
    }
    logs
}

fn published(task: &Task) -> i64 {
    task.devices.iter().map(|device| device.rows).sum()
}

fn quarantined(task: &Task) -> i64 {
    task.devices.iter().map(|device| device.quarantined).sum()
}

/// Asserts that the counts in the last line, and in the last line of each device, are those of the
/// source.
fn assert_log_end(task: &Task, log: &[Value]) {
    let (devices, rows) = (task.devices.len(), published(task));
    let all = devices + usize::from(task.has_foreign_device);
    let plural = |count: i64| if count == 1 { "" } else { "s" };
    let of = plural(i64::try_from(all).unwrap());
    let start = format!(
        "task finished: {devices} of {all} device{of}, {rows} row{} published, {} quarantined, in ",
        plural(rows),
        quarantined(task)
    );
    let last = message(log.last().unwrap());
    assert!(last.starts_with(&start), "{last:?} does not begin with {start:?}");
    assert_eq!(last.contains("1 device failed: "), task.has_foreign_device, "{last}");
    for device in &task.devices {
        let line = format!("iota data published({} / {}). device: {}", device.rows, device.rows + device.quarantined, device.id);
        assert!(log.iter().any(|found| message(found) == line), "{line} is missing in the log of task {}", task.id);
    }
}
