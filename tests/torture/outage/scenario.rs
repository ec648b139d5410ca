//! A task of several devices that is run by the real program and disturbed while it runs.

use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

use super::log_checks;
use crate::{
    queue_reader::QueueReader,
    row_counts::RowCounts,
    support::{Client, Process, TestBroker, TestSource, TestTopic, doc, is_end, message},
    table::TestResult,
};

pub const DEVICES: usize = 4;
/// Rows of each device: enough that the task takes longer than the fault.
const ROWS: usize = 50_000;

/// The source, the topic and the devices of a task.
pub struct TaskSetup {
    pub source: TestSource,
    /// The URL that the service uses, if it differs from the test's.
    pub url: Option<String>,
    pub topic: TestTopic,
    pub devices: Vec<Uuid>,
    /// Rows of each device.
    pub rows: usize,
}

impl TaskSetup {
    /// A few devices and a new topic of this broker.
    pub async fn on(broker: &TestBroker) -> Self {
        let (source, topic) = (TestSource::empty().await, broker.topic().await);
        Self { source, url: None, topic, devices: (0..DEVICES).map(|_| Uuid::new_v4()).collect(), rows: ROWS }
    }
}

/// Short timeouts, so that an outage of seconds is a long one; small pages and few bytes in flight,
/// so that the task is slow enough to be disturbed.
const SETTINGS: [(&str, &str); 8] = [
    ("DATA_PATCH_WORKER_LEASE_SECONDS", "3"),
    ("DATA_PATCH_WORKER_STALL_WARNING_SECONDS", "3"),
    ("DATA_PATCH_WORKER_RETRY_MAX_MS", "2000"),
    ("DATA_PATCH_WORKER_PROGRESS_LOG_INTERVAL_MS", "100"),
    ("DATA_PATCH_IOTA_TIMEOUT_SECONDS", "2"),
    ("DATA_PATCH_IOTA_QUERY_TIMEOUT_SECONDS", "4"),
    ("DATA_PATCH_IOTA_PAGE_ROWS", "250"),
    ("DATA_PATCH_KAFKA_IN_FLIGHT_BYTES", "262144"),
];

pub struct Scenario {
    pub folder: TempDir,
    pub source: TestSource,
    pub topic: TestTopic,
    pub process: Process,
    pub client: Client,
    pub devices: Vec<Uuid>,
    /// Rows of each device.
    pub rows: usize,
    pub task: String,
    pub log: Vec<Value>,
}

/// How the task continued after the fault.
pub struct Outcome {
    pub counts: RowCounts,
    pub log: Vec<Value>,
    /// The time until the next row was acknowledged, and until the end of the task.
    pub first: Duration,
    pub took: Duration,
}

impl Outcome {
    /// Adds a line to the table.
    pub fn write(&self, what: &str, times: usize, note: &str) {
        let (first, took) = (self.first.as_secs_f64(), self.took.as_secs_f64());
        let note = format!(
            "{note}, {} lines say that it waits; then first row after {first:.1} s, end after {took:.1} s",
            count_waits(&self.log)
        );
        TestResult::of(what, times, self.counts, note).write();
    }
}

impl Scenario {
    /// Starts a task with the queue in `folder`; returns once rows are published.
    pub async fn start(folder: TempDir) -> Self {
        Self::start_with(folder, TaskSetup::on(&TestBroker::start().await).await).await
    }

    /// As [`start`](Self::start), with another source or topic.
    pub async fn start_with(folder: TempDir, setup: TaskSetup) -> Self {
        let TaskSetup { source, url, topic, devices, rows } = setup;
        let thing = generate_rows(&source, &devices, rows).await;
        let seen = TestSource::Postgres { url: url.unwrap_or_else(|| source.url()), schema: String::new() };
        let process = Process::serve(&folder, &seen, &topic, &SETTINGS).await;
        let mut client = Client::connect(&process.url).await;
        let task = client.submit(&Client::request(thing, &devices, &topic.name)).await;
        let log = client.until(is_partly_published).await;
        Self { folder, source, topic, process, client, devices, rows, task, log }
    }

    /// Reads the next log line, which must not be the last.
    pub async fn next(&mut self) -> Value {
        let line = self.client.next().await;
        assert!(!is_end(&line), "the task has ended: {line}");
        self.log.push(line.clone());
        line
    }

    /// Reads the log until a line matches.
    pub async fn until(&mut self, matches: impl Fn(&Value) -> bool) {
        let lines = self.client.until(matches).await;
        self.log.extend(lines);
    }

    /// Reads the log for this time, in which the task must not end.
    pub async fn read_for(&mut self, time: Duration) {
        self.read_during(tokio::time::sleep(time)).await;
    }

    /// Reads the log until `future` completes; the task must not end before.
    pub async fn read_during<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                biased;
                done = &mut future => return done,
                _ = self.next() => {}
            }
        }
    }

    /// Reads the log for this time; returns the share of one core that the service used.
    pub async fn measure_cpu(&mut self, time: Duration) -> f64 {
        let (started, before) = (Instant::now(), self.cpu_seconds());
        self.read_for(time).await;
        (self.cpu_seconds() - before) / started.elapsed().as_secs_f64()
    }

    /// The CPU time that the service has used so far.
    fn cpu_seconds(&self) -> f64 {
        /// The unit of `/proc` on Linux.
        const TICKS_PER_SECOND: f64 = 100.0;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.pid())).unwrap();
        // The program's name is in brackets and may contain any character; utime and stime are the
        // 12th and 13th field after it.
        let words: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks = |word: usize| f64::from(words[word].parse::<u32>().unwrap());
        (ticks(11) + ticks(12)) / TICKS_PER_SECOND
    }

    /// Whether a log line contains all of these texts.
    pub fn has_logged(&self, words: &[&str]) -> bool {
        self.log.iter().any(|line| words.iter().all(|word| message(line).contains(word)))
    }

    /// Reads the log until the task has succeeded, and checks log, queue and topic.
    pub async fn finish(mut self) -> Outcome {
        let recovered = Instant::now();
        self.until(|line| message(line).contains("data published(")).await;
        let first = recovered.elapsed();
        self.until(is_end).await;
        let took = recovered.elapsed();
        let Self { folder, source, topic, process, task, devices, rows, log, .. } = self;
        log_checks::assert_exact(&log, &devices, rows);
        assert_eq!(process.terminate().await.0, Some(0));
        QueueReader::open(folder.path()).await.assert_finished().await;
        let counts = RowCounts::of(&source, &topic, &task, &devices).await;
        assert_eq!(counts.rows, devices.len() * rows);
        assert_eq!(counts.lost, 0, "{counts:?}");
        Outcome { counts, log, first, took }
    }
}

/// `iota data published(k / n)` with 0 < k < n.
fn is_partly_published(line: &Value) -> bool {
    log_checks::published(message(line)).is_some_and(|(published, rows, _)| 0 < published && published < rows)
}

/// Number of log lines about waiting.
pub fn count_waits(log: &[Value]) -> usize {
    log.iter().filter(|line| message(line).contains("waits, nothing is lost")).count()
}

/// Adds a thing with devices, and generates their rows in PostgreSQL.
pub async fn generate_rows(source: &TestSource, devices: &[Uuid], rows: usize) -> Uuid {
    let thing = Uuid::new_v4();
    for (number, device) in devices.iter().enumerate() {
        source.add_device(thing, *device, &format!("应变计{number:02}")).await;
        let doc = doc(*device, 7).replace("\"v\": 7", "\"v\": %s");
        let first = 1_000_000 + number * rows;
        source
            .execute(&format!(
                "INSERT INTO raw_data SELECT {first} + n, '{device}', timestamptz '2019-01-12T00:00:00Z' + n * interval '1 s', \
                 format('{doc}', n)::jsonb FROM generate_series(1, {rows}) AS n"
            ))
            .await;
    }
    thing
}
