//! Cancelling a task: it ends, says so, and no more of it is published.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Client, TOKEN, TestApp, TestStore, is_end, message, seqs};

async fn cancel(client: &mut Client, task: &str) -> Vec<Value> {
    client.send(&json!({"token": TOKEN, "taskId": task, "cancel": true})).await;
    client.until(|reply| reply["type"] == "data-patch").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_task_ends_and_its_watchers_hear_it() {
    let app = TestApp::start_with(TestStore::empty().await, |overrides| {
        // Slow enough to be cancelled on the way.
        overrides.set(&["iota", "page_rows"], 100).set(&["kafka", "in_flight_bytes"], 65_536).set(&["worker", "progress_ms"], 50);
    })
    .await;
    let (thing, device) = app.store.add_rows(50_000).await;
    let (mut watcher, mut canceller) = (app.client().await, app.client().await);
    let task = watcher.submit(&Client::request(thing, &[device], &app.topic.name)).await;
    let mut log = watcher.until(|line| message(line).starts_with("iota data published(")).await;
    let reply = cancel(&mut canceller, &task).await.remove(0);
    assert_eq!((message(&reply), &reply["payload"]["state"]), ("task cancelled.", &json!("cancelled")), "{reply}");
    log.extend(watcher.log().await);
    assert_eq!(seqs(&log), (1..=log.len() as u64).collect::<Vec<_>>());
    let last = log.last().unwrap();
    assert_eq!(last["payload"]["state"], "cancelled", "{last}");
    assert!(message(last).contains("1 device cancelled"), "{last}");
    // The worker stops: other work has its place.
    let other = Uuid::new_v4();
    app.store.add_device(thing, other, "b").await;
    watcher.submit(&Client::request(thing, &[other], &app.topic.name)).await;
    assert_eq!(watcher.log().await.last().unwrap()["payload"]["state"], "succeeded");
    assert!(app.topic.read_device(device).await.len() < 50_000, "it went on to the end");
    app.stop().await;
}

#[tokio::test]
async fn one_that_has_ended_stays_as_it_is() {
    let app = TestApp::start(TestStore::empty().await).await;
    let (thing, device) = app.store.add_rows(3).await;
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
