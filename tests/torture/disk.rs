//! The queue's disk fills up during work, and is freed again: accepted tasks complete, and a task
//! that cannot be stored is rejected with the reason.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    outage::{OUTAGE_DURATION, Scenario},
    row_counts::RowCounts,
    support::{Client, TIMEOUT, is_end, message},
    table::TestResult,
};

/// More than twice the queue's WAL before its checkpoint (4 MB).
const SIZE: &str = "size=12m";
/// Rows of each task that is submitted while the disk fills up.
const FEW: i64 = 5;
/// Delay before a rejected client retries.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// A small separate file system, unmounted on drop.
struct Disk {
    at: TempDir,
}

impl Disk {
    fn mount() -> Result<Self, String> {
        let at = tempfile::tempdir().unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(at.path()).output();
        match mount {
            Ok(done) if done.status.success() => Ok(Self { at }),
            Ok(done) => Err(String::from_utf8_lossy(&done.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Fills the file system; returns the file that occupies the space.
    fn fill(&self) -> PathBuf {
        let filler = self.at.path().join("filler");
        let mut file = std::fs::File::create(&filler).unwrap();
        let error = loop {
            if let Err(error) = file.write_all(&[0; 4_096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
        filler
    }

    fn path(&self) -> &Path {
        self.at.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process of a failed test may still be running.
        let _ = Command::new("umount").arg("-l").arg(self.at.path()).status();
    }
}

/// Sends a request and returns the reply. Log lines of watched tasks that arrive before it are
/// collected.
async fn request(client: &mut Client, request: &Value, lines: &mut Vec<Value>) -> Value {
    client.send(request).await;
    let mut answered = client.until(|reply| reply["payload"]["seq"].is_null()).await;
    let answer = answered.pop().unwrap();
    lines.extend(answered);
    answer
}

fn created(answer: &Value) -> Option<String> {
    (message(answer) == "task created.").then(|| answer["payload"]["taskId"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn a_full_disk_rejects_new_tasks_and_loses_no_accepted_one() {
    let what = "disk: the queue's disk full, and freed again";
    let disk = match Disk::mount() {
        Ok(disk) => disk,
        Err(error) => {
            println!("NOT RUN: {what}: a tmpfs can't be mounted here (it needs root): {error}");
            return;
        }
    };
    let mut scenario = Scenario::start(tempfile::tempdir_in(disk.path()).unwrap()).await;
    let (thing, device) = scenario.source.add_rows(FEW).await;
    let submit = Client::request(thing, &[device], &scenario.topic.name);
    let mut submitter = Client::connect(&scenario.process.url).await;
    let (mut accepted, mut lines) = (Vec::new(), Vec::new());

    let filler = disk.fill();
    let full_since = Instant::now();
    // Tasks that fit the queue's WAL are still accepted.
    let rejection = loop {
        let answer = request(&mut submitter, &submit, &mut lines).await;
        match created(&answer) {
            Some(task) => accepted.push(task),
            None => break answer,
        }
        assert!(full_since.elapsed() < TIMEOUT, "nothing was refused: the disk did not fill up");
    };
    assert_eq!((&rejection["res"], &rejection["type"]), (&"error".into(), &"theme-data".into()), "{rejection}");
    assert!(message(&rejection).contains("full"), "{rejection}");
    let rejected_after = full_since.elapsed();
    println!("refused: {}", message(&rejection));
    let cpu = scenario.measure_cpu(OUTAGE_DURATION).await;
    assert!(created(&request(&mut submitter, &submit, &mut lines).await).is_none(), "it is still full");

    std::fs::remove_file(filler).unwrap();
    let freed = Instant::now();
    let accepted_after = loop {
        // On the connection whose requests were rejected twice.
        let answer = request(&mut submitter, &submit, &mut lines).await;
        if let Some(task) = created(&answer) {
            accepted.push(task);
            break freed.elapsed();
        }
        assert!(freed.elapsed() < TIMEOUT, "nothing is accepted although the disk is free: {answer}");
        // As a client would: retries without a delay would only load the queue.
        tokio::time::sleep(RETRY_DELAY).await;
    };
    while lines.iter().filter(|line| is_end(line)).count() < accepted.len() {
        lines.push(submitter.next().await);
    }
    let mut counts = count_rows(&scenario, &accepted, device).await;
    let outcome = scenario.finish().await;
    counts.add(outcome.counts);
    let note = format!(
        "refused after {:.1} s and {} tasks: {}; {cpu:.2} cores used while full; freed: accepted after {:.1} s, end after {:.1} s",
        rejected_after.as_secs_f64(),
        accepted.len() - 1,
        message(&rejection),
        accepted_after.as_secs_f64(),
        freed.elapsed().as_secs_f64()
    );
    TestResult::of(what, 1, counts, note).write();
}

/// Counts the rows that the small tasks published.
async fn count_rows(scenario: &Scenario, tasks: &[String], device: Uuid) -> RowCounts {
    let mut sum = RowCounts::default();
    for task in tasks {
        let counts = RowCounts::of(&scenario.source, &scenario.topic, task, &[device]).await;
        assert_eq!((counts.rows, counts.lost), (FEW as usize, 0), "task {task}: {counts:?}");
        sum.add(counts);
    }
    sum
}
