//! A node that has the readings is killed or frozen while they are replayed, and comes back: every
//! row arrives once and in order, and the log says what is waited for.

use std::{fmt::Write, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    elastic::{reading, time},
    support::{
        Client, ElasticIndex, TestApp, TestSource,
        elastic::{Document, ask, row_key},
        elastic_node::ElasticNode,
        message, real,
    },
};

const DEVICES: usize = 4;
const ROWS: i64 = 25_000;

/// The versions that a private node is started of: where the suite has these servers.
fn versions() -> Vec<&'static str> {
    let versions = [("OPENSEARCH", "opensearch-2.19"), ("ELASTICSEARCH", "elasticsearch-6.8")];
    versions.into_iter().filter(|(part, _)| real(part).is_some()).map(|(_, version)| version).collect()
}

/// Devices with rows, some of them at equal times.
async fn with_rows(server: &str) -> (TestSource, Uuid, Vec<Uuid>) {
    let index = ElasticIndex::new(server).await;
    let tables = TestSource::with_index(&index).await;
    let thing = Uuid::new_v4();
    let devices: Vec<_> = (0..DEVICES).map(|_| Uuid::new_v4()).collect();
    for (number, device) in (0..).zip(&devices) {
        tables.add_device(thing, *device, "应变计").await;
        // Three rows in each millisecond.
        let row = |n: i64| reading(&key(number, n), *device, &time(1_547_211_780_000 + n / 3), n);
        let rows: Vec<Document> = (0..ROWS).map(row).collect();
        index.index(&rows).await;
    }
    (tables, thing, devices)
}

fn key(device: i64, row: i64) -> String {
    row_key(device * ROWS + row)
}

async fn start(tables: TestSource) -> TestApp {
    TestApp::start_with(tables, |overrides| {
        overrides
            .set(&["iota", "page_rows"], 500)
            .set(&["iota", "timeout_seconds"], 2)
            .set(&["worker", "retry_initial_ms"], 100)
            .set(&["worker", "progress_log_interval_ms"], 50);
    })
    .await
}

/// Each row once and in order, of every device.
async fn check_rows(app: &TestApp, devices: &[Uuid], log: &[Value], what: &str) {
    let expected = format!("{} rows published", ROWS * i64::try_from(DEVICES).unwrap());
    assert!(message(log.last().unwrap()).contains(&expected), "{what}: {}", summary(log));
    let mut keys: Vec<Vec<String>> = vec![Vec::new(); devices.len()];
    for found in app.topic.read().await {
        let device = devices.iter().position(|device| device.to_string() == found.key).unwrap();
        keys[device].push(found.row.rsplit('/').next().unwrap().to_owned());
    }
    for (number, keys) in (0..).zip(keys) {
        let expected: Vec<_> = (0..ROWS).map(|n| key(number, n)).collect();
        let first = keys.iter().zip(&expected).position(|(found, expected)| found != expected);
        assert!(keys == expected, "{what}, device {number}: {} rows, the first difference at {first:?}", keys.len());
    }
}

fn summary(log: &[Value]) -> String {
    log.iter().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{}", message(line));
        text
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_node_is_killed_and_comes_back() {
    for version in versions() {
        let master =
            ElasticNode::start(version, &["node.name=master", "node.roles=master", "cluster.initial_master_nodes=master"]).await;
        let seed = format!("discovery.seed_hosts=127.0.0.1:{}", master.transport_port);
        let mut data = ElasticNode::start(version, &["node.name=data", "node.roles=data", &seed]).await;
        let (tables, thing, devices) = with_rows(&master.server()).await;
        let app = start(tables).await;
        let mut client = app.client().await;
        client.submit(&Client::request(thing, &devices, &app.topic.name)).await;
        let mut log = client.until(|line| message(line).starts_with("iota data published(")).await;
        data.kill().await;
        log.extend(client.until(|line| message(line).contains("waits, nothing is lost")).await);
        // Long enough that the cluster notices it.
        for _ in 0..3 {
            log.extend(client.until(|line| message(line).contains("waits, nothing is lost")).await);
        }
        data.restart().await;
        log.extend(client.log().await);
        println!("{version}: {}", summary(&log));
        check_rows(&app, &devices, &log, version).await;
        app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_freezes_and_goes_on() {
    for version in versions() {
        let node = ElasticNode::start(version, &[]).await;
        let (tables, thing, devices) = with_rows(&node.server()).await;
        let app = start(tables).await;
        let mut client = app.client().await;
        client.submit(&Client::request(thing, &devices, &app.topic.name)).await;
        let mut log = client.until(|line| message(line).starts_with("iota data published(")).await;
        node.freeze();
        log.extend(client.until(|line| message(line).contains("no complete answer within 2 s")).await);
        node.thaw();
        log.extend(client.log().await);
        check_rows(&app, &devices, &log, version).await;
        // Freed, what was asked meanwhile does not stay.
        let stats = ask(&node.server(), Method::GET, "/_nodes/stats/indices/search", None).await;
        let open = |stats: &Value| -> u64 {
            let nodes = stats["nodes"].as_object().unwrap();
            nodes.values().map(|node| node["indices"]["search"]["open_contexts"].as_u64().unwrap()).sum()
        };
        assert_eq!(open(&stats), 0, "{version}: {}", json!(stats));
        tokio::time::timeout(Duration::from_secs(30), app.stop()).await.expect("the service does not stop");
    }
}
