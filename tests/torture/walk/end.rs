//! The reckoning: when all tasks have ended, everything must say the same.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::Value;
use uuid::Uuid;

use super::driver::{Driver, Task};
use crate::{
    account::{Account, File},
    support::{Client, message, seqs},
};

/// For what is left after the last round.
const PATIENCE: Duration = Duration::from_mins(4);

impl Driver {
    /// Waits until all tasks have ended, and compares; returns what was found, and figures.
    pub async fn end(mut self) -> (Account, String) {
        self.tasks_end().await;
        let logs = self.fresh_logs().await;
        for (task, log) in self.tasks.iter().zip(&logs) {
            assert_end(task, log);
        }
        let account = self.account().await;
        for watcher in std::mem::take(&mut self.watchers) {
            let (task, after) = (watcher.task, usize::try_from(watcher.after).unwrap());
            assert_eq!(watcher.log(), logs[task][after..], "task {task}: a watcher saw another log");
        }

        let sums = self.ledger.look().await;
        let of_tasks = |count: fn(&Task) -> i64| self.tasks.iter().map(count).sum::<i64>();
        assert_eq!(sums.published, of_tasks(published), "rows, as the queue has counted them");
        assert_eq!(sums.held, of_tasks(held), "rows held back, as the queue has counted them");
        let mut file = File::open(self.site.folder.path()).await;
        file.is_at_rest().await;
        assert_eq!(
            file.number("SELECT count(*) FROM task").await,
            i64::try_from(self.tasks.len()).unwrap(),
            "each request is one task"
        );
        assert_eq!(file.number("SELECT count(*) FROM quarantine").await, sums.held, "each row that is held back is kept");
        for service in std::mem::take(&mut self.services) {
            assert_eq!(service.terminate().await.0, Some(0));
        }
        let counts = &self.counts;
        let note = format!(
            "{} tasks, {} kills ({} jobs running), {} freezes ({} jobs taken over), {} stops, {} cuts, {} attaches, {} joins, {} requests twice",
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
        (account, note)
    }

    /// All jobs have ended, and all watchers have heard of it.
    async fn tasks_end(&mut self) {
        let begun = Instant::now();
        loop {
            let sums = self.ledger.look().await;
            let mut listening = 0;
            for watcher in &mut self.watchers {
                listening += usize::from(!watcher.is_done().await);
            }
            if sums.open == 0 && listening == 0 {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{sums:?} and {listening} watchers wait after {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The rows of all tasks, counted several at a time: reading a topic is mostly waiting.
    async fn account(&self) -> Account {
        let mut account = Account::default();
        for tasks in self.tasks.chunks(8) {
            let counts: Vec<_> = tasks.iter().map(|task| self.account_of(task)).collect();
            for found in join_all(counts).await {
                account.add(found);
            }
        }
        account
    }

    async fn account_of(&self, task: &Task) -> Account {
        let devices: Vec<Uuid> = task.devices.iter().map(|device| device.id).collect();
        let found = Account::of(&self.site.store, &self.site.topics[task.topic], &task.id, &devices).await;
        assert_eq!(found.lost, 0, "task {}: {found:?}", task.id);
        found
    }

    /// The logs of all tasks, as a new client is told them.
    async fn fresh_logs(&self) -> Vec<Vec<Value>> {
        let (mut client, mut logs) = (Client::connect(&self.services[0].url).await, Vec::new());
        for task in &self.tasks {
            let reply = client.attach(&task.id, 0).await;
            let state = if task.stranger { "failed" } else { "succeeded" };
            assert_eq!((message(&reply), reply["payload"]["state"].as_str()), ("task attached.", Some(state)), "{reply}");
            let log = client.log().await;
            assert_eq!(seqs(&log), (1..=log.len() as u64).collect::<Vec<_>>(), "task {}", task.id);
            logs.push(log);
        }
        logs
    }
}

fn published(task: &Task) -> i64 {
    task.devices.iter().map(|device| device.rows).sum()
}

fn held(task: &Task) -> i64 {
    task.devices.iter().map(|device| device.held).sum()
}

/// The last line's counts are the store's, and so are those of the last line of each device.
fn assert_end(task: &Task, log: &[Value]) {
    let (devices, rows) = (task.devices.len(), published(task));
    let all = devices + usize::from(task.stranger);
    let plural = |count: i64| if count == 1 { "" } else { "s" };
    let of = plural(i64::try_from(all).unwrap());
    let start = format!(
        "task finished: {devices} of {all} device{of}, {rows} row{} published, {} quarantined, in ",
        plural(rows),
        held(task)
    );
    let last = message(log.last().unwrap());
    assert!(last.starts_with(&start), "{last:?} was to begin with {start:?}");
    assert_eq!(last.contains("1 device failed: "), task.stranger, "{last}");
    for device in &task.devices {
        let line = format!("iota data published({} / {}). device: {}", device.rows, device.rows + device.held, device.id);
        assert!(log.iter().any(|found| message(found) == line), "{line} is missing in the log of task {}", task.id);
    }
}
