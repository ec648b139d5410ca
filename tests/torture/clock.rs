//! The system clock is changed while jobs wait, while they run, and between a stop and a start.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    outage::log_checks,
    queue_reader::QueueReader,
    row_counts::RowCounts,
    support::{Client, Process, TestBroker, TestSource, TestTopic, is_end, message, seqs},
    table::TestResult,
};

const HOUR_MS: i64 = 3_600_000;
/// Much longer than all waits here (`worker.retry_max_ms` is 1,000), and much shorter than the
/// changes of the clock.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// Rows of the task on a real broker.
const ROWS: i64 = 20_000;

/// A wall clock that can be set.
struct Clock {
    shim: PathBuf,
    shift: PathBuf,
}

impl Clock {
    fn new(folder: &Path) -> Self {
        let (source, shim) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torture/clock/shim.c"), folder.join("shim.so"));
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).args([&shim, &source]).status();
        assert!(compiled.expect("a C compiler is needed").success());
        let clock = Self { shim, shift: folder.join("shift") };
        clock.set(0);
        clock
    }

    /// Sets the clock to this many milliseconds after the true time.
    fn set(&self, shift_ms: i64) {
        let file = File::options().create(true).write(true).truncate(false).open(&self.shift).unwrap();
        file.write_all_at(&shift_ms.to_ne_bytes(), 0).unwrap();
    }

    fn variables(&self) -> [(&str, &str); 2] {
        [("LD_PRELOAD", self.shim.to_str().unwrap()), ("CLOCK_SHIFT_FILE", self.shift.to_str().unwrap())]
    }
}

struct Fixture {
    folder: tempfile::TempDir,
    source: TestSource,
    topic: TestTopic,
    clock: Clock,
}

impl Fixture {
    async fn new() -> Self {
        Self::on(TestBroker::start().await.topic().await).await
    }

    async fn on(topic: TestTopic) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::new(folder.path());
        Self { source: TestSource::empty().await, topic, folder, clock }
    }

    async fn serve(&self, more: &[(&str, &str)]) -> Process {
        let always = [("DATA_PATCH_WORKER_LEASE_SECONDS", "4"), ("DATA_PATCH_WORKER_RETRY_MAX_MS", "1000")];
        let variables: Vec<_> = self.clock.variables().into_iter().chain(always).chain(more.iter().copied()).collect();
        Process::serve(&self.folder, &self.source, &self.topic, &variables).await
    }
}

fn waits(line: &Value) -> bool {
    message(line).contains("waits, nothing is lost")
}

/// An address on which nothing listens.
fn no_broker() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Waits until the job is retried; returns how long that took.
async fn time_to_next_retry(client: &mut Client) -> Duration {
    let started = Instant::now();
    client.until(waits).await;
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute; make torture"]
async fn set_back_by_an_hour_while_a_job_waits() {
    let fixture = Fixture::new().await;
    let (thing, device) = fixture.source.add_rows(3).await;
    let unreachable = no_broker();
    let process =
        fixture.serve(&[("DATA_PATCH_KAFKA_BROKERS", &unreachable), ("DATA_PATCH_KAFKA_LOOKUP_TIMEOUT_SECONDS", "1")]).await;
    let mut client = Client::connect(&process.url).await;
    let task = client.submit(&Client::request(thing, &[device], &fixture.topic.name)).await;
    client.until(waits).await;
    let mut longest = Duration::ZERO;
    for shift_ms in [-HOUR_MS, HOUR_MS, -24 * HOUR_MS, 0] {
        fixture.clock.set(shift_ms);
        for _ in 0..2 {
            longest = longest.max(time_to_next_retry(&mut client).await);
        }
    }
    assert!(longest < MAX_WAIT, "{longest:?}");
    // Stopped while the clock is ahead, started while it is correct.
    fixture.clock.set(HOUR_MS);
    client.until(waits).await;
    process.terminate().await;
    fixture.clock.set(0);
    let started = Instant::now();
    let process = fixture.serve(&[]).await;
    let mut client = Client::connect(&process.url).await;
    client.attach(&task, 0).await;
    let log = client.log().await;
    assert!(started.elapsed() < MAX_WAIT, "{:?}", started.elapsed());
    assert!(message(log.last().unwrap()).contains("3 rows published"), "{log:#?}");
    process.terminate().await;
    let counts = RowCounts::of(&fixture.source, &fixture.topic, &task, &[device]).await;
    let note = format!("the longest wait {:.1} s, with waits of 1 s", longest.as_secs_f64());
    let found =
        TestResult::of("clock set by an hour or a day, to and fro, while jobs wait, and between stop and start", 5, counts, note);
    found.write();
    assert_eq!((found.lost, found.repeated), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute; make torture"]
async fn set_ahead_and_back_while_a_job_runs() {
    // At the end the clock is a day ahead, and by default a broker rejects timestamps that are an
    // hour ahead.
    let accepts_all = [("message.timestamp.after.max.ms", "9223372036854775807")];
    let fixture = Fixture::on(TestBroker::start().await.topic_with(&accepts_all).await).await;
    // More rows than are sent within four checkpoints.
    let (thing, device) = fixture.source.add_rows(100_000).await;
    let slow = [
        ("DATA_PATCH_IOTA_PAGE_ROWS", "500"),
        ("DATA_PATCH_KAFKA_IN_FLIGHT_BYTES", "65536"),
        // So long that a lease that seems expired would be claimed before it is renewed.
        ("DATA_PATCH_WORKER_CHECKPOINT_INTERVAL_MS", "1300"),
    ];
    // A second service on the queue would take over expired leases.
    let (process, other) = (fixture.serve(&slow).await, fixture.serve(&slow).await);
    let mut client = Client::connect(&process.url).await;
    let task = client.submit(&Client::request(thing, &[device], &fixture.topic.name)).await;
    let mut log = Vec::new();
    for shift_ms in [HOUR_MS, 0, -HOUR_MS, 24 * HOUR_MS] {
        log.extend(client.until(|line| is_end(line) || message(line).starts_with("iota data published(")).await);
        assert!(!is_end(log.last().unwrap()), "the task ended before the clock was changed: {log:#?}");
        fixture.clock.set(shift_ms);
    }
    log.extend(client.log().await);
    assert_eq!(seqs(&log), (1..=log.len() as u64).collect::<Vec<_>>());
    assert!(!log.iter().any(|line| message(line).contains("its previous worker was lost")), "a lease was taken over: {log:#?}");
    for process in [process, other] {
        process.terminate().await;
    }
    QueueReader::open(fixture.folder.path()).await.assert_finished().await;
    let counts = RowCounts::of(&fixture.source, &fixture.topic, &task, &[device]).await;
    let found =
        TestResult::of("clock set by an hour or a day while a job runs, beside a second service", 4, counts, String::new());
    found.write();
    assert_eq!((found.lost, found.repeated), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute; make torture"]
async fn ahead_of_a_real_brokers() {
    let what = "clock ahead of the broker's by more than the topic allows, in the middle of a setup, then right";
    let broker = TestBroker::start().await;
    if !broker.is_real() {
        println!(
            "NOT RUN: {what}: the embedded broker takes any timestamp: scripts/services up; eval \"$(scripts/services env)\""
        );
        return;
    }
    let fixture = Fixture::on(broker.topic_with(&[("message.timestamp.after.max.ms", "60000")]).await).await;
    let (thing, device) = fixture.source.add_rows(ROWS).await;
    let process = fixture.serve(&[("DATA_PATCH_IOTA_PAGE_ROWS", "500"), ("DATA_PATCH_KAFKA_IN_FLIGHT_BYTES", "65536")]).await;
    let mut client = Client::connect(&process.url).await;
    let task = client.submit(&Client::request(thing, &[device], &fixture.topic.name)).await;
    let mut log = client.until(|line| message(line).starts_with("iota data published(")).await;
    let ahead = Instant::now();
    fixture.clock.set(HOUR_MS);
    for _ in 0..3 {
        log.extend(client.until(waits).await);
        let text = message(log.last().unwrap());
        assert!(text.contains(&format!("Kafka refuses the timestamps of topic {}", fixture.topic.name)), "{text}");
        assert!(text.contains("message.timestamp.after.max.ms is 60 s"), "{text}");
    }
    println!("{}", message(log.last().unwrap()));
    let ahead = ahead.elapsed();
    fixture.clock.set(0);
    let right = Instant::now();
    log.extend(client.log().await);
    let right = right.elapsed();
    log_checks::assert_exact(&log, &[device], ROWS as usize);
    process.terminate().await;
    QueueReader::open(fixture.folder.path()).await.assert_finished().await;
    let counts = RowCounts::of(&fixture.source, &fixture.topic, &task, &[device]).await;
    let note = format!("ahead for {:.1} s; end {:.1} s after it was right", ahead.as_secs_f64(), right.as_secs_f64());
    let found = TestResult::of(what, 1, counts, note);
    found.write();
    assert_eq!((found.rows, found.lost), (ROWS as usize, 0));
}
