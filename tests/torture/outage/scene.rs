//! A patch of several devices by the real program, to be disturbed in the middle.

use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

use super::told;
use crate::{
    account::{Account, File},
    support::{Client, Process, TestBroker, TestStore, TestTopic, doc, is_end, message},
    table::Found,
};

pub const DEVICES: usize = 4;
/// Of each device: enough that the work takes longer than the disturbing.
const ROWS: usize = 50_000;

/// What is patched, and into what.
pub struct Patch {
    pub store: TestStore,
    /// The service's way to the store, where it is another than the test's.
    pub url: Option<String>,
    pub topic: TestTopic,
    pub devices: Vec<Uuid>,
    /// Of each device.
    pub rows: usize,
}

impl Patch {
    /// A few devices, into a topic of this broker.
    pub async fn on(broker: &TestBroker) -> Self {
        let (store, topic) = (TestStore::empty().await, broker.topic().await);
        Self { store, url: None, topic, devices: (0..DEVICES).map(|_| Uuid::new_v4()).collect(), rows: ROWS }
    }
}

/// Short times, so that an outage of seconds is a long one; small pages and little in flight, so that the work is slow
/// enough to be disturbed.
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

pub struct Scene {
    pub folder: TempDir,
    pub store: TestStore,
    pub topic: TestTopic,
    pub process: Process,
    pub client: Client,
    pub devices: Vec<Uuid>,
    /// Of each device.
    pub rows: usize,
    pub task: String,
    pub log: Vec<Value>,
}

/// How it went from the moment at which everything was there again.
pub struct Ended {
    pub account: Account,
    pub log: Vec<Value>,
    /// Until the next row was acknowledged, and until the task's end.
    pub first: Duration,
    pub took: Duration,
}

impl Ended {
    /// Adds a line to the table.
    pub fn write(&self, what: &str, times: usize, note: &str) {
        let (first, took) = (self.first.as_secs_f64(), self.took.as_secs_f64());
        let note = format!(
            "{note}, {} lines say that it waits; then first row after {first:.1} s, end after {took:.1} s",
            waits(&self.log)
        );
        Found::of(what, times, self.account, note).write();
    }
}

impl Scene {
    /// A patch on its way, with the queue in `folder`.
    pub async fn start(folder: TempDir) -> Self {
        Self::play(folder, Patch::on(&TestBroker::start().await).await).await
    }

    /// The same, of another patch.
    pub async fn play(folder: TempDir, patch: Patch) -> Self {
        let Patch { store, url, topic, devices, rows } = patch;
        let thing = fill(&store, &devices, rows).await;
        let seen = TestStore::Postgres { url: url.unwrap_or_else(|| store.url()), schema: String::new() };
        let process = Process::serve(&folder, &seen, &topic, &SETTINGS).await;
        let mut client = Client::connect(&process.url).await;
        let task = client.submit(&Client::request(thing, &devices, &topic.name)).await;
        let log = client.until(is_on_its_way).await;
        Self { folder, store, topic, process, client, devices, rows, task, log }
    }

    /// Reads the next line of the log, which must not be the last.
    pub async fn next(&mut self) -> Value {
        let line = self.client.next().await;
        assert!(!is_end(&line), "it has ended meanwhile: {line}");
        self.log.push(line.clone());
        line
    }

    /// Reads the log until a line fits.
    pub async fn until(&mut self, fits: impl Fn(&Value) -> bool) {
        let lines = self.client.until(fits).await;
        self.log.extend(lines);
    }

    /// Reads the log for a while. The task must not end in it.
    pub async fn listen(&mut self, time: Duration) {
        self.during(tokio::time::sleep(time)).await;
    }

    /// Reads the log while something else happens. The task must not end in it.
    pub async fn during<T>(&mut self, what: impl Future<Output = T>) -> T {
        let mut what = std::pin::pin!(what);
        loop {
            tokio::select! {
                biased;
                done = &mut what => return done,
                _ = self.next() => {}
            }
        }
    }

    /// Keeps CPU time and clock while it listens; returns the share of one core that the service used.
    pub async fn measure(&mut self, time: Duration) -> f64 {
        let (begun, before) = (Instant::now(), self.cpu_seconds());
        self.listen(time).await;
        (self.cpu_seconds() - before) / begun.elapsed().as_secs_f64()
    }

    /// What the service has used so far, by the kernel's account.
    fn cpu_seconds(&self) -> f64 {
        /// The kernel's unit for other programs, on every Linux.
        const TICKS_A_SECOND: f64 = 100.0;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.pid())).unwrap();
        // The program's name is in brackets and may hold anything; utime and stime are the 12th and 13th word after it.
        let words: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks = |word: usize| f64::from(words[word].parse::<u32>().unwrap());
        (ticks(11) + ticks(12)) / TICKS_A_SECOND
    }

    /// Whether the log has said something that contains all of these.
    pub fn has_said(&self, words: &[&str]) -> bool {
        self.log.iter().any(|line| words.iter().all(|word| message(line).contains(word)))
    }

    /// Reads on to the end, which must be a good one, and compares everything with everything.
    pub async fn ends_whole(mut self) -> Ended {
        let back = Instant::now();
        self.until(|line| message(line).contains("data published(")).await;
        let first = back.elapsed();
        self.until(is_end).await;
        let took = back.elapsed();
        let Self { folder, store, topic, process, task, devices, rows, log, .. } = self;
        told::is_exact(&log, &devices, rows);
        assert_eq!(process.terminate().await.0, Some(0));
        File::open(folder.path()).await.is_at_rest().await;
        let account = Account::of(&store, &topic, &task, &devices).await;
        assert_eq!(account.rows, devices.len() * rows);
        assert_eq!(account.lost, 0, "{account:?}");
        Ended { account, log, first, took }
    }
}

/// `iota data published(k / n)` with 0 < k < n.
fn is_on_its_way(line: &Value) -> bool {
    told::published(message(line)).is_some_and(|(published, rows, _)| 0 < published && published < rows)
}

/// How often the log said that it waits.
pub fn waits(log: &[Value]) -> usize {
    log.iter().filter(|line| message(line).contains("waits, nothing is lost")).count()
}

/// Rows of devices of a thing, made by PostgreSQL itself.
pub async fn fill(store: &TestStore, devices: &[Uuid], rows: usize) -> Uuid {
    let thing = Uuid::new_v4();
    for (number, device) in devices.iter().enumerate() {
        store.add_device(thing, *device, &format!("应变计{number:02}")).await;
        let doc = doc(*device, 7).replace("\"v\": 7", "\"v\": %s");
        let first = 1_000_000 + number * rows;
        store
            .execute(&format!(
                "INSERT INTO raw_data SELECT {first} + n, '{device}', timestamptz '2019-01-12T00:00:00Z' + n * interval '1 s', \
                 format('{doc}', n)::jsonb FROM generate_series(1, {rows}) AS n"
            ))
            .await;
    }
    thing
}
