//! Pause, resume, rate and retry, while a task runs.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Client, TOKEN, TestApp, TestSource, eventually, is_end, message};

async fn steer(client: &mut Client, task: &str, field: &str, value: Value) -> Value {
    let mut request = json!({"token": TOKEN, "taskId": task});
    request[field] = value;
    client.send(&request).await;
    client.until(|reply| reply["type"] == "data-patch").await.pop().unwrap()
}

async fn slow() -> TestApp {
    TestApp::start_with(TestSource::empty().await, |overrides| {
        overrides
            .set(&["iota", "page_rows"], 200)
            .set(&["kafka", "in_flight_bytes"], 65_536)
            .set(&["worker", "progress_log_interval_ms"], 50);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_task_stands_still_and_goes_on_where_it_was() {
    const ROWS: i64 = 20_000;
    let app = slow().await;
    let (thing, device) = app.source.add_rows(ROWS).await;
    let (mut watcher, mut steering) = (app.client().await, app.client().await);
    let task = watcher.submit(&Client::request(thing, &[device], &app.topic.name)).await;
    watcher.until(|line| message(line).starts_with("iota data published(")).await;
    let reply = steer(&mut steering, &task, "pause", json!(true)).await;
    assert_eq!(message(&reply), "task paused.", "{reply}");
    let path = format!("/tasks/{task}");
    eventually("a job still runs", || async {
        app.call("GET", &path, &Value::Null).await.json()["devices"]["running"] == json!(0)
    })
    .await;
    let paused = app.call("GET", &path, &Value::Null).await.json();
    let before = app.topic.read_device(device).await.len();
    assert_eq!((&paused["paused"], &paused["rows"]["published"]), (&json!(true), &json!(before)), "{paused}");
    assert!(before < usize::try_from(ROWS).unwrap(), "it was not paused in time");
    let reply = steer(&mut steering, &task, "resume", json!(true)).await;
    assert_eq!(message(&reply), "task resumed.", "{reply}");
    let log = watcher.until(is_end).await;
    assert!(log.iter().any(|line| line["payload"]["event"]["kind"] == "resumed"), "{log:#?}");
    let published = app.topic.read_device(device).await;
    let rows: HashSet<_> = published.iter().map(|found| found.row.clone()).collect();
    assert_eq!((published.len(), rows.len()), (20_000, 20_000), "a row was lost or repeated");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_survives_a_restart() {
    let app = slow().await;
    let (thing, device) = app.source.add_rows(20_000).await;
    let mut client = app.client().await;
    let task = client.submit(&Client::request(thing, &[device], &app.topic.name)).await;
    let paused = app.call("POST", &format!("/tasks/{task}/pause"), &Value::Null).await;
    assert_eq!((paused.status, &paused.json()["paused"]), (200, &json!(true)), "{paused:?}");
    let (folder, source, topic) = (app.folder.clone(), app.source.clone(), app.topic.clone());
    app.stop().await;
    let app = TestApp::start_on(folder, source, topic, |_| {}).await;
    let view = app.call("GET", &format!("/tasks/{task}"), &Value::Null).await.json();
    assert_eq!((&view["paused"], &view["devices"]["running"]), (&json!(true), &json!(0)), "{view}");
    let resumed = app.call("POST", &format!("/tasks/{task}/resume"), &Value::Null).await;
    assert_eq!(resumed.json()["paused"], json!(false));
    let mut client = app.client().await;
    client.attach(&task, 0).await;
    client.until(is_end).await;
    assert_eq!(app.topic.read_device(device).await.len(), 20_000);
    app.stop().await;
}

/// The rate is shared by the jobs of the task. Measured in rows and not in time: when a task of so
/// many rows has run for a while, only so many can be there.
#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limits_all_devices_together_and_can_be_lifted() {
    const RATE: u64 = 500;
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, first) = app.source.add_rows(2_000).await;
    let devices = [first, app.source.add_device_with_rows(thing, 2_000, 2_000).await];
    let mut client = app.client().await;
    let mut request = Client::request(thing, &devices, &app.topic.name);
    request["rate"] = json!(RATE);
    let start = Instant::now();
    let task = client.submit(&request).await;
    let path = format!("/tasks/{task}");
    eventually("nothing is published", || async {
        app.call("GET", &path, &Value::Null).await.json()["rows"]["published"].as_u64().unwrap() >= RATE
    })
    .await;
    let published = app.call("GET", &path, &Value::Null).await.json()["rows"]["published"].as_u64().unwrap();
    let allowed = u128::from(RATE) * start.elapsed().as_millis() / 1_000 + u128::from(RATE) / 4;
    assert!(u128::from(published) <= allowed, "{published} rows after {:?}", start.elapsed());
    let lifted = app.call("PATCH", &path, &json!({ "rate": null })).await;
    assert_eq!((lifted.status, &lifted.json()["rate"]), (200, &Value::Null), "{lifted:?}");
    let log = client.until(is_end).await;
    assert_eq!(log.last().unwrap()["payload"]["state"], "succeeded");
    assert!(start.elapsed() < Duration::from_secs(8), "4,000 rows at {RATE} a second would take 8 s");
    app.stop().await;
}

#[tokio::test]
async fn a_retry_is_a_new_task_for_the_failed_devices_and_links_to_the_old_one() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, good) = app.source.add_rows(3).await;
    let missing = Uuid::new_v4();
    let mut client = app.client().await;
    let task = client.submit(&Client::request(thing, &[good, missing], &app.topic.name)).await;
    client.until(is_end).await;
    app.source.add_device(thing, missing, "it is there now").await;
    let retried = app.call("POST", &format!("/tasks/{task}/retry"), &Value::Null).await;
    let view = retried.json();
    assert_eq!((retried.status, &view["retryOf"], &view["devices"]["total"]), (201, &json!(task), &json!(1)), "{view}");
    let again = app.call("POST", &format!("/tasks/{task}/retry"), &Value::Null).await;
    assert_eq!((again.status, &again.json()["taskId"]), (200, &view["taskId"]), "a retry is repeated harmlessly");
    client.attach(view["taskId"].as_str().unwrap(), 0).await;
    let log = client.until(is_end).await;
    assert_eq!(log.last().unwrap()["payload"]["state"], "succeeded", "{log:#?}");
    let nothing = app.call("POST", &format!("/tasks/{}/retry", view["taskId"].as_str().unwrap()), &Value::Null).await;
    assert_eq!((nothing.status, nothing.json()["code"].as_str()), (409, Some("nothing_to_retry")), "{nothing:?}");
    let twice = app.call("POST", &format!("/tasks/{task}/retry"), &json!({"devices": [missing, good, missing]})).await;
    assert_eq!((twice.status, &twice.json()["devices"]["total"]), (201, &json!(2)), "each device once: {twice:?}");
    let turned = app.call("POST", &format!("/tasks/{task}/retry"), &json!({"devices": [good, missing]})).await;
    assert_eq!((turned.status, &turned.json()["taskId"]), (200, &twice.json()["taskId"]), "the same devices: {turned:?}");
    let all = json!({"devices": "all"});
    assert_eq!(app.call("POST", &format!("/tasks/{task}/retry"), &all).await.json()["devices"]["total"], json!(2));
    app.stop().await;
}

/// The limits may have changed since the task was submitted.
#[tokio::test]
async fn a_retry_keeps_to_what_is_allowed_now() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(3).await;
    let mut client = app.client().await;
    let mut request = Client::request(thing, &[device], &app.topic.name);
    request["rate"] = json!(5_000);
    let task = client.submit(&request).await;
    client.until(is_end).await;
    let (folder, source, topic) = (app.folder.clone(), app.source.clone(), app.topic.clone());
    let (retry, all) = (format!("/tasks/{task}/retry"), json!({"devices": "all"}));
    app.stop().await;

    let app = TestApp::start_on(folder.clone(), source.clone(), topic.clone(), |overrides| {
        overrides.set(&["kafka", "topics"], vec!["anxinyun_data"]);
    })
    .await;
    let refused = app.call("POST", &retry, &all).await;
    let problem = refused.json();
    assert_eq!((refused.status, &problem["field"]), (400, &json!("topic")), "{refused:?}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains(&topic.name) && detail.contains("allowed are anxinyun_data"), "{detail}");
    app.stop().await;

    let app = TestApp::start_on(folder, source, topic, |overrides| {
        overrides.set(&["limits", "max_rate"], 1_000);
    })
    .await;
    let lowered = app.call("POST", &retry, &all).await;
    assert_eq!((lowered.status, &lowered.json()["rate"]), (201, &json!(1_000)), "{lowered:?}");
    let mut client = app.client().await;
    client.attach(lowered.json()["taskId"].as_str().unwrap(), 0).await;
    let log = client.until(is_end).await;
    assert!(message(&log[0]).contains("lowered from 5000"), "{log:#?}");
    assert_eq!(log[0]["payload"]["event"]["loweredFrom"], json!(5_000), "{log:#?}");
    app.stop().await;
}

#[tokio::test]
async fn a_task_with_the_same_rows_says_so_in_its_first_line() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(1).await;
    let mut client = app.client().await;
    let request = Client::request(thing, &[device], &app.topic.name);
    let first = client.submit(&request).await;
    let log = client.until(is_end).await;
    assert_eq!(log[0]["payload"]["event"]["kind"], "counted", "a client of the contract sees nothing new: {log:#?}");
    client.submit(&request).await;
    let log = client.until(is_end).await;
    assert_eq!(log[0]["payload"]["event"], json!({"kind": "overlaps", "tasks": [first], "more": 0}), "{log:#?}");
    app.stop().await;
}
