//! Cancelling a task: it ends, its log says so, and no more rows are published.

use std::sync::Arc;

use data_patch::{
    sink::kafka::EmbeddedBroker,
    task::{TaskId, TaskState},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Client, TOKEN, TestApp, TestBroker, TestSource, is_end, message, seqs};

async fn cancel(client: &mut Client, task: &str) -> Vec<Value> {
    client.send(&json!({"token": TOKEN, "taskId": task, "cancel": true})).await;
    client.until(|reply| reply["type"] == "data-patch").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_task_ends_and_its_watchers_receive_the_end() {
    let app = TestApp::start_with(TestSource::empty().await, |overrides| {
        // Slow enough to be cancelled while it runs.
        overrides
            .set(&["iota", "page_rows"], 100)
            .set(&["kafka", "in_flight_bytes"], 65_536)
            .set(&["worker", "progress_log_interval_ms"], 50);
    })
    .await;
    let (thing, device) = app.source.add_rows(50_000).await;
    let (mut watcher, mut canceller) = (app.client().await, app.client().await);
    let task = watcher.submit(&Client::request(thing, &[device], &app.topic.name)).await;
    let mut log = watcher.until(|line| message(line).starts_with("iota data published(")).await;
    let reply = cancel(&mut canceller, &task).await.remove(0);
    // The running job reports later; nothing follows the last line.
    assert_eq!((message(&reply), &reply["payload"]["state"]), ("task cancelled.", &json!("running")), "{reply}");
    log.extend(watcher.log().await);
    assert_eq!(seqs(&log), (1..=log.len() as u64).collect::<Vec<_>>());
    let last = log.last().unwrap();
    assert_eq!(last["payload"]["state"], "cancelled", "{last}");
    assert!(message(last).contains("1 device cancelled"), "{last}");
    // The worker has stopped, and its slot is free.
    let other = Uuid::new_v4();
    app.source.add_device(thing, other, "b").await;
    watcher.submit(&Client::request(thing, &[other], &app.topic.name)).await;
    assert_eq!(watcher.log().await.last().unwrap()["payload"]["state"], "succeeded");
    assert!(app.topic.read_device(device).await.len() < 50_000, "all rows were published");
    app.stop().await;
}

/// The rows that a task's last line counts as published.
fn published(last: &Value) -> usize {
    let (_, rest) = message(last).split_once("device").and_then(|(_, rest)| rest.split_once(", ")).expect("no totals");
    rest.split_once(' ').unwrap().0.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_last_line_nothing_arrives_and_its_counts_are_exact() {
    let app = TestApp::start_with(TestSource::empty().await, |overrides| {
        overrides
            .set(&["iota", "page_rows"], 200)
            .set(&["kafka", "in_flight_bytes"], 1 << 20)
            .set(&["worker", "progress_log_interval_ms"], 50);
    })
    .await;
    let (thing, first) = app.source.add_rows(3_000).await;
    let mut devices = vec![first];
    for n in 0..30 {
        devices.push(app.source.add_device_with_rows(thing, 3_000 + n * 2_000, 2_000).await);
    }
    let mut client = app.client().await;
    let task = client.submit(&Client::request(thing, &devices, &app.topic.name)).await;
    client.until(|line| message(line).starts_with("iota data published(")).await;
    // The reply arrives between log lines.
    client.send(&json!({"token": TOKEN, "taskId": task, "cancel": true})).await;
    let log = client.until(is_end).await;
    let last = log.last().unwrap();
    assert_eq!(last["payload"]["state"], "cancelled", "{last}");
    let at_once = app.topic.read().await.len();
    assert_eq!(published(last), at_once, "{last}");
    let topic = app.topic.clone();
    app.stop().await;
    assert_eq!(topic.read().await.len(), at_once, "more arrived after the last line");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_service_on_the_queue_stops_its_jobs_too() {
    let app = TestApp::start_with(TestSource::empty().await, |overrides| {
        overrides
            .set(&["iota", "page_rows"], 100)
            .set(&["kafka", "in_flight_bytes"], 65_536)
            .set(&["worker", "progress_log_interval_ms"], 50);
    })
    .await;
    let (thing, device) = app.source.add_rows(50_000).await;
    let mut client = app.client().await;
    let task = client.submit(&Client::request(thing, &[device], &app.topic.name)).await;
    client.until(|line| message(line).starts_with("iota data published(")).await;
    // As another service does: through a separate handle to the file.
    let other = app.queue().await;
    let cancelled = other.cancel(TaskId(task.parse().unwrap())).await.unwrap().unwrap();
    assert_eq!((cancelled.task.state, cancelled.already_finished), (TaskState::Running, false));
    let log = client.log().await;
    assert_eq!(log.last().unwrap()["payload"]["state"], "cancelled");
    assert!(app.topic.read_device(device).await.len() < 50_000, "all rows were published");
    other.close().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_kafka_does_not_answer_a_cancel_ends_and_what_was_not_sent_never_arrives() {
    // Only the embedded broker can lose the leaders of its partitions.
    let broker = Arc::new(EmbeddedBroker::start_beside_a_dead_one().await.unwrap());
    let topic = TestBroker::Embedded(Arc::clone(&broker)).topic().await;
    let app = TestApp::start_on(Arc::new(tempfile::tempdir().unwrap()), TestSource::empty().await, topic, |_| {}).await;
    let (thing, device) = app.source.add_rows(3_000).await;
    let leaders = async |are_there| {
        for partition in 0..3 {
            broker.set_leader(&app.topic.name, partition, are_there).await.unwrap();
        }
    };
    let mut client = app.client().await;
    // The topic becomes unavailable after it was looked up.
    let known = app.source.add_device_with_rows(thing, 10_000, 3).await;
    client.submit(&Client::request(thing, &[known], &app.topic.name)).await;
    client.log().await;
    leaders(false).await;
    let task = client.submit(&Client::request(thing, &[device], &app.topic.name)).await;
    client.until(|line| message(line).contains("has 3000 rows to publish")).await;
    client.send(&json!({"token": TOKEN, "taskId": task, "cancel": true})).await;
    let log = client.until(is_end).await;
    let last = log.last().unwrap();
    assert_eq!(last["payload"]["state"], "cancelled", "{last}");
    assert_eq!(published(last), 0, "{last}");
    assert!(!log.iter().any(|line| line["res"] == "error"), "unexpected errors: {log:#?}");
    leaders(true).await;
    // Later rows in their partition arrive, the dropped rows do not.
    let after = client.submit(&Client::request(thing, &[known], &app.topic.name)).await;
    assert_eq!(client.log().await.last().unwrap()["payload"]["state"], "succeeded");
    let found = app.topic.read().await;
    assert_eq!(found.iter().filter(|found| found.task == after).count(), 3);
    assert_eq!(found.iter().filter(|found| found.task == task).count(), 0, "none was on the wire");
    app.stop().await;
}

#[tokio::test]
async fn a_finished_task_is_not_changed() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(3).await;
    let mut client = app.client().await;
    let task = client.submit(&Client::request(thing, &[device], &app.topic.name)).await;
    let log = client.log().await;
    let reply = cancel(&mut client, &task).await.remove(0);
    assert_eq!((message(&reply), &reply["payload"]["state"]), ("task had ended.", &json!("succeeded")), "{reply}");
    client.attach(&task, 0).await;
    assert_eq!(client.until(is_end).await, log);
    let unknown = Uuid::new_v4().to_string();
    client.send(&json!({"token": TOKEN, "taskId": unknown, "cancel": true})).await;
    assert_eq!(client.next().await["payload"]["code"], "unknown_task");
    client.send(&json!({"token": TOKEN, "taskId": task, "cancel": "yes"})).await;
    assert!(message(&client.next().await).starts_with("cancel is \"yes\""));
    app.stop().await;
}
