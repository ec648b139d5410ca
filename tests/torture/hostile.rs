//! Many clients and hostile clients: they neither delay the logs of others nor grow the memory.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt, stream};
use serde_json::{Value, json};
use tokio::{process::Command, time::Instant};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use crate::{
    support::{Client, Process, TOKEN, TestBroker, TestSource, TestTopic, is_end, message, program},
    table::TestResult,
};

mod flood;

const ROWS: i64 = 60_000;

struct Fixture {
    folder: tempfile::TempDir,
    source: TestSource,
    topic: TestTopic,
    thing: Uuid,
    device: Uuid,
    process: Process,
}

impl Fixture {
    /// Starts a slow service that logs progress fifty times a second.
    async fn new() -> Self {
        Self::with(program(), &[]).await
    }

    /// As [`new`](Self::new), with another command and more options.
    async fn with(program: Command, options: &[(&str, &str)]) -> Self {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let raised = rustix::process::Rlimit { current: files.maximum, ..files };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
        let (folder, source, topic) =
            (tempfile::tempdir().unwrap(), TestSource::empty().await, TestBroker::start().await.topic().await);
        let (thing, device) = source.add_rows(ROWS).await;
        let slow = [
            ("DATA_PATCH_IOTA_PAGE_ROWS", "500"),
            ("DATA_PATCH_KAFKA_IN_FLIGHT_BYTES", "131072"),
            ("DATA_PATCH_WORKER_PROGRESS_LOG_INTERVAL_MS", "20"),
        ];
        let process = Process::serve_as(program, &folder, &source, &topic, &[&slow, options].concat()).await;
        Self { folder, source, topic, thing, device, process }
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
        drop(self.source);
    }
}

/// Watches a task to its end; returns the longest delay of a line, and the number of lines.
async fn max_delay(client: &mut Client) -> (Duration, usize) {
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

/// Submits a task and watches it to its end, as [`max_delay`].
async fn submit_and_watch(fixture: &Fixture) -> (Duration, usize) {
    let mut client = fixture.client().await;
    client.submit(&fixture.request()).await;
    max_delay(&mut client).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn thousands_of_idle_connections() {
    const IDLE: usize = 3_000;
    let fixture = Fixture::new().await;
    let (alone, _) = submit_and_watch(&fixture).await;
    let before = fixture.memory();
    let idle: Vec<Client> = stream::iter(0..IDLE).map(|_| fixture.client()).buffer_unordered(50).collect().await;
    let each = fixture.memory().saturating_sub(before) * 1_024 / IDLE as u64;
    let (with_others, lines) = submit_and_watch(&fixture).await;
    assert!(with_others < Duration::from_secs(2), "{with_others:?} with {IDLE}, {alone:?} alone");
    assert!(each < 16_000, "{each} bytes a idle connection");
    drop(idle);
    let note = format!("{each} bytes each; a log line took {with_others:?} at most with them, {alone:?} alone");
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
    const NON_READING: usize = 100;
    let fixture = Fixture::new().await;
    let (alone, _) = submit_and_watch(&fixture).await;
    let mut submitter = fixture.client().await;
    let task = submitter.submit(&fixture.request()).await;
    let mut non_reading = Vec::new();
    for _ in 0..NON_READING {
        let mut client = fixture.client().await;
        // Requests the whole log many times, more than all buffers hold, and never reads.
        let attach = json!({"token": TOKEN, "taskId": task, "after": 0}).to_string();
        for _ in 0..200 {
            client.socket.feed(Message::text(attach.clone())).await.unwrap();
        }
        let _ = tokio::time::timeout(Duration::from_millis(200), client.socket.flush()).await;
        non_reading.push(client);
    }
    // The submitter does not read either. Another client watches the same task.
    let before = fixture.memory();
    let mut watcher = fixture.client().await;
    watcher.attach(&task, 0).await;
    let started = Instant::now();
    let lines = watcher.log().await.len();
    let (with_others, _) = submit_and_watch(&fixture).await;
    let grown = fixture.memory().saturating_sub(before) / 1_024;
    assert!(with_others < Duration::from_secs(2), "{with_others:?} among {NON_READING}, {alone:?} alone");
    assert!(grown < 32, "{grown} MiB more");
    let took = started.elapsed();
    let note = format!("a log line took {with_others:?} at most with them, {alone:?} alone; {grown} MiB more; {took:?} in all");
    TestResult {
        what: "100 clients that submit or attach and never read",
        times: lines,
        rows: 3 * ROWS as usize,
        note,
        ..TestResult::default()
    }
    .write();
    drop((non_reading, submitter));
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
        let started = Instant::now();
        client.send_text(&text).await;
        let reply = client.next().await;
        assert_eq!(reply["res"], "error", "{reply}");
        assert!(message(&reply).len() < 2_000, "{}", message(&reply).len());
        longest = longest.max(started.elapsed());
    }
    let (with_others, _) = submit_and_watch(&fixture).await;
    let grown = fixture.memory().saturating_sub(before) / 1_024;
    assert!(grown < 64, "{grown} MiB more");
    let note = format!("answered in {longest:?} at most; {grown} MiB more; then a log line took {with_others:?} at most");
    TestResult { what: "frames of 1 MiB that are no request", times: FRAMES, rows: ROWS as usize, note, ..TestResult::default() }
        .write();
    fixture.end().await;
}
