//! A soak test: one service under replays of all sizes, with clients that connect, disconnect, are
//! rejected and are cut off. Resources are measured after the first cycles and at the end, when all
//! clients have disconnected, and must not have grown.
//!
//! Tasks are kept for at least a day, so the queue file may grow linearly with the number of tasks.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio_tungstenite::MaybeTlsStream;
use uuid::Uuid;

use crate::{
    queue_reader::{QueueReader, is_postgres},
    row_counts::RowCounts,
    support::{Client, Process, Reading, TOKEN, TestBroker, TestSource, TestTopic, doc, message},
    table::TestResult,
};

/// Rows of each device of the first thing.
const SIZES: [i64; 5] = [0, 1, 178, 5_000, 50_000];
/// Number of devices of the second thing, with one row each.
const MANY: usize = 300;
/// Cycles before the first measurement, so that caches, pools and allocator arenas have reached
/// their size.
const WARM_UP: usize = 2;
/// Tasks of a cycle: each device of the first thing, all its devices, and all devices of the second
/// thing.
const TASKS: usize = SIZES.len() + 2;
/// Clients that watch each task of a cycle.
const WATCHERS: usize = 12;
const MIB: u64 = 1 << 20;

/// A thing, and its devices.
type Thing = (Uuid, Vec<Uuid>);

struct Fixture {
    folder: tempfile::TempDir,
    source: TestSource,
    broker: TestBroker,
    sizes: Thing,
    many: Thing,
}

impl Fixture {
    async fn new() -> Self {
        let (source, mut key) = (TestSource::empty().await, 0);
        let sizes = add(&source, &mut key, &SIZES).await;
        let many = add(&source, &mut key, &[1; MANY]).await;
        Self { folder: tempfile::tempdir().unwrap(), source, broker: TestBroker::start().await, sizes, many }
    }
}

/// Adds a thing with devices of these numbers of rows.
async fn add(source: &TestSource, key: &mut i64, sizes: &[i64]) -> Thing {
    let (thing, mut devices, mut readings) = (Uuid::new_v4(), Vec::new(), Vec::new());
    for rows in sizes {
        let device = Uuid::new_v4();
        source.add_device(thing, device, "静力水准仪").await;
        for n in 0..*rows {
            *key += 1;
            readings.push(Reading { id: *key, device, time_ms: 1_547_211_780_000 + n * 1_000, doc: Some(doc(device, n)) });
        }
        devices.push(device);
    }
    source.add(&readings).await;
    (thing, devices)
}

/// The resources of a running service.
#[derive(Debug, Clone, Copy)]
struct Sample {
    memory: u64,
    handles: u64,
    tasks: u64,
    /// Queue file and WAL, or the tables in PostgreSQL.
    file: u64,
    wal: u64,
}

impl Sample {
    /// Measures them once no client is connected and no task runs.
    async fn take(service: &Process, folder: &Path) -> Self {
        let flat = [
            "data_patch_connections 0\n",
            "data_patch_log_subscriptions 0\n",
            "data_patch_jobs_unfinished 0\n",
            "data_patch_jobs_running 0\n",
        ];
        crate::support::eventually("all clients are gone, and nothing runs", || async {
            let metrics = metrics(service).await;
            flat.iter().all(|line| metrics.contains(line))
        })
        .await;
        let size = |name: &str| std::fs::metadata(folder.join(name)).map_or(0, |file| file.len());
        let mut queue = QueueReader::open(folder).await;
        let tasks = queue.number("SELECT count(*) FROM task").await;
        let file = if is_postgres() {
            let tables = "SELECT CAST(sum(pg_total_relation_size(name)) AS bigint)
                          FROM unnest(ARRAY['task', 'job', 'event', 'quarantine']::regclass[]) AS name";
            u64::try_from(queue.number(tables).await).unwrap()
        } else {
            size("queue.db")
        };
        Self {
            memory: service.memory("VmRSS") << 10,
            handles: std::fs::read_dir(format!("/proc/{}/fd", service.pid())).unwrap().count() as u64,
            tasks: u64::try_from(tasks).unwrap(),
            file,
            wal: size("queue.db-wal"),
        }
    }
}

async fn metrics(service: &Process) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = service.url.trim_start_matches("ws://").split('/').next().unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Sends invalid messages, and checks the code of each rejection.
async fn send_invalid_messages(url: &str, (thing, devices): &Thing) {
    let mut client = Client::connect(url).await;
    let mut backward = Client::request(*thing, devices, "any");
    backward["to"] = json!("2001-01-01T00:00:00Z");
    let messages: [(Value, &str); 4] = [
        (json!({"src": "iota"}), "missing_field"),
        (json!([1, 2]), "unknown_shape"),
        (backward, "invalid_field"),
        (json!({"token": TOKEN, "taskId": Uuid::new_v4()}), "unknown_task"),
    ];
    for (text, code) in messages {
        client.send(&text).await;
        let reply = client.next().await;
        assert_eq!((reply["res"].as_str(), reply["payload"]["code"].as_str()), (Some("error"), Some(code)), "{text}: {reply}");
    }
    client.send_text("no JSON").await;
    assert_eq!(client.next().await["payload"]["code"], "not_json");
    client.send(&json!({"token": "wrong", "taskId": Uuid::new_v4()})).await;
    assert_eq!(client.close_code().await, Some(1008));
}

/// Watches a task in one of four ways: to the end, until it disconnects, until it is cut off, not
/// at all.
async fn watch(url: String, task: String, way: usize) {
    let mut client = Client::connect(&url).await;
    assert_eq!(message(&client.attach(&task, 0).await), "task attached.");
    match way % 4 {
        0 => drop(client.log().await),
        1 => {
            client.next().await;
        }
        2 => {
            client.next().await;
            let MaybeTlsStream::Plain(stream) = client.socket.get_ref() else { panic!("no plain stream") };
            stream.set_zero_linger().unwrap();
        }
        _ => client.socket.close(None).await.unwrap(),
    }
}

/// Runs replays of all sizes at the same time, with their watchers; returns the counted rows.
async fn cycle(fixture: &Fixture, service: &Process, topics: &[TestTopic]) -> RowCounts {
    let (thing, devices) = &fixture.sizes;
    let mut asked: Vec<(Uuid, Vec<Uuid>)> = devices.iter().map(|device| (*thing, vec![*device])).collect();
    asked.push((*thing, devices.clone()));
    asked.push(fixture.many.clone());
    let (mut tasks, mut clients, mut watching) = (Vec::new(), Vec::new(), tokio::task::JoinSet::new());
    for ((thing, devices), topic) in asked.into_iter().zip(topics) {
        let mut client = Client::connect(&service.url).await;
        let task = client.submit(&Client::request(thing, &devices, &topic.name)).await;
        for way in 0..WATCHERS {
            watching.spawn(watch(service.url.clone(), task.clone(), way));
        }
        clients.push(client);
        tasks.push((task, devices, topic));
    }
    send_invalid_messages(&service.url, &fixture.sizes).await;
    for client in &mut clients {
        let log = client.log().await;
        assert_eq!(log.last().unwrap()["payload"]["state"], "succeeded", "{:?}", log.last());
    }
    while let Some(watched) = watching.join_next().await {
        watched.unwrap();
    }
    let mut sum = RowCounts::default();
    let counts = tasks.iter().map(|(task, devices, topic)| RowCounts::of(&fixture.source, topic, task, devices));
    for counts in join_all(counts).await {
        sum.add(counts);
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make soak"]
async fn what_should_be_flat_is_flat() {
    let seconds = std::env::var("SOAK_SECONDS").map_or(240, |text| text.parse().unwrap());
    let fixture = Fixture::new().await;
    let topic = fixture.broker.topic().await;
    let service = Process::serve(&fixture.folder, &fixture.source, &topic, &[]).await;
    let (started, mut cycles, mut counts) = (Instant::now(), 0, RowCounts::default());
    let mut warm = None;
    while cycles <= WARM_UP || started.elapsed() < Duration::from_secs(seconds) {
        // A topic for each task, so that its rows can be counted without reading earlier tasks.
        let mut topics = Vec::new();
        for _ in 0..TASKS {
            topics.push(fixture.broker.topic().await);
        }
        counts.add(cycle(&fixture, &service, &topics).await);
        cycles += 1;
        assert_eq!(counts.lost, 0, "cycle {cycles}");
        if cycles == WARM_UP {
            warm = Some(Sample::take(&service, fixture.folder.path()).await);
        }
    }
    let (warm, end) = (warm.unwrap(), Sample::take(&service, fixture.folder.path()).await);
    let note = format!(
        "{cycles} cycles in {:.0} s. After {WARM_UP} and at the end: {} and {} MiB, {} and {} handles, {} and {} tasks, {} and {} KiB of queue, {} and {} KiB of WAL",
        started.elapsed().as_secs_f64(),
        warm.memory / MIB,
        end.memory / MIB,
        warm.handles,
        end.handles,
        warm.tasks,
        end.tasks,
        warm.file >> 10,
        end.file >> 10,
        warm.wal >> 10,
        end.wal >> 10
    );
    println!("{note}");
    QueueReader::open(fixture.folder.path()).await.assert_finished().await;
    assert_eq!(end.tasks, (cycles * TASKS) as u64, "each request is a task, and a refused one is none");
    assert!(end.memory <= warm.memory * 13 / 10 + 16 * MIB, "memory grows: {note}");
    assert!(end.handles <= warm.handles + 8, "handles leak: {note}");
    assert!(end.wal <= 17 * MIB && warm.wal <= 17 * MIB, "the WAL is not cut back: {note}");
    // The number of log lines depends on the duration of a task, and pages are allocated whole: a
    // factor of 1.5 still counts as linear.
    let grown = (warm.file + 2 * MIB) * end.tasks / warm.tasks * 3 / 2;
    assert!(end.file <= grown, "the queue file grows faster than its tasks: {note}");
    assert_eq!(service.terminate().await.0, Some(0));
    let RowCounts { rows, lost, repeated } = counts;
    assert_eq!(repeated, 0, "nothing went wrong, so nothing goes out twice");
    TestResult { what: "soak", times: cycles, rows, lost, repeated, note }.write();
}
