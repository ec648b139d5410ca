//! Attaching by task id: each line once, in order, without a gap.

use std::sync::Arc;

use serde_json::Value;

use crate::support::{Client, TestApp, TestBroker, TestSource, is_end, message, seqs};

#[tokio::test]
async fn the_log_of_a_finished_task_is_sent_from_any_line() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, devices) = app.source.add_devices_of_one_row(5).await;
    let mut client = app.client().await;
    let task = client.submit(&Client::request(thing, &devices, &app.topic.name)).await;
    let log = client.log().await;
    for after in [0, 4, log.len() as u64 - 1] {
        let reply = client.attach(&task, after).await;
        assert_eq!((message(&reply), reply["payload"]["state"].as_str()), ("task attached.", Some("succeeded")));
        assert_eq!(client.log().await, log[after as usize..]);
    }
    let reply = client.attach(&task, log.len() as u64).await;
    assert_eq!(message(&reply), "task attached.", "attaching after the last line is allowed");
    app.stop().await;
}

#[tokio::test]
async fn after_a_restart() {
    let (folder, source, topic) =
        (Arc::new(tempfile::tempdir().unwrap()), TestSource::empty().await, TestBroker::start().await.topic().await);
    let app = TestApp::start_on(Arc::clone(&folder), source.clone(), topic.clone(), |_| {}).await;
    let (thing, devices) = app.source.add_devices_of_one_row(3).await;
    let mut client = app.client().await;
    let task = client.submit(&Client::request(thing, &devices, &app.topic.name)).await;
    let log = client.log().await;
    app.stop().await;
    let app = TestApp::start_on(folder, source, topic, |_| {}).await;
    let mut client = app.client().await;
    client.attach(&task, 0).await;
    assert_eq!(client.log().await, log);
    app.stop().await;
}

#[tokio::test]
async fn a_watcher_that_reconnects_repeatedly_has_each_line_once() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, devices) = app.source.add_devices_of_one_row(150).await;
    let mut client = app.client().await;
    let task = client.submit(&Client::request(thing, &devices, &app.topic.name)).await;
    let mut lines: Vec<Value> = Vec::new();
    for round in 1..=10 {
        // The lines received before the connection was aborted count.
        while lines.len() < round * 20 {
            lines.push(client.next().await);
        }
        drop(client);
        client = app.client().await;
        let reply = client.attach(&task, lines.len() as u64).await;
        assert_eq!(message(&reply), "task attached.", "{reply}");
    }
    while !lines.last().is_some_and(is_end) {
        lines.push(client.next().await);
    }
    assert_eq!(seqs(&lines), (1..=301).collect::<Vec<_>>());
    app.stop().await;
}

#[tokio::test]
async fn attaching_again_on_the_same_connection_restarts_the_log() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, devices) = app.source.add_devices_of_one_row(60).await;
    let mut client = app.client().await;
    let task = client.submit(&Client::request(thing, &devices, &app.topic.name)).await;
    client.next().await;
    client.send(&serde_json::json!({"token": crate::support::TOKEN, "taskId": task, "after": 0})).await;
    client.until(|line| message(line) == "task attached.").await;
    assert_eq!(seqs(&client.log().await), (1..=121).collect::<Vec<_>>());
    app.stop().await;
}

#[tokio::test]
async fn two_services_on_one_queue_send_each_others_lines() {
    let (folder, source, topic) =
        (Arc::new(tempfile::tempdir().unwrap()), TestSource::empty().await, TestBroker::start().await.topic().await);
    let one = TestApp::start_on(Arc::clone(&folder), source.clone(), topic.clone(), |_| {}).await;
    let other = TestApp::start_on(folder, source, topic, |_| {}).await;
    let (thing, devices) = one.source.add_devices_of_one_row(40).await;
    let (mut near, mut far) = (one.client().await, other.client().await);
    let task = near.submit(&Client::request(thing, &devices, &one.topic.name)).await;
    far.attach(&task, 0).await;
    assert_eq!(near.log().await, far.log().await);
    assert_eq!(one.topic.read().await.len(), 40);
    one.stop().await;
    other.stop().await;
}
