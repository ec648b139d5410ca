//! Two thousand watchers of one busy task: the delay until a log line reaches the last of them, and
//! the memory of a watcher. Run by `bench/pipeline/run e`, on the rows of its case `a`.
//!
//! With `DATA_PATCH_TEST_QUEUE=postgres://…` they watch on an instance that does not work on it, and
//! another one does. `BENCH_WATCHERS` sets their number.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a bench ends by panicking")]

#[path = "../tests/it/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the tests, which use the rest")]
mod support;

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use support::{Client, Process, TOKEN, TestBroker, TestSource, TestTopic, call, message, real};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

/// The lines of a watcher, and when they arrived.
type Had = Vec<(DateTime<Utc>, String)>;

#[tokio::main]
async fn main() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let Some(server) = real("POSTGRES") else {
        println!("the watchers' bench needs scripts/services (bench/pipeline/run starts them)");
        return;
    };
    let database = std::env::var("BENCH_DATABASE").unwrap_or_else(|_| "acceptance_1000000".to_owned());
    let source =
        TestSource::Postgres { url: format!("{}/{database}", server.rsplit_once('/').unwrap().0), schema: "public".to_owned() };
    let (folder, topic) = (tempfile::tempdir().unwrap(), TestBroker::start().await.topic().await);
    let (process, working) = services(&folder, &source, &topic).await;
    let watchers: usize = std::env::var("BENCH_WATCHERS").map_or(2_000, |number| number.parse().unwrap());
    let thing = Uuid::parse_str("5ca1ab1e-0000-4000-8000-000000000001").unwrap();
    let devices: Vec<Uuid> = (1..=10).map(|n| Uuid::parse_str(&format!("00000000-0000-4000-8000-{n:012}")).unwrap()).collect();
    let mut request = Client::request(thing, &devices, &topic.name);
    // All rows of scripts/acceptance.d/source.py.
    (request["from"], request["to"]) = (json!("2024-01-01T00:00:00+08:00"), json!("2034-01-01T00:00:00+08:00"));

    // First without watchers, to measure the memory of the task itself.
    let mut submitter = Client::connect(&process.url).await;
    submitter.submit(&request).await;
    let log = submitter.log().await;
    let end = message(&log[log.len() - 1]).to_owned();
    assert!(end.contains("10 of 10 devices") && !end.contains(" 0 rows published"), "{end}");
    let before = process.memory("VmHWM");

    // The number of connections without the token is limited.
    let authenticated = async || {
        let mut client = Client::connect(&process.url).await;
        client.attach(&Uuid::new_v4().to_string(), 0).await;
        client
    };
    let clients: Vec<Client> = stream::iter(0..watchers).map(|_| authenticated()).buffer_unordered(50).collect().await;
    let task = submitter.submit(&request).await;
    let attached: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let attach = json!({"token": TOKEN, "taskId": task, "after": 0});
            tokio::spawn(async move {
                client.send(&attach).await;
                client.next().await;
                (Utc::now(), watch(client).await)
            })
        })
        .collect();
    let (mut all_there, mut all_had) = (DateTime::<Utc>::MIN_UTC, Had::new());
    for watcher in attached {
        let (there, had) = watcher.await.unwrap();
        all_there = all_there.max(there);
        all_had.extend(had);
    }
    // When each line was written, and when it reached the last watcher.
    let mut last = BTreeMap::<u64, (DateTime<Utc>, DateTime<Utc>)>::new();
    for (had, line) in all_had {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let written = DateTime::parse_from_rfc3339(line["payload"]["time"].as_str().unwrap()).unwrap().to_utc();
        let latest = last.entry(line["payload"]["seq"].as_u64().unwrap()).or_insert((written, had));
        latest.1 = latest.1.max(had);
    }
    // Lines from before all watchers were attached were read from the table.
    let mut delays: Vec<Duration> = last
        .into_values()
        .filter(|(written, _)| *written > all_there)
        .map(|(written, had)| (had - written).to_std().unwrap_or_default())
        .collect();
    delays.sort_unstable();
    let at =
        |share: usize| delays.get((delays.len() * share / 100).min(delays.len().saturating_sub(1))).copied().unwrap_or_default();
    let bytes = process.memory("VmHWM").saturating_sub(before) * 1_024 / watchers as u64;
    println!(
        "{watchers} watchers of one task of a million rows, {} lines: written to had by the last watcher p50 {:?}, p99 {:?}, most {:?} (goal p99 < 250 ms: {}); {bytes} bytes a watcher (goal < 20,000: {})",
        delays.len(),
        at(50),
        at(99),
        at(100),
        if at(99) < Duration::from_millis(250) { "reached" } else { "NOT reached" },
        if bytes < 20_000 { "reached" } else { "NOT reached" },
    );
    process.terminate().await;
    if let Some(working) = working {
        working.terminate().await;
    }
}

/// The instance that is watched, and the one that works if that is another.
async fn services(folder: &TempDir, source: &TestSource, topic: &TestTopic) -> (Process, Option<Process>) {
    // The defaults, which the test fixtures change.
    let defaults = [("DATA_PATCH_WORKER_PROGRESS_LOG_INTERVAL_MS", "1000"), ("DATA_PATCH_WORKER_LEASE_SECONDS", "30")];
    let (mut process, mut working) = (Process::serve(folder, source, topic, &defaults).await, None);
    if real("QUEUE").is_some() {
        let watched = Process::serve(folder, source, topic, &defaults).await;
        let address = watched.address.to_string();
        let service = call(&address, "GET", "/service", &[], "").await.json();
        let drain = format!("/instances/{}/drain", service["instance"].as_str().unwrap());
        assert_eq!(call(&address, "POST", &drain, &[], "").await.status, 200);
        println!("they watch on an instance that does not work on it, with the queue in PostgreSQL:");
        working = Some(std::mem::replace(&mut process, watched));
    }
    (process, working)
}

/// Reads the log and does nothing else, since the clients share the cores with the service.
async fn watch(mut client: Client) -> Had {
    let mut had = Had::new();
    while let Some(Ok(message)) = client.socket.next().await {
        let Message::Text(text) = message else { continue };
        // As `support::is_end`.
        let is_last = text.contains("\"state\":");
        had.push((Utc::now(), text.to_string()));
        if is_last {
            break;
        }
    }
    had
}
