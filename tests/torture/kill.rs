//! The kill matrix: SIGKILL at each named failpoint, a restart, and a count of the rows.

use std::time::{Duration, Instant};

use serde_json::Value;
use uuid::Uuid;

use crate::{
    queue_reader::{QueueReader, is_postgres},
    row_counts::RowCounts,
    support::{Client, Process, TestBroker, TestSource, TestTopic, message, seqs},
    table::TestResult,
};

/// Enough for some thousand acknowledgements and a few heartbeats before a failpoint is hit.
const ROWS: i64 = 20_000;

/// The failpoint, how often it is passed before the kill, and what has happened by then.
struct Point {
    name: &'static str,
    what: &'static str,
    passes: &'static [u32],
}

const fn point(name: &'static str, what: &'static str, passes: &'static [u32]) -> Point {
    Point { name, what, passes }
}

struct Fixture {
    folder: tempfile::TempDir,
    source: TestSource,
    topic: TestTopic,
    thing: Uuid,
    device: Uuid,
}

impl Fixture {
    async fn new() -> Self {
        let (source, topic) = (TestSource::empty().await, TestBroker::start().await.topic().await);
        let (thing, device) = source.add_rows(ROWS).await;
        Self { folder: tempfile::tempdir().unwrap(), source, topic, thing, device }
    }

    /// A service that kills itself at a failpoint; small pages and few bytes in flight make many
    /// steps.
    async fn serve_until(&self, kill_at: &str) -> Process {
        let more = [
            ("FAILPOINT", kill_at),
            ("DATA_PATCH_IOTA_PAGE_ROWS", "500"),
            ("DATA_PATCH_KAFKA_IN_FLIGHT_BYTES", "262144"),
            ("DATA_PATCH_WORKER_CHECKPOINT_INTERVAL_MS", "10"),
        ];
        Process::serve(&self.folder, &self.source, &self.topic, &more).await
    }

    async fn serve(&self) -> Process {
        Process::serve(&self.folder, &self.source, &self.topic, &[]).await
    }

    fn request(&self) -> Value {
        Client::request(self.thing, &[self.device], &self.topic.name)
    }

    /// Waits until the queued task is finished, and compares source, topic and queue. `position` is
    /// the checkpoint at the time of the kill.
    async fn counts(self, process: Process, position: Option<i64>) -> RowCounts {
        let task = QueueReader::open(self.folder.path()).await.task().await.expect("no task");
        let mut client = Client::connect(&process.url).await;
        assert_eq!(message(&client.attach(&task, 0).await), "task attached.");
        let log = client.log().await;
        assert_eq!(seqs(&log), (1..=log.len() as u64).collect::<Vec<_>>());
        let last = message(log.last().unwrap());
        assert!(last.starts_with(&format!("task finished: 1 of 1 device, {ROWS} rows published, 0 quarantined")), "{last}");
        assert_eq!(process.terminate().await.0, Some(0));
        QueueReader::open(self.folder.path()).await.assert_finished().await;
        let repeated = self.repeated().await;
        if let (Some(position), Some(first)) = (position, repeated.first()) {
            assert!(*first > position, "a row up to the checkpoint was sent again: {first} <= {position}");
        }
        RowCounts::of(&self.source, &self.topic, &task, &[self.device]).await
    }

    /// The times of rows that are in the topic more than once, in ascending order.
    async fn repeated(&self) -> Vec<i64> {
        let mut seen = std::collections::HashSet::new();
        let mut times: Vec<i64> = self
            .topic
            .read()
            .await
            .into_iter()
            .filter(|found| !seen.insert(found.row.clone()))
            .map(|found| {
                let time = found.row.split('/').nth(1).unwrap();
                chrono::DateTime::parse_from_rfc3339(time).unwrap().timestamp_micros()
            })
            .collect();
        times.sort_unstable();
        times
    }
}

/// Kills a service during a task, starts another, and counts the rows.
async fn killed(at: &str) -> (RowCounts, Duration) {
    let fixture = Fixture::new().await;
    let dying = fixture.serve_until(at).await;
    crate::support::eventually("the service listens", || async { tokio::net::TcpStream::connect(dying.address).await.is_ok() })
        .await;
    let mut client = Client::connect(&dying.url).await;
    client.send(&fixture.request()).await;
    assert_eq!(dying.died().await, Some(9), "{at} was not reached");
    let position = QueueReader::open(fixture.folder.path()).await.position().await;
    let (process, started) = (fixture.serve().await, Instant::now());
    let counts = fixture.counts(process, position).await;
    // The lease of the killed service would have lasted for ten minutes.
    assert!(started.elapsed() < Duration::from_secs(50), "{at}: {:?}", started.elapsed());
    (counts, started.elapsed())
}

/// One row of the matrix.
async fn row(point: Point) {
    let (mut sum, mut longest) = (RowCounts::default(), Duration::ZERO);
    for passes in point.passes {
        let (counts, took) = killed(&format!("{}:{passes}", point.name)).await;
        assert_eq!(counts.lost, 0, "{}:{passes}: {counts:?}", point.name);
        sum.add(counts);
        longest = longest.max(took);
    }
    write(&point, sum, format!("restart to the end, the count included: {:.1} s at the most", longest.as_secs_f64()));
}

fn write(point: &Point, sum: RowCounts, note: String) {
    let what = format!("SIGKILL {}", point.what);
    TestResult::of(&what, point.passes.len(), sum, note).write();
}

macro_rules! matrix {
    ($($test:ident: $name:literal, $what:literal, $passes:expr;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                row(point($name, $what, &$passes)).await;
            }
        )*
    };
}

matrix! {
    accepted: "accepted", "after the accept's commit, before the reply", [1];
    claimed: "claimed", "after a claim", [1];
    read: "read", "between read and produce", [1, 2, 15];
    produced: "produced", "after a produce, before its acknowledgement", [1, 777, 19_999, 20_000];
    acknowledged: "acknowledged", "after an acknowledgement, before the checkpoint", [1, 5_000, 20_000];
    heartbeat: "heartbeat", "in a heartbeat, before its commit", [1, 5];
    last_event: "last-event", "before the last event's commit", [1];
}

/// SIGTERM during the work, and SIGKILL during the shutdown.
async fn killed_while_stopping(at: &str) -> RowCounts {
    let fixture = Fixture::new().await;
    let dying = fixture.serve_until(at).await;
    crate::support::eventually("the service listens", || async { tokio::net::TcpStream::connect(dying.address).await.is_ok() })
        .await;
    let mut client = Client::connect(&dying.url).await;
    client.submit(&fixture.request()).await;
    client.until(|line| message(line).starts_with("iota data published(")).await;
    dying.signal("-TERM");
    assert_eq!(dying.died().await, Some(9), "{at} was not reached");
    let position = QueueReader::open(fixture.folder.path()).await.position().await;
    let process = fixture.serve().await;
    fixture.counts(process, position).await
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping() {
    let mut sum = RowCounts::default();
    for at in ["stopping", "releasing"] {
        let counts = killed_while_stopping(at).await;
        assert_eq!(counts.lost, 0, "{at}: {counts:?}");
        sum.add(counts);
    }
    write(&point("stopping", "during shutdown", &[1, 1]), sum, "before and after the rows in flight are waited for".to_owned());
}

#[tokio::test(flavor = "multi_thread")]
async fn migration() {
    // The commits of a first start: the table of migrations, and each migration with its entry.
    const PASSES: [u32; 3] = [1, 2, 3];
    if is_postgres() {
        println!("NOT RUN: on PostgreSQL each migration is one transaction of sqlx, without a failpoint in it");
        return;
    }
    let mut sum = RowCounts::default();
    for pass in PASSES {
        let fixture = Fixture::new().await;
        let at = format!("migration:{pass}");
        let dying = Process::start(&fixture.folder, &fixture.source, &fixture.topic, &[("FAILPOINT", &at)]);
        assert_eq!(dying.died().await, Some(9), "{at} was not reached");
        let process = fixture.serve().await;
        let mut client = Client::connect(&process.url).await;
        client.submit(&fixture.request()).await;
        let counts = fixture.counts(process, None).await;
        assert_eq!((counts.lost, counts.repeated), (0, 0), "{counts:?}");
        sum.add(counts);
    }
    write(&point("migration", "during migration", &PASSES), sum, String::new());
}
