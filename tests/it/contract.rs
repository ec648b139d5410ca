//! The messages of the contract, to the letter, and the messages in Kafka.

use data_patch::source::sample;
use serde_json::json;
use uuid::Uuid;

use crate::support::{Client, Reading, TestApp, TestBroker, TestSource, doc, message, partition, seqs};

fn sample_request(topic: &str) -> serde_json::Value {
    json!({
        "src": "iota", "token": "123456", "topic": topic, "thingId": sample::BRIDGE.thing_id,
        "devices": sample::BRIDGE.devices, "from": sample::BRIDGE.from, "to": sample::BRIDGE.to,
    })
}

#[tokio::test]
async fn the_sample_request_is_answered_to_the_letter() {
    let app = TestApp::start(TestSource::sample().await).await;
    let mut client = app.client().await;
    client.send(&sample_request(&app.topic.name)).await;
    let created = client.next().await;
    let task = created["payload"]["taskId"].clone();
    assert_eq!(
        created,
        json!({"type": "data-patch", "erorr": null, "res": "ok", "payload": {"taskId": task, "msg": "task created."}})
    );

    let log = client.log().await;
    assert_eq!(seqs(&log), (1..=log.len() as u64).collect::<Vec<_>>());
    let messages: Vec<_> = log.iter().map(message).collect();
    assert!(
        messages.contains(&"device: b34299aa-625e-4404-a580-fde1d7cbc3e8 - 静力水准仪06 has 178 rows to publish"),
        "{messages:#?}"
    );
    assert!(messages.contains(&"iota data published(178 / 178). device: b34299aa-625e-4404-a580-fde1d7cbc3e8"), "{messages:#?}");
    for line in &log {
        assert_eq!((&line["type"], &line["erorr"], &line["res"]), (&json!("theme-data"), &json!(null), &json!("ok")), "{line}");
        assert_eq!(line["payload"]["taskId"], task);
        assert!(line["payload"]["time"].as_str().unwrap().ends_with('Z'));
    }
    let last = log.last().unwrap();
    assert!(message(last).starts_with("task finished: 7 of 7 devices, 1337 rows published, 0 quarantined"), "{last}");
    assert_eq!(last["payload"]["state"], "succeeded");
    app.stop().await;
}

#[tokio::test]
async fn every_row_arrives_byte_for_byte_in_order_with_key_and_headers() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(3_000).await;
    let (task, _) = app.publish(thing, &[device]).await;

    let found = app.topic.read().await;
    assert_eq!(found.iter().map(|found| found.value.clone()).collect::<Vec<_>>(), app.source.docs(device).await);
    for (n, found) in (0..).zip(&found) {
        let time = chrono::DateTime::from_timestamp(1_547_211_780 + n, 0).unwrap();
        let row = format!("{device}/{}/{}", time.format("%Y-%m-%dT%H:%M:%SZ"), app.source.key(n + 1));
        assert_eq!((&found.key, &found.task, &found.row), (&device.to_string(), &task, &row));
    }
    app.stop().await;
}

#[tokio::test]
async fn the_partition_is_the_java_clients() {
    let app = TestApp::start(TestSource::empty().await).await;
    let thing = Uuid::new_v4();
    let devices: Vec<_> = (0..20).map(|_| Uuid::new_v4()).collect();
    for (n, device) in (1..).zip(&devices) {
        app.source.add_device(thing, *device, "倾角计").await;
        app.source.add(&[Reading { id: n, device: *device, time_ms: 1_600_000_000_000, doc: Some(doc(*device, n)) }]).await;
    }
    app.publish(thing, &devices).await;
    let found = app.topic.read().await;
    assert_eq!(found.len(), 20);
    for found in found {
        assert_eq!(found.partition, partition(&found.key), "{}", found.key);
    }
    app.stop().await;
}

#[tokio::test]
async fn a_rerun_is_recognizable_by_its_row_headers() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(5).await;
    let mut client = app.client().await;
    let request = Client::request(thing, &[device], &app.topic.name);
    let first = client.submit(&request).await;
    client.log().await;
    let second = client.submit(&request).await;
    client.log().await;
    let found = app.topic.read().await;
    let rows = |task: &str| found.iter().filter(|found| found.task == task).map(|found| found.row.clone()).collect::<Vec<_>>();
    assert_eq!(rows(&first).len(), 5);
    assert_eq!(rows(&first), rows(&second));
    app.stop().await;
}

#[tokio::test]
async fn a_device_of_another_thing_fails_and_the_others_continue() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(4).await;
    let (_, stranger) = (Uuid::new_v4(), Uuid::new_v4());
    let (_, log) = app.publish(thing, &[stranger, device]).await;
    let failed = log.iter().find(|line| message(line).contains("no such device")).unwrap();
    assert_eq!(failed["res"], "error");
    assert!(failed["erorr"].as_str().unwrap().starts_with("error message: "), "{failed}");
    assert!(message(failed).contains(&stranger.to_string()));
    let last = log.last().unwrap();
    assert_eq!((&last["res"], &last["payload"]["state"]), (&json!("error"), &json!("failed")));
    assert!(message(last).starts_with("task finished: 1 of 2 devices, 4 rows published"), "{last}");
    assert!(message(last).contains(&stranger.to_string()));
    assert_eq!(app.topic.read().await.len(), 4);
    app.stop().await;
}

#[tokio::test]
async fn the_default_topic_is_used_where_none_is_named() {
    let topic = TestBroker::start().await.topic().await;
    let name = topic.name.clone();
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let app = TestApp::start_on(folder, TestSource::empty().await, topic, |overrides| {
        overrides.set(&["kafka", "default_topic"], name);
    })
    .await;
    let (thing, device) = app.source.add_rows(2).await;
    let mut request = Client::request(thing, &[device], "");
    request.as_object_mut().unwrap().remove("topic");
    let mut client = app.client().await;
    client.submit(&request).await;
    client.log().await;
    assert_eq!(app.topic.read().await.len(), 2);
    app.stop().await;
}

/// 2019-01-11T21:03:00 is the time of the first row, in the configured zone.
#[tokio::test]
async fn a_time_without_offset_may_have_a_t_and_a_message_a_byte_order_mark() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(3).await;
    let mut request = Client::request(thing, &[device], &app.topic.name);
    (request["from"], request["to"]) = (json!("2019-01-11T21:03:00"), json!("2019-01-11 21:03:01"));
    let mut client = app.client().await;
    client.send_text(&format!("\u{feff}{request}")).await;
    assert_eq!(message(&client.next().await), "task created.");
    client.log().await;
    assert_eq!(app.topic.read().await.len(), 2);
    app.stop().await;
}

#[tokio::test]
async fn a_reversed_range_is_reported_as_it_was_written() {
    let app = TestApp::start(TestSource::empty().await).await;
    let mut request = Client::request(Uuid::new_v4(), &[Uuid::new_v4()], &app.topic.name);
    (request["from"], request["to"]) = (json!("2019-01-16T00:00:00+0800"), json!("2019-01-15 14:30:00"));
    let mut client = app.client().await;
    client.send(&request).await;
    let reply = client.next().await;
    let expected = "from is after to (\"2019-01-16T00:00:00+0800\" > \"2019-01-15 14:30:00\")";
    assert!(message(&reply).starts_with(expected), "{reply}");
    app.stop().await;
}

#[tokio::test]
async fn several_tasks_share_a_connection() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(500).await;
    let mut client = app.client().await;
    let request = Client::request(thing, &[device], &app.topic.name);
    let mut lines = std::collections::HashMap::<String, Vec<serde_json::Value>>::new();
    for _ in 0..3 {
        client.send(&request).await;
    }
    let mut ended = 0;
    while ended < 3 {
        let line = client.next().await;
        if message(&line) != "task created." {
            ended += usize::from(crate::support::is_end(&line));
            lines.entry(line["payload"]["taskId"].to_string()).or_default().push(line);
        }
    }
    assert_eq!(lines.len(), 3);
    for log in lines.values() {
        assert_eq!(seqs(log), (1..=log.len() as u64).collect::<Vec<_>>());
    }
    app.stop().await;
}

#[tokio::test]
async fn the_same_request_id_creates_nothing_and_attaches() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(3).await;
    let mut request = Client::request(thing, &[device], &app.topic.name);
    request["requestId"] = json!("补数据 2019-01");
    let mut client = app.client().await;
    let task = client.submit(&request).await;
    let log = client.log().await;
    client.send(&request).await;
    let reply = client.next().await;
    assert_eq!(
        reply,
        json!({"type": "data-patch", "erorr": null, "res": "ok",
               "payload": {"taskId": task, "msg": "task attached.", "state": "succeeded"}})
    );
    assert_eq!(client.log().await, log);
    assert_eq!(app.topic.read().await.len(), 3);
    app.stop().await;
}
