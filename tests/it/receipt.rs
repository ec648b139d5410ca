//! A receipt says what was published; a verification finds out whether the topic still has it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use data_patch::task::{Checksum, RowHasher};
use rdkafka::{
    ClientConfig, Offset,
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, Producer as _, ThreadedProducer},
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    commands_api::run,
    support::{Client, Found, Process, TIMEOUT, TestApp, TestBroker, TestSource, TestTopic, call, is_end, message},
};

/// The lines of a verification, without progress.
async fn verify(http: &str, task: &str) -> Vec<Value> {
    let answer = call(http, "POST", &format!("/tasks/{task}/verify"), &[], "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.head.contains("content-type: application/x-ndjson"), "{answer:?}");
    // What begins otherwise is the size of a chunk.
    let lines = answer.body.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap());
    lines.filter(|line: &Value| line["kind"] != "progress").collect()
}

/// A row at the same time that the task has not published.
fn of_another_key(row: &str) -> String {
    format!("{}/4711", row.rsplit_once('/').unwrap().0)
}

/// The sum over the first copy of each row.
fn checksum(found: &[Found]) -> String {
    let (mut sum, mut hasher, mut seen) = (Checksum::default(), RowHasher::default(), HashSet::new());
    for found in found.iter().filter(|found| seen.insert(&found.row)) {
        sum.add(hasher.hash(&found.row, found.value.as_bytes()));
    }
    sum.to_string()
}

#[tokio::test]
async fn a_receipt_says_what_is_in_the_topic() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(30).await;
    let empty = Uuid::new_v4();
    app.source.add_device(thing, empty, "empty").await;
    let (task, _) = app.publish(thing, &[device, empty]).await;
    let receipt = app.call("GET", &format!("/tasks/{task}/receipt"), &Value::Null).await.json();
    let found = app.topic.read_device(device).await;
    assert_eq!((&receipt["isFinal"], &receipt["task"]["taskId"]), (&json!(true), &json!(task)));
    let published = &receipt["devices"][0];
    let expected = json!({
        "deviceId": device, "name": "应变计", "state": "succeeded",
        "counted": 30, "published": 30, "quarantined": 0, "repeated": 0, "repeatedIsExact": true,
        "firstRow": {"time": "2019-01-11T13:03:00Z", "key": app.source.key(1)},
        "lastRow": {"time": "2019-01-11T13:03:29Z", "key": app.source.key(30)},
        "partitions": published["partitions"], "unlocated": 0, "checksum": checksum(&found),
    });
    assert_eq!(*published, expected);
    let range = &published["partitions"][0];
    assert_eq!(*range, json!({"partition": found[0].partition, "firstOffset": 0, "lastOffset": 29}));
    let nothing = &receipt["devices"][1];
    assert_eq!((&nothing["published"], &nothing["firstRow"], &nothing["partitions"]), (&json!(0), &Value::Null, &json!([])));
    assert_eq!(nothing["checksum"], "0".repeat(32));

    let csv = call(&app.http, "GET", &format!("/tasks/{task}/receipt"), &["accept: text/csv"], "").await;
    let [first, last] = [1, 30].map(|id| app.source.key(id));
    let line =
        format!("{device},\"应变计\",succeeded,30,30,0,0,true,2019-01-11T13:03:00Z,\"{first}\",2019-01-11T13:03:29Z,\"{last}\"");
    assert!(csv.head.contains("text/csv") && csv.body.lines().nth(1).unwrap().starts_with(&line), "{csv:?}");
    app.stop().await;
}

#[tokio::test]
async fn a_topic_that_has_everything_is_complete() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, first) = app.source.add_rows(300).await;
    let second = app.source.add_device_with_rows(thing, 1_000, 200).await;
    let (task, _) = app.publish(thing, &[first, second]).await;
    // Of another task, between and after its rows.
    app.publish(thing, &[second]).await;
    let lines = verify(&app.http, &task).await;
    let verdicts: Vec<_> = lines.iter().map(|line| (&line["verdict"], &line["published"], &line["found"])).collect();
    let complete = json!("complete");
    let counts = [json!(300), json!(200), json!(500)];
    assert_eq!(verdicts, counts.iter().map(|count| (&complete, count, count)).collect::<Vec<_>>(), "{lines:#?}");
    assert_eq!(
        (&lines[2]["kind"], &lines[2]["completeDevices"], &lines[2]["repeated"]),
        (&json!("summary"), &json!(2), &json!(0))
    );
    app.stop().await;
}

#[tokio::test]
async fn a_verification_of_an_unknown_task_is_refused() {
    let app = TestApp::start(TestSource::empty().await).await;
    let path = format!("/tasks/{}/verify", Uuid::new_v4());
    let refused = app.call("POST", &path, &Value::Null).await;
    assert_eq!((refused.status, &refused.json()["code"]), (404, &json!("unknown_task")));
    app.stop().await;
}

/// Copies messages to another topic, each to its partition and in order.
async fn copy(to: &TestTopic, messages: &[Found]) {
    let producer: ThreadedProducer<_> = ClientConfig::new()
        .set("bootstrap.servers", to.broker.brokers())
        .set("enable.idempotence", "true")
        .create::<ThreadedProducer<rdkafka::producer::DefaultProducerContext>>()
        .unwrap();
    for message in messages {
        let headers = OwnedHeaders::new()
            .insert(Header { key: "data-patch-task", value: Some(&message.task) })
            .insert(Header { key: "data-patch-row", value: Some(&message.row) });
        let record = BaseRecord::to(&to.name).partition(message.partition).key(&message.key).payload(&message.value);
        producer.send(record.headers(headers)).map_err(|(error, _)| error).unwrap();
    }
    tokio::task::spawn_blocking(move || producer.flush(TIMEOUT).unwrap()).await.unwrap();
}

/// Makes the queue believe that a task has published to another topic.
async fn redirect(folder: &TempDir, task: &str, topic: &str) {
    let options = SqliteConnectOptions::new().filename(folder.path().join("queue.db"));
    let mut queue = SqliteConnection::connect_with(&options).await.unwrap();
    queue.execute(AssertSqlSafe(format!("UPDATE task SET topic = '{topic}' WHERE id = '{task}'"))).await.unwrap();
    queue.close().await.unwrap();
}

/// A service with a task of 40 rows whose topic was changed afterwards.
async fn changed_topic(change: impl FnOnce(&mut Vec<Found>)) -> (Vec<Found>, TestApp, String) {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(40).await;
    let (task, _) = app.publish(thing, &[device]).await;
    let messages = app.topic.read().await;
    let mut changed = messages.clone();
    change(&mut changed);
    let other = app.topic.broker.topic().await;
    copy(&other, &changed).await;
    let (folder, source, topic) = (Arc::clone(&app.folder), app.source.clone(), app.topic.clone());
    app.stop().await;
    redirect(&folder, &task, &other.name).await;
    (messages, TestApp::start_on(folder, source, topic, |_| {}).await, task)
}

/// Verifies a task of 40 rows whose topic was changed; returns the messages as they were, and the verdict.
async fn verify_changed_topic(change: impl FnOnce(&mut Vec<Found>)) -> (Vec<Found>, Value) {
    let (messages, app, task) = changed_topic(change).await;
    let mut lines = verify(&app.http, &task).await;
    app.stop().await;
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert_eq!(lines[0]["verdict"], lines[1]["verdict"], "{lines:#?}");
    (messages, lines.remove(0))
}

#[tokio::test]
async fn rows_that_are_missing_altered_or_unexpected_are_named() {
    let (messages, verdict) = verify_changed_topic(|messages| {
        // The removed row's place is taken by one that the task did not publish.
        messages[10].row = of_another_key(&messages[10].row);
        messages[20].value = messages[20].value.replace("deviceId", "deviceID");
    })
    .await;
    assert_eq!(verdict["verdict"], "differs");
    let row = |number: usize| json!([messages[number].row]);
    let unexpected = json!([of_another_key(&messages[10].row)]);
    let named = [("missing", row(10)), ("altered", row(20)), ("unexpected", unexpected)];
    for (what, rows) in named {
        assert_eq!((&verdict[what], &verdict[format!("{what}Count")]), (&rows, &json!(1)), "{what}: {verdict:#}");
    }
}

#[tokio::test]
async fn a_further_copy_with_another_document_is_named() {
    let (messages, verdict) = verify_changed_topic(|messages| {
        let mut copy = messages[20].clone();
        copy.value = copy.value.replace("deviceId", "deviceID");
        // The row in whose place it comes is then missing.
        messages[21] = copy;
    })
    .await;
    let named = |what: &str, number: usize| assert_eq!(verdict[what], json!([messages[number].row]), "{verdict:#}");
    named("altered", 20);
    named("missing", 21);
    assert_eq!(verdict["repeated"], 1);
}

#[tokio::test]
async fn a_topic_that_was_made_anew_proves_nothing() {
    let (_, verdict) = verify_changed_topic(|messages| messages.truncate(5)).await;
    assert_eq!(verdict["verdict"], "unknown");
    assert!(verdict["reason"].as_str().unwrap().contains("made anew"), "{verdict:#}");
}

#[tokio::test]
async fn offsets_that_the_topic_has_removed_prove_nothing() {
    let app = TestApp::start(TestSource::empty().await).await;
    if !app.topic.broker.is_real() {
        // The embedded broker removes no messages.
        return app.stop().await;
    }
    let (thing, device) = app.source.add_rows(30).await;
    let (task, _) = app.publish(thing, &[device]).await;
    let partition = app.topic.read().await[0].partition;
    for (before, begins) in [(Offset::Offset(10), 10), (Offset::End, 30)] {
        app.topic.remove_messages(&[(partition, before)]).await;
        let lines = verify(&app.http, &task).await;
        let (device, summary) = (&lines[0], &lines[1]);
        assert_eq!((&device["verdict"], &summary["verdict"]), (&json!("unknown"), &json!("unknown")), "{lines:#?}");
        let expected = format!(
            "partition {partition} begins at offset {begins}, after its first row (offset 0): older messages were removed (retention)"
        );
        assert_eq!((&device["reason"], &device["missingCount"]), (&json!(expected), &json!(0)), "{device:#}");
    }
    app.stop().await;
}

#[tokio::test]
async fn the_first_copy_of_a_row_counts_in_any_number_of_copies() {
    let (messages, verdict) = verify_changed_topic(|messages| {
        // As after a restart: the rows from a checkpoint on come again, and reach further.
        let again = messages[10..].to_vec();
        messages.truncate(25);
        messages.extend(again);
    })
    .await;
    // The receipt ends before the last rows.
    assert_eq!((&verdict["verdict"], &verdict["repeated"]), (&json!("differs"), &json!(15)), "{verdict:#}");
    assert_eq!(verdict["missingCount"], 15, "{verdict:#}");
    assert_eq!(verdict["missing"][0], json!(messages[25].row));
}

#[tokio::test]
async fn commands_show_receipts_and_verify() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(30).await;
    let (task, _) = app.publish(thing, &[device]).await;
    let receipt = run(&app, &["receipt", &task]).await;
    let sum = checksum(&app.topic.read().await);
    assert!(receipt.code == Some(0) && receipt.out.contains(&sum) && receipt.out.contains("0 to 29"), "{receipt:?}");
    assert_eq!(run(&app, &["receipt", &task, "--json"]).await.json()["devices"][0]["checksum"], json!(sum));
    let verified = run(&app, &["verify", &task]).await;
    let line = "1 of 1 devices are complete; 30 of 30 rows are in the topic, with 0 further copies";
    assert!(verified.code == Some(0) && verified.out.starts_with(line), "{verified:?}");
    assert_eq!(run(&app, &["verify", &task, "--quiet"]).await.out, "complete\n");
    app.stop().await;

    let (messages, app, task) = changed_topic(|messages| messages[10].row = of_another_key(&messages[10].row)).await;
    let verified = run(&app, &["verify", &task]).await;
    assert_eq!(verified.code, Some(1), "{verified:?}");
    assert!(verified.out.contains(&format!("missing  {}\n", messages[10].row)), "{verified:?}");
    let lines = run(&app, &["verify", &task, "--json"]).await;
    assert!(lines.code == Some(1) && lines.out.lines().all(|line| line.starts_with('{')), "{lines:?}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_was_killed_has_published_what_its_receipt_says() {
    const ROWS: i64 = 60_000;
    let (folder, source, topic) =
        (tempfile::tempdir().unwrap(), TestSource::empty().await, TestBroker::start().await.topic().await);
    let (thing, device) = source.add_rows(ROWS).await;
    let slow = [("DATA_PATCH_IOTA_PAGE_ROWS", "500"), ("DATA_PATCH_KAFKA_IN_FLIGHT_BYTES", "262144")];
    let process = Process::serve(&folder, &source, &topic, &slow).await;
    let mut client = Client::connect(&process.url).await;
    let task = client.submit(&Client::request(thing, &[device], &topic.name)).await;
    client.until(|line| message(line).starts_with("iota data published(")).await;
    process.kill().await;
    let process = Process::serve(&folder, &source, &topic, &slow).await;
    let mut client = Client::connect(&process.url).await;
    client.attach(&task, 0).await;
    client.until(is_end).await;

    let http = process.url.replace("ws://", "").split('/').next().unwrap().to_owned();
    let receipt = call(&http, "GET", &format!("/tasks/{task}/receipt"), &[], "").await.json();
    let found = topic.read_device(device).await;
    let published = &receipt["devices"][0];
    assert_eq!((&published["published"], &published["checksum"]), (&json!(ROWS), &json!(checksum(&found))));
    assert_eq!(published["repeatedIsExact"], json!(false), "a worker was lost");
    let lines = verify(&http, &task).await;
    assert_eq!(lines[0]["verdict"], "complete", "{lines:#?}");
    let mut copies = BTreeMap::<&str, u64>::new();
    for found in &found {
        *copies.entry(&found.row).or_default() += 1;
    }
    assert_eq!(lines[0]["repeated"], json!(copies.values().map(|copies| copies - 1).sum::<u64>()));
    process.terminate().await;
}
