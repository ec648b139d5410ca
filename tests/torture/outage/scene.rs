//! A patch of several devices by the real program, to be disturbed in the middle.

use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    account::{Account, File},
    support::{Client, Process, TestBroker, TestStore, TestTopic, doc, is_end, message, seqs},
    table::Found,
};

pub const DEVICES: usize = 4;
/// Of each device: enough that the work takes longer than the disturbing.
const ROWS: usize = 50_000;

/// Short times, so that an outage of seconds is a long one; small pages and little in flight, so that the work is slow
/// enough to be disturbed.
const SETTINGS: [(&str, &str); 8] = [
    ("DATA_PATCH_WORKER_LEASE_SECONDS", "3"),
    ("DATA_PATCH_WORKER_STALL_SECONDS", "3"),
    ("DATA_PATCH_WORKER_RETRY_MAX_SECONDS", "2"),
    ("DATA_PATCH_WORKER_PROGRESS_MS", "100"),
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
        let store = TestStore::empty().await;
        let url = store.url();
        Self::start_through(folder, store, url).await
    }

    /// The same, with another URL to the store for the service.
    pub async fn start_through(folder: TempDir, store: TestStore, url: String) -> Self {
        let topic = TestBroker::start().await.topic().await;
        let (thing, devices) = fill(&store).await;
        let process = Process::serve(&folder, &TestStore::Postgres { url, schema: String::new() }, &topic, &SETTINGS).await;
        let mut client = Client::connect(&process.url).await;
        let task = client.submit(&Client::request(thing, &devices, &topic.name)).await;
        let log = client.until(is_on_its_way).await;
        Self { folder, store, topic, process, client, devices, task, log }
    }

    /// Reads the log until a line fits.
    pub async fn until(&mut self, fits: impl Fn(&Value) -> bool) {
        let lines = self.client.until(fits).await;
        self.log.extend(lines);
    }

    /// Reads the log for a while. The task must not end in it.
    pub async fn listen(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while let Ok(line) = tokio::time::timeout(until.saturating_duration_since(Instant::now()), self.client.next()).await {
            assert!(!is_end(&line), "it has ended meanwhile: {line}");
            self.log.push(line);
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
        let Self { folder, store, topic, process, task, devices, log, .. } = self;
        assert_eq!(seqs(&log), (1..=log.len() as u64).collect::<Vec<_>>());
        let last = log.last().unwrap();
        assert_eq!(last["payload"]["state"], "succeeded", "{last}");
        assert!(message(last).contains(&format!("{} rows published, 0 held back", DEVICES * ROWS)), "{last}");
        assert_eq!(process.terminate().await.0, Some(0));
        File::open(folder.path()).await.is_at_rest().await;
        let account = Account::of(&store, &topic, &task, &devices).await;
        assert_eq!(account.rows, DEVICES * ROWS);
        assert_eq!(account.lost, 0, "{account:?}");
        Ended { account, log, first, took }
    }
}

/// `iota data published(k / n)` with 0 < k < n.
pub fn is_on_its_way(line: &Value) -> bool {
    let whole = format!("({ROWS} / ");
    message(line).starts_with("iota data published(") && !message(line).contains("(0 / ") && !message(line).contains(&whole)
}

/// How often the log said that it waits.
pub fn waits(log: &[Value]) -> usize {
    log.iter().filter(|line| message(line).contains("waits, nothing is lost")).count()
}

/// Rows of several devices, made by PostgreSQL itself.
async fn fill(store: &TestStore) -> (Uuid, Vec<Uuid>) {
    let thing = Uuid::new_v4();
    let devices: Vec<Uuid> = (0..DEVICES).map(|_| Uuid::new_v4()).collect();
    for (number, device) in devices.iter().enumerate() {
        store.add_device(thing, *device, &format!("应变计{number:02}")).await;
        let doc = doc(*device, 7).replace("\"v\": 7", "\"v\": %s");
        let first = 1_000_000 + number * ROWS;
        store
            .execute(&format!(
                "INSERT INTO raw_data SELECT {first} + n, '{device}', timestamptz '2019-01-12T00:00:00Z' + n * interval '1 s', \
                 format('{doc}', n)::jsonb FROM generate_series(1, {ROWS}) AS n"
            ))
            .await;
    }
    (thing, devices)
}
