//! A store of readings in trouble: overloaded, answering in part, cut off, or hidden behind a proxy
//! that answers instead. A proxy in front of a real Elasticsearch or `OpenSearch` makes the faults.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use data_patch::{config::Overrides, source::SourceError};
use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    elastic::{keys, open_with, page_rows, read, reading, servers, source_on, time, try_read},
    source::until_2020,
    support::{
        ElasticIndex, TestApp, TestSource,
        elastic::{ask, mapping, row_key},
        elastic_proxy::{Asked, ElasticProxy, Reply},
        eventually, message,
    },
};

const START_MS: i64 = 1_547_211_780_000;

/// A device with this many rows, which are so many milliseconds apart.
async fn rows_on(server: &str, rows: i64, apart_ms: i64) -> (TestSource, ElasticIndex, Uuid, Uuid) {
    let (tables, index) = source_on(server, &mapping()).await;
    let (thing, device) = (Uuid::new_v4(), Uuid::new_v4());
    tables.add_device(thing, device, "应变计").await;
    let document = |n: i64| reading(&row_key(n), device, &time(START_MS + n * apart_ms), n);
    index.index(&(0..rows).map(document).collect::<Vec<_>>()).await;
    (tables, index, thing, device)
}

fn all_keys(rows: i64) -> Vec<String> {
    (0..rows).map(row_key).collect()
}

/// Which of the requests that fit get a reply of their own: `skip` are forwarded before, then so
/// many get it.
fn some(
    skip: usize,
    count: usize,
    fits: impl Fn(&Asked) -> bool + Send + Sync + 'static,
    reply: impl Fn() -> Reply + Send + Sync + 'static,
) -> impl Fn(&Asked) -> Reply + Send + Sync + 'static {
    let seen = AtomicUsize::new(0);
    move |asked| {
        let is_hit = fits(asked) && (skip..skip.saturating_add(count)).contains(&seen.fetch_add(1, Ordering::Relaxed));
        if is_hit { reply() } else { Reply::Forward }
    }
}

fn replace(from: &'static str, to: &'static str) -> Reply {
    Reply::Change(Box::new(move |text| {
        assert!(text.contains(from), "{from} is in {text}");
        text.replacen(from, to, 1)
    }))
}

/// Edits an answer.
fn edit(change: impl Fn(&mut Value) + Send + 'static) -> Reply {
    Reply::Change(Box::new(move |text| {
        let mut answer = serde_json::from_str(&text).unwrap();
        change(&mut answer);
        answer.to_string()
    }))
}

fn failed_shard(answer: &mut Value) {
    let shards = &mut answer["_shards"];
    shards["successful"] = (shards["total"].as_u64().unwrap() - 1).into();
    shards["failed"] = 1.into();
    let reason = json!({"type": "node_disconnected_exception", "reason": "[data][127.0.0.1:9300] disconnected"});
    shards["failures"] = json!([{"shard": 1, "index": "raw_data-7", "node": "n1", "reason": reason}]);
}

fn missing_shard(answer: &mut Value) {
    let shards = &mut answer["_shards"];
    shards["successful"] = (shards["total"].as_u64().unwrap() - 1).into();
}

fn missing_hit(answer: &mut Value) {
    answer["hits"]["hits"].as_array_mut().unwrap().pop();
}

const HTML: &str = "<html><body>Please log in</body></html>";

fn overloaded(status: u16, kind: &str) -> Reply {
    let cause = json!({"type": kind, "reason": "no room"});
    let error = json!({"root_cause": [], "type": "search_phase_execution_exception", "reason": "all shards failed", "failed_shards": [{"shard": 0, "index": "i", "reason": cause}]});
    Reply::Answer(status, json!({"error": error, "status": status}).to_string())
}

const HANGS: &str = "no complete answer within 3 s";

/// Seconds that an answer may take: long, unless the fault is that there is none.
fn timeout_seconds(fault: &str) -> u32 {
    if fault == HANGS { 3 } else { 30 }
}

type MakeReply = fn() -> Reply;
type IsAsked = fn(&Asked) -> bool;

/// Faults of one answer, with the text that tells of them.
fn faults() -> Vec<(&'static str, MakeReply)> {
    vec![
        ("", || Reply::Cut),
        (HANGS, || Reply::Hang),
        ("ended a search before it was complete", || replace("\"timed_out\":false", "\"timed_out\":true")),
        ("shard 1 of raw_data-7: node_disconnected_exception", || edit(failed_shard)),
        ("shards have not answered", || edit(missing_shard)),
        ("documents that it found", || edit(missing_hit)),
        ("Please log in", || Reply::Answer(200, HTML.to_owned())),
        ("Please log in", || Reply::Answer(404, HTML.to_owned())),
        ("302", || Reply::Answer(302, String::new())),
        ("502", || Reply::Answer(502, HTML.to_owned())),
        ("no_shard_available", || overloaded(503, "no_shard_available_action_exception")),
        ("node_disconnected", || overloaded(500, "node_disconnected_exception")),
        ("no room", || overloaded(429, "es_rejected_execution_exception")),
        ("no room", || overloaded(503, "circuit_breaking_exception")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_one_answer_loses_and_repeats_no_row() {
    for server in servers() {
        let (tables, index, thing, device) = rows_on(&server, 1_000, 100).await;
        let run = |(fault, reply): (&'static str, fn() -> Reply)| {
            let (tables, index, server) = (tables.clone(), index.clone(), server.clone());
            async move {
                // Some pages are read before.
                let proxy = ElasticProxy::start(&server, some(3, 1, Asked::is_search, reply)).await;
                let app = TestApp::start_with(tables, |overrides| {
                    overrides
                        .set(&["iota", "readings", "url"], format!("{}/{}", proxy.url, index.name))
                        .set(&["iota", "page_rows"], 100)
                        .set(&["iota", "timeout_seconds"], timeout_seconds(fault))
                        .set(&["worker", "retry_initial_ms"], 1);
                })
                .await;
                let (_, log) = app.publish(thing, &[device]).await;
                let last = message(log.last().unwrap());
                assert!(last.contains("1000 rows published"), "{server}, {fault}: {log:#?}");
                let rows: Vec<_> = app.topic.read().await.into_iter().map(|found| found.row).collect();
                let published: Vec<_> = rows.iter().map(|row| row.rsplit('/').next().unwrap()).collect();
                assert_eq!(published, all_keys(1_000), "{server}, {fault}");
                app.stop().await;
            }
        };
        join_all(faults().into_iter().map(run)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_that_stays_is_an_error_that_tells_of_it_and_never_the_end() {
    for server in servers() {
        let (tables, index, _, device) = rows_on(&server, 1_000, 100).await;
        let run = |(fault, reply): (&'static str, fn() -> Reply)| {
            let (tables, index, server) = (tables.clone(), index.clone(), server.clone());
            async move {
                let proxy = ElasticProxy::start(&server, some(3, usize::MAX, Asked::is_search, reply)).await;
                let source = open_with(
                    &tables,
                    |overrides| {
                        overrides.set(&["iota", "page_rows"], 100).set(&["iota", "timeout_seconds"], timeout_seconds(fault));
                    },
                    &format!("{}/{}", proxy.url, index.name),
                );
                let (mut rows, mut keys) = (source.rows(until_2020(device)), Vec::new());
                let error = loop {
                    match rows.next().await {
                        Ok(Some(batch)) => keys.extend(batch.iter().map(|row| row.position.key.to_string())),
                        Ok(None) => panic!("{server}, {fault}: read to the end, {} rows", keys.len()),
                        Err(error) => break error,
                    }
                };
                assert!(error.is_retryable() && error.to_string().contains(fault), "{server}, {fault}: {error:?}");
                // What was read before is valid.
                assert_eq!(keys, all_keys(i64::try_from(keys.len()).unwrap()), "{server}, {fault}");
            }
        };
        join_all(faults().into_iter().map(run)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_store_gets_smaller_pages_after_pauses() {
    for server in servers() {
        let (tables, index, _, device) = rows_on(&server, 1_000, 100).await;
        for (status, kind) in [
            (429, "es_rejected_execution_exception"),
            (429, "circuit_breaking_exception"),
            // Elasticsearch 5 and 6.
            (503, "circuit_breaking_exception"),
        ] {
            let proxy = ElasticProxy::start(&server, some(0, 3, Asked::is_search, move || overloaded(status, kind))).await;
            let source = open_with(&tables, page_rows(800), &format!("{}/{}", proxy.url, index.name));
            let started = Instant::now();
            assert_eq!(keys(&read(&source, until_2020(device)).await), all_keys(1_000), "{server}: {status} {kind}");
            assert!(started.elapsed() > Duration::from_millis(500), "{server}: no pauses, {:?}", started.elapsed());
            let size = |asked: &Asked| serde_json::from_str::<Value>(&asked.body).unwrap()["size"].as_u64().unwrap();
            let sizes: Vec<_> = proxy.asked().iter().filter(|asked| asked.is_search()).map(size).take(4).collect();
            assert_eq!(sizes, [800, 400, 200, 100], "{server}: {status} {kind}");
        }
    }
}

/// Contexts that the store keeps for scrolls of an index.
async fn open_contexts(index: &ElasticIndex) -> u64 {
    let stats = ask(&index.server, Method::GET, &format!("/{}/_stats/search", index.name), None).await;
    stats["_all"]["total"]["search"]["open_contexts"].as_u64().unwrap()
}

/// Waits until no scroll is kept; by itself the store would keep it for a minute.
async fn no_scroll_is_kept(index: &ElasticIndex, what: &str) {
    let cleared = eventually("scrolls are cleared", || async { open_contexts(index).await == 0 });
    assert!(tokio::time::timeout(Duration::from_secs(15), cleared).await.is_ok(), "{what}: {}", open_contexts(index).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_page_of_equal_times_is_read_again_with_all_of_the_millisecond() {
    for server in servers() {
        let (tables, index, thing, device) = rows_on(&server, 3_000, 0).await;
        let run = |(skip, reply): (usize, fn() -> Reply)| {
            let (tables, index, server) = (tables.clone(), index.clone(), server.clone());
            async move {
                let proxy = ElasticProxy::start(&server, some(skip, 1, Asked::continues_scroll, reply)).await;
                let app = TestApp::start_with(tables, |overrides| {
                    overrides
                        .set(&["iota", "readings", "url"], format!("{}/{}", proxy.url, index.name))
                        .set(&["iota", "page_rows"], 500)
                        .set(&["iota", "timeout_seconds"], 3)
                        .set(&["worker", "retry_initial_ms"], 1);
                })
                .await;
                let (_, log) = app.publish(thing, &[device]).await;
                assert!(message(log.last().unwrap()).contains("3000 rows published"), "{server}, {skip}: {log:#?}");
                let rows: Vec<_> = app.topic.read().await.into_iter().map(|found| found.row).collect();
                let published: Vec<_> = rows.iter().map(|row| row.rsplit('/').next().unwrap()).collect();
                assert_eq!(published, all_keys(3_000), "{server}, {skip}");
                assert!(proxy.asked().iter().filter(|asked| asked.begins_scroll()).count() > 1, "{server}, {skip}: read again");
                app.stop().await;
            }
        };
        let lost: fn() -> Reply = || {
            let error = json!({"type": "search_context_missing_exception", "reason": "No search context found for id [7]"});
            Reply::Answer(404, json!({"error": {"root_cause": [error], "type": "x"}, "status": 404}).to_string())
        };
        let cases: [(usize, fn() -> Reply); 7] = [
            (1, || Reply::Cut),
            (4, || Reply::Cut),
            (2, || Reply::Hang),
            (3, lost),
            (2, || edit(failed_shard)),
            (2, || edit(missing_hit)),
            (2, || overloaded(429, "es_rejected_execution_exception")),
        ];
        join_all(cases.map(run)).await;
        no_scroll_is_kept(&index, &server).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scrolls_of_equal_times_are_cleared() {
    for server in servers() {
        let (tables, index, _, device) = rows_on(&server, 3_000, 0).await;
        let cases: [(&str, IsAsked, MakeReply); 5] = [
            ("without a fault", |_| false, || Reply::Forward),
            ("the first page lacks a shard", Asked::begins_scroll, || edit(failed_shard)),
            ("the first page ended early", Asked::begins_scroll, || replace("\"timed_out\":false", "\"timed_out\":true")),
            ("a page lacks a shard", Asked::continues_scroll, || edit(failed_shard)),
            ("a page is cut", Asked::continues_scroll, || Reply::Cut),
        ];
        for (what, fits, reply) in cases {
            let proxy = ElasticProxy::start(&server, some(0, usize::MAX, fits, reply)).await;
            let source = open_with(&tables, page_rows(500), &format!("{}/{}", proxy.url, index.name));
            match try_read(&source, until_2020(device)).await {
                Ok(rows) => assert_eq!((what, rows.len()), ("without a fault", 3_000), "{server}"),
                Err(error) => assert!(matches!(error, SourceError::Unavailable(_)), "{server}, {what}: {error:?}"),
            }
            no_scroll_is_kept(&index, &format!("{server}, {what}")).await;
            assert!(proxy.asked().iter().any(Asked::begins_scroll), "{server}, {what}: a scroll was read");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scroll_whose_reader_leaves_is_cleared() {
    for server in servers() {
        let (tables, index, _, device) = rows_on(&server, 3_000, 0).await;
        let reached = Arc::new(tokio::sync::Notify::new());
        let notify = Arc::clone(&reached);
        let rule = some(2, 1, Asked::continues_scroll, move || {
            notify.notify_one();
            Reply::Hang
        });
        let proxy = ElasticProxy::start(&server, rule).await;
        let patient = |overrides: &mut Overrides| {
            overrides.set(&["iota", "page_rows"], 500).set(&["iota", "timeout_seconds"], 2);
        };
        let source = open_with(&tables, patient, &format!("{}/{}", proxy.url, index.name));
        let rows = source.rows(until_2020(device));
        reached.notified().await;
        assert!(open_contexts(&index).await > 0, "{server}: a scroll is kept");
        drop(rows);
        drop(source);
        no_scroll_is_kept(&index, &server).await;
    }
}
