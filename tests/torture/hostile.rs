//! Many clients, and clients that mean ill: the others' log comes as quickly as without them, and memory stays flat.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt, stream};
use serde_json::{Value, json};
use tokio::{process::Command, time::Instant};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use crate::{
    support::{Client, Process, TOKEN, TestBroker, TestStore, TestTopic, is_end, message, program},
    table::TestResult,
};

mod flood;

const ROWS: i64 = 60_000;

struct Fixture {
    folder: tempfile::TempDir,
    store: TestStore,
    topic: TestTopic,
    thing: Uuid,
    device: Uuid,
    process: Process,
}

impl Fixture {
    /// A service that says what it does fifty times a second, and takes a while for it.
    async fn new() -> Self {
        Self::with(program(), &[]).await
    }

    /// The same, as another command starts it, with more options.
    async fn with(program: Command, options: &[(&str, &str)]) -> Self {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let raised = rustix::process::Rlimit { current: files.maximum, ..files };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
        let (folder, store, topic) =
            (tempfile::tempdir().unwrap(), TestStore::empty().await, TestBroker::start().await.topic().await);
        let (thing, device) = store.add_rows(ROWS).await;
        let slow = [
            ("DATA_PATCH_IOTA_PAGE_ROWS", "500"),
            ("DATA_PATCH_KAFKA_IN_FLIGHT_BYTES", "131072"),
            ("DATA_PATCH_WORKER_PROGRESS_LOG_INTERVAL_MS", "20"),
        ];
        let process = Process::serve_as(program, &folder, &store, &topic, &[&slow, options].concat()).await;
        Self { folder, store, topic, thing, device, process }
    }

    fn request(&self) -> Value {
        Client::request(self.thing, &[self.device], &self.topic.name)
    }

    /// A client that has sent the right token.
    async fn client(&self) -> Client {
        let mut client = Client::connect(&self.process.url).await;
        let reply = client.attach(&Uuid::new_v4().to_string(), 0).await;
        assert_eq!(reply["payload"]["code"], "unknown_task");
        client
    }

    /// Resident memory in KiB.
    fn memory(&self) -> u64 {
        self.process.memory("VmRSS")
    }

    async fn end(self) {
        assert!(!Process::log(&self.folder).contains("panicked"));
        assert_eq!(self.process.terminate().await.0, Some(0));
        drop(self.store);
    }
}

/// Watches a task to its end; returns how long after it was written the last line came that took longest, and the lines.
async fn delay(client: &mut Client) -> (Duration, usize) {
    let (mut longest, mut lines) = (Duration::ZERO, 0);
    loop {
        let line = client.next().await;
        let written = chrono::DateTime::parse_from_rfc3339(line["payload"]["time"].as_str().unwrap()).unwrap();
        longest = longest.max((chrono::Utc::now() - written.to_utc()).to_std().unwrap_or_default());
        lines += 1;
        if is_end(&line) {
            return (longest, lines);
        }
    }
}

/// Submits, watches to the end, and returns the longest delay.
async fn watched(fixture: &Fixture) -> (Duration, usize) {
    let mut client = fixture.client().await;
    client.submit(&fixture.request()).await;
    delay(&mut client).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn thousands_that_say_nothing() {
    const SILENT: usize = 3_000;
    let fixture = Fixture::new().await;
    let (alone, _) = watched(&fixture).await;
    let before = fixture.memory();
    let silent: Vec<Client> = stream::iter(0..SILENT).map(|_| fixture.client()).buffer_unordered(50).collect().await;
    let each = fixture.memory().saturating_sub(before) * 1_024 / SILENT as u64;
    let (among, lines) = watched(&fixture).await;
    assert!(among < Duration::from_secs(2), "{among:?} among {SILENT}, {alone:?} alone");
    assert!(each < 16_000, "{each} bytes a silent connection");
    drop(silent);
    let note = format!("{each} bytes each; a log line took {among:?} at most among them, {alone:?} alone");
    TestResult {
        what: "3,000 connections that say nothing",
        times: lines,
        rows: 2 * ROWS as usize,
        note,
        ..TestResult::default()
    }
    .write();
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn clients_that_never_read() {
    const DEAF: usize = 100;
    let fixture = Fixture::new().await;
    let (alone, _) = watched(&fixture).await;
    let mut submitter = fixture.client().await;
    let task = submitter.submit(&fixture.request()).await;
    let mut deaf = Vec::new();
    for _ in 0..DEAF {
        let mut client = fixture.client().await;
        // The whole log, again and again: more than any buffer on the way holds. It is sent, and nothing is ever read.
        let attach = json!({"token": TOKEN, "taskId": task, "after": 0}).to_string();
        for _ in 0..200 {
            client.socket.feed(Message::text(attach.clone())).await.unwrap();
        }
        let _ = tokio::time::timeout(Duration::from_millis(200), client.socket.flush()).await;
        deaf.push(client);
    }
    // The submitter does not read either: it is one of them. Others watch the same task.
    let before = fixture.memory();
    let mut watcher = fixture.client().await;
    watcher.attach(&task, 0).await;
    let begun = Instant::now();
    let lines = watcher.log().await.len();
    let (among, _) = watched(&fixture).await;
    let grown = fixture.memory().saturating_sub(before) / 1_024;
    assert!(among < Duration::from_secs(2), "{among:?} among {DEAF}, {alone:?} alone");
    assert!(grown < 32, "{grown} MiB more");
    let took = begun.elapsed();
    let note = format!("a log line took {among:?} at most beside them, {alone:?} alone; {grown} MiB more; {took:?} in all");
    TestResult {
        what: "100 clients that submit or attach and never read",
        times: lines,
        rows: 3 * ROWS as usize,
        note,
        ..TestResult::default()
    }
    .write();
    drop((deaf, submitter));
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn frames_of_maximum_size() {
    const FRAMES: usize = 200;
    let fixture = Fixture::new().await;
    let limit = 1_048_576;
    let pad = |text: &str, with: &str| format!("{text}{}", with.repeat(limit - text.len()));
    let devices: Vec<String> = (0..20_000).map(|_| Uuid::new_v4().to_string()).collect();
    let mut request = fixture.request();
    request["devices"] = json!(devices);
    let hostile = [
        pad("", "["),
        pad("", "{\"a\":"),
        pad("{\"token\":\"", "x"),
        pad("", " "),
        pad("", "\u{0}"),
        request.to_string(),
        format!("{{\"src\":\"iota\",\"token\":\"{TOKEN}\",\"topic\":\"{}\"}}", "t".repeat(limit - 100)),
    ];
    let before = fixture.memory();
    let mut client = fixture.client().await;
    let mut longest = Duration::ZERO;
    for n in 0..FRAMES {
        let mut text = hostile[n % hostile.len()].clone();
        text.truncate(limit);
        let begun = Instant::now();
        client.send_text(&text).await;
        let reply = client.next().await;
        assert_eq!(reply["res"], "error", "{reply}");
        assert!(message(&reply).len() < 2_000, "{}", message(&reply).len());
        longest = longest.max(begun.elapsed());
    }
    let (among, _) = watched(&fixture).await;
    let grown = fixture.memory().saturating_sub(before) / 1_024;
    assert!(grown < 64, "{grown} MiB more");
    let note = format!("answered in {longest:?} at most; {grown} MiB more; then a log line took {among:?} at most");
    TestResult { what: "frames of 1 MiB that are no request", times: FRAMES, rows: ROWS as usize, note, ..TestResult::default() }
        .write();
    fixture.end().await;
}
